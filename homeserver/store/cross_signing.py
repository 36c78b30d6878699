"""Cross-signing keys, and the signatures that users add to their own and to each other's keys.

# spec: client-server-api#cross-signing
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, select

from homeserver.db.schema.accounts import devices
from homeserver.db.schema.e2ee import key_signatures, signature_changes, signing_keys
from homeserver.db.statements import any_of, rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.changes import Kind
from homeserver.store.device_lists import note_list_change, note_signing_change

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"
USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)

_K = signing_keys.c
_S = key_signatures.c
_OF_USERS = statement(
    select(_K.user_nid, _K.usage, _K.public_key, _K.key).where(any_of(_K.user_nid, "user_nids"))
)
_PUT = rows(
    signing_keys,
    "user_nid",
    "usage",
    "public_key",
    "key",
    keys=("user_nid", "usage"),
    update=("public_key", "key"),
)
_DROP = statement(
    delete(signing_keys).where(and_(_K.user_nid == bindparam("of_user"), any_of(_K.usage, "usages")))
)
_PUT_SIGNATURE = rows(
    key_signatures,
    "target_nid",
    "target_id",
    "signer_nid",
    "key_id",
    "signature",
    keys=("target_nid", "target_id", "signer_nid", "key_id"),
    update=("signature",),
)
_SIGNATURES = statement(
    select(_S.target_nid, _S.target_id, _S.signer_nid, _S.key_id, _S.signature).where(
        any_of(_S.target_nid, "target_nids")
    )
)
_ON = _S.target_nid == bindparam("of_target")
_DROP_ON = statement(delete(key_signatures).where(and_(_ON, any_of(_S.target_id, "target_ids"))))
_DROP_BY = statement(
    delete(key_signatures).where(and_(_S.signer_nid == bindparam("of_signer"), any_of(_S.key_id, "key_ids")))
)
_C = signature_changes.c
_PUT_CHANGE = rows(
    signature_changes, "signer_nid", "target_nid", "pos", keys=("signer_nid", "target_nid"), update=("pos",)
)
_SIGNED_SINCE = statement(
    select(_C.target_nid).where(
        and_(
            _C.signer_nid == bindparam("signer_nid"),
            _C.pos > bindparam("since"),
            _C.pos <= bindparam("upto"),
        )
    )
)
_DEVICE_NAMED = statement(
    select(devices.c.nid).where(
        and_(devices.c.user_nid == bindparam("user_nid"), any_of(devices.c.device_id, "device_ids"))
    )
)


_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SigningKey(NamedTuple):
    """A cross-signing key; ``key`` is its JSON text."""

    user_nid: int
    usage: str
    public_key: str
    key: str

    def says_the_same(self, other: SigningKey) -> bool:
        """Whether a signature of the one is one of the other, too."""
        return say_the_same(self.key, other.key)


def say_the_same(one: str, other: str) -> bool:
    """Whether signatures are all in which two keys (as JSON text) differ."""
    return one == other or _bare(one) == _bare(other)


def _bare(key: str) -> dict[str, Any]:
    return {name: field for name, field in _decode(key).items() if name != "signatures"}


class Signature(NamedTuple):
    """One signature on the key of a device or on a master key."""

    target_nid: int
    target_id: str
    signer_nid: int
    key_id: str
    signature: str


@dataclass(frozen=True, slots=True)
class OthersSigned:
    """Payload of ``Kind.SIGNING_KEYS`` where ``ref`` is a user: whose key the topic's user signed."""

    target_nid: int


class KeyIdInUseError(Exception):
    """A device has the name that this public key would have."""


def load_signing_keys(tx: Tx, user_nids: Collection[int]) -> dict[int, dict[str, SigningKey]]:
    """The cross-signing keys of users, by usage."""
    found: dict[int, dict[str, SigningKey]] = {}
    for row in tx.all(_OF_USERS, user_nids=list(user_nids)):
        found.setdefault(row[0], {})[row[1]] = SigningKey(*row)
    return found


