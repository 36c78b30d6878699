"""From rows to keys as others may see them: signatures are merged in, names of devices stand beside.

To keep who knows whom private, a viewer sees on somebody's keys the signatures of that somebody and their own.

# spec: client-server-api#key-and-signature-security
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.e2ee.types import Found, UserKeys, Wanted
from homeserver.store.cross_signing import (
    USAGES,
    USER_SIGNING,
    Signature,
    SigningKey,
    load_signatures,
    load_signing_keys,
)
from homeserver.store.device_keys import load_device_keys
from homeserver.store.remote_lists import RemoteDevice, load_remote_devices

decode = msgspec.json.Decoder().decode
# Users that are read at a time: nobody else waits for the rest of a large request, and no more keys are in memory that the
# answer may have no room for.
USERS_AT_ONCE = 100


class Viewer(NamedTuple):
    """Who looks; another server is nobody."""

    user_nid: int = 0
    user_id: str = ""


Load = Callable[[Tx, Mapping[int, str], Viewer], dict[int, UserKeys]]


async def read_keys(
    database: Database, load: Load, names: Mapping[int, str], viewer: Viewer, wanted: Wanted, found: Found
) -> None:
    """Add what is kept of users to what was found; ``load`` is one of the two below."""
    known = list(names.items())
    for start in range(0, len(known), USERS_AT_ONCE):
        some = dict(known[start : start + USERS_AT_ONCE])
        for nid, keys in (await database.read(load, some, viewer)).items():
            found.add(some[nid], keys.only(wanted[some[nid]]))


def load_local(tx: Tx, names: Mapping[int, str], viewer: Viewer) -> dict[int, UserKeys]:
    """The keys of users of this server as somebody sees them, by user."""
    found = {nid: UserKeys() for nid in names}
    signatures = load_signatures(tx, names)
    for device in load_device_keys(tx, names):
        keys = decode(device.json)
        _sign(keys, names, signatures.get((device.user_nid, device.device_id), ()), viewer)
        found[device.user_nid].devices[device.device_id] = with_name(keys, device.display_name)
        found[device.user_nid].size += len(device.json)
    _add_signing(tx, found, names, signatures, viewer)
    return found


def load_kept(tx: Tx, names: Mapping[int, str], viewer: Viewer) -> dict[int, UserKeys]:
    """The same of users of other servers, as far as their lists are kept."""
    found = {nid: UserKeys() for nid in names}
    for device in load_remote_devices(tx, names):
        found[device.user_nid].devices[device.device_id] = foreign_device(device)
        found[device.user_nid].size += len(device.json)
    _add_signing(tx, found, names, load_signatures(tx, names), viewer)
    return found


def _add_signing(
    tx: Tx,
    found: Mapping[int, UserKeys],
    names: Mapping[int, str],
    signatures: Mapping[tuple[int, str], Sequence[Signature]],
    viewer: Viewer,
) -> None:
    for user_nid, by_usage in load_signing_keys(tx, names).items():
        found[user_nid].signing = build_signing(by_usage, names, signatures, viewer)
        found[user_nid].size += sum(len(one.key) for one in by_usage.values())


def foreign_device(device: RemoteDevice) -> dict[str, Any]:
    """A device of another server."""
    return with_name(decode(device.json), device.display_name)


def build_signing(
    by_usage: Mapping[str, SigningKey],
    names: Mapping[int, str],
    signatures: Mapping[tuple[int, str], Sequence[Signature]],
    viewer: Viewer,
) -> dict[str, dict[str, Any]]:
    """Cross-signing keys by usage; the user-signing key is its owner's alone."""
    found: dict[str, dict[str, Any]] = {}
    for usage, one in by_usage.items():
        if usage == USER_SIGNING and one.user_nid != viewer.user_nid:
            continue
        key = decode(one.key)
        _sign(key, names, signatures.get((one.user_nid, one.public_key), ()), viewer)
        found[usage] = key
    return found


def _sign(
    key: dict[str, Any], names: Mapping[int, str], signatures: Sequence[Signature], viewer: Viewer
) -> None:
    for one in signatures:
        if one.signer_nid == one.target_nid:
            signer = names[one.signer_nid]
        elif one.signer_nid == viewer.user_nid:
            signer = viewer.user_id
        else:
            continue
        key.setdefault("signatures", {}).setdefault(signer, {})[one.key_id] = one.signature


def with_name(keys: dict[str, Any], display_name: str | None) -> dict[str, Any]:
    """Device keys and what is known of the device beside them."""
    keys["unsigned"] = {} if display_name is None else {"device_display_name": display_name}
    return keys


def keys_by_usage(users: Mapping[str, UserKeys], *, with_empty: bool) -> dict[str, Any]:
    """Device keys and cross-signing keys of users in the form that both APIs answer."""
    found: dict[str, Any] = {
        "device_keys": {
            user_id: keys.devices for user_id, keys in users.items() if keys.devices or with_empty
        }
    }
    for usage in USAGES:
        by_user = {user_id: keys.signing[usage] for user_id, keys in users.items() if usage in keys.signing}
        if by_user or with_empty:
            found[f"{usage}_keys"] = by_user
    return found
