"""Profile fields of local users, each as JSON text. spec: client-server-api#profiles"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import BindParameter, and_, bindparam, delete, or_, select

from homeserver.db.schema.accounts import accounts, profiles
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind

# spec: client-server-api#put_matrixclientv3profileuseridkeyname ("the total profile MUST be under 64 KiB")
MAX_PROFILE_BYTES = 65_535

_P = profiles.c
_USER: BindParameter[int] = bindparam("user_nid")
_ALL = statement(select(_P.field, _P.value).where(_P.user_nid == _USER).order_by(_P.field))
_MANY = statement(
    select(_P.user_nid, _P.field, _P.value).where(
        and_(any_of(_P.user_nid, "nids"), or_(_P.field == "displayname", _P.field == "avatar_url"))
    )
)
_PUT = rows(profiles, "user_nid", "field", "value", keys=("user_nid", "field"), update=("value",))
_DROP = statement(
    delete(profiles).where(and_(_P.user_nid == _USER, _P.field == bindparam("the_field"))).returning(_P.field)
)
_ACTIVE = statement(select(1).where(and_(accounts.c.user_nid == _USER, accounts.c.deactivated == 0)))

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """Payload of ``Kind.PROFILE``; ``value`` is None where the field is gone (or null)."""

    user_nid: int
    field: str
    value: Any


class ProfileTooLargeError(Exception):
    """With this field the whole profile would be too large."""


def load_profile(tx: Tx, user_nid: int) -> dict[str, Any] | None:
    """Every field, or None where there is no such account (any more)."""
    found = {field: _decode(value) for field, value in tx.all(_ALL, user_nid=user_nid)}
    if not found and tx.value(_ACTIVE, user_nid=user_nid) is None:
        return None
    return found


def load_names_and_avatars(tx: Tx, user_nids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """``displayname`` and ``avatar_url`` of several users, for member events."""
    found: dict[int, dict[str, Any]] = {}
    for user_nid, field, value in tx.all(_MANY, nids=user_nids):
        found.setdefault(user_nid, {})[field] = _decode(value)
    return found


def put_field(tx: WriteTx, user_nid: int, field: str, value: Any) -> bool:
    """Set a field; False where it had that value already. Raises ProfileTooLargeError."""
    text = _encode(value).decode()
    present: dict[str, str] = dict(tx.all(_ALL, user_nid=user_nid))
    if present.get(field) == text:
        return False
    present[field] = text
    # Each as `"field":value,`: the size of the compact object.
    size = 1 + sum(len(name) + 4 + len(kept.encode()) for name, kept in present.items())
    if size > MAX_PROFILE_BYTES:
        raise ProfileTooLargeError
    tx.insert(_PUT, [(user_nid, field, text)])
    tx.claim(Kind.PROFILE, -user_nid, payload=ProfileChanged(user_nid, field, value))
    return True


def drop_field(tx: WriteTx, user_nid: int, field: str) -> bool:
    """Remove a field; whether it was there."""
    if tx.value(_DROP, user_nid=user_nid, the_field=field) is None:
        return False
    tx.claim(Kind.PROFILE, -user_nid, payload=ProfileChanged(user_nid, field, None))
    return True