def put_signing_keys(tx: WriteTx, user_nid: int, keys: Sequence[SigningKey]) -> bool:
    """Store a user's own keys; whether there is a new one. Raises KeyIdInUseError.

    A key that is replaced takes the signatures along that were made with it, and those on it; one that says something
    else than before only the latter.
    """
    known = load_signing_keys(tx, [user_nid]).get(user_nid, {})
    fresh = [one for one in keys if known.get(one.usage) != one]
    if not fresh:
        return False
    # spec: client-server-api#cross-signing (device ids and public keys share one namespace)
    if tx.all(_DEVICE_NAMED, user_nid=user_nid, device_ids=[one.public_key for one in fresh]):
        raise KeyIdInUseError
    replaced = [(known[one.usage], one) for one in fresh if one.usage in known]
    used = {one.public_key for one in fresh}
    gone = [old.public_key for old, _ in replaced if old.public_key not in used]
    if gone:
        tx.run(_DROP_BY, of_signer=user_nid, key_ids=[f"ed25519:{public_key}" for public_key in gone])
    changed = [old.public_key for old, new in replaced if not new.says_the_same(old)]
    if changed:
        drop_signatures_on(tx, user_nid, changed)
    tx.insert(_PUT, [tuple(one) for one in fresh])
    note_signing_change(tx, user_nid)
    return True


def replace_foreign_keys(tx: WriteTx, user_nid: int, keys: Sequence[SigningKey]) -> None:
    """What another server says of its user's keys is all that there is; nobody is told here."""
    tx.run(_DROP, of_user=user_nid, usages=list(USAGES))
    tx.insert(_PUT, [tuple(one) for one in keys])


def put_foreign_keys(tx: WriteTx, keys: Sequence[SigningKey]) -> None:
    """As :func:`replace_foreign_keys`, of those keys that another server spoke of."""
    tx.insert(_PUT, [tuple(one) for one in keys])


def is_signing_key(tx: Tx, user_nid: int, name: str) -> bool:
    """Whether a name is the public key of one of the user's cross-signing keys."""
    keys = load_signing_keys(tx, [user_nid]).get(user_nid, {})
    return any(one.public_key == name for one in keys.values())


def load_signatures(tx: Tx, target_nids: Collection[int]) -> dict[tuple[int, str], list[Signature]]:
    """Every signature on keys of users, by whose key and which."""
    found: dict[tuple[int, str], list[Signature]] = {}
    for row in tx.all(_SIGNATURES, target_nids=list(target_nids)):
        found.setdefault((row[0], row[1]), []).append(Signature(*row))
    return found


def put_signatures(
    tx: WriteTx, signer_nid: int, signatures: Sequence[Signature], own: Mapping[str, bool]
) -> None:
    """Add signatures. ``own``: what they are on, as far as it is the signer's own, and whether it is a device."""
    known = load_signatures(tx, {one.target_nid for one in signatures})
    fresh = [one for one in signatures if one not in known.get((one.target_nid, one.target_id), ())]
    if not fresh:
        return
    tx.insert(_PUT_SIGNATURE, [tuple(one) for one in fresh])
    touched = {one.target_id for one in fresh if one.target_nid == signer_nid}
    signed_devices = sorted(name for name in touched if own.get(name))
    if signed_devices:
        note_list_change(tx, signer_nid, signed_devices)
    if touched.difference(signed_devices):
        note_signing_change(tx, signer_nid)
    for target_nid in sorted({one.target_nid for one in fresh} - {signer_nid}):
        _note_other_signed(tx, signer_nid, target_nid)


def _note_other_signed(tx: WriteTx, signer_nid: int, target_nid: int) -> None:
    """A signature on somebody else's key is seen by its signer alone, on all of their devices."""

    def write(tx: Tx, pos: int) -> None:
        tx.insert(_PUT_CHANGE, [(signer_nid, target_nid, pos)])

    tx.claim(Kind.SIGNING_KEYS, -signer_nid, target_nid, write, OthersSigned(target_nid))


def load_others_signed(tx: Tx, signer_nid: int, since: int, upto: int) -> list[int]:
    """Whose keys a user signed in ``(since, upto]``."""
    return tx.column(_SIGNED_SINCE, signer_nid=signer_nid, since=since, upto=upto)


def drop_signatures_on(tx: WriteTx, target_nid: int, target_ids: Sequence[str]) -> None:
    """The keys are not what was signed any more."""
    tx.run(_DROP_ON, of_target=target_nid, target_ids=list(target_ids))


def drop_signatures_of_devices(tx: WriteTx, user_nid: int, device_ids: Sequence[str]) -> None:
    """Devices are gone: what was signed about them, and by them."""
    drop_signatures_on(tx, user_nid, device_ids)
    tx.run(_DROP_BY, of_signer=user_nid, key_ids=[f"ed25519:{device_id}" for device_id in device_ids])
