"""What another server is to be told of our users' devices, read back from the tables: for its queue, and after an outage.

1. ``load_device_edus`` gives what lies in ``(after, upto]`` in ascending order of positions; when the other server has
   acknowledged it, ``store.to_device.forget_sent`` lets go of the messages.
2. Of a device only what it is now is told, whatever happened to it in between: an update replaces what was known.
3. ``prev_id`` names what this server was told of the user before. Where that is not known any more it is empty, and the
   other side fetches the whole list.
4. The bytes are canonical JSON: they go into a signed request as they are.
5. Who comes to share a room with the server is told of in whole: every device that there is, and of those that are gone
   that there was something. It may have kept a list from before, if it has not noticed that no room was shared meanwhile.
6. A device without keys is told of to nobody, nor that it goes or has another name. The specification is of two minds: an
   update need not have keys, but the list that updates belong to (``user/devices``) has no place for a device that lacks
   them. No client of another server could see one, nor write to it; what would be told is when somebody logs in.

# spec: server-server-api#device-management
# spec: server-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from federation.canonical import encode
from homeserver.db.tx import Tx
from homeserver.e2ee.assembly import Viewer, load_local
from homeserver.e2ee.types import UserKeys
from homeserver.store.cross_signing import MASTER, SELF_SIGNING
from homeserver.store.device_lists import (
    SIGNING_KEYS,
    load_chain,
    load_changed_accounts,
    load_joined_since,
    load_local_stays,
    load_member_moves,
    load_sharing,
    load_stream_id,
)
from homeserver.store.ids import load_user_names
from homeserver.store.to_device import load_outgoing
from homeserver.store.users import load_account_nids_of


@dataclass(frozen=True, slots=True)
class Due:
    """One destination: the rooms that it is in, and those of them in which it was not yet at ``after``."""

    destination: str
    room_nids: Collection[int]
    fresh_room_nids: Collection[int] = ()


def load_device_edus(tx: Tx, due: Due, after: int, upto: int, most: int) -> list[tuple[int, bytes]]:
    """The first ``most`` EDUs of ``(after, upto]``, each with its position; see the module.

    Several may share a position: then more than ``most`` are given, so that none is cut off.
    """
    found = [*_lists(tx, due, after, upto), *_messages(tx, due.destination, after, upto, most)]
    found.sort(key=lambda one: one[0])
    end = min(most, len(found))
    while 0 < end < len(found) and found[end][0] == found[end - 1][0]:
        end += 1
    return found[:end]


def _messages(tx: Tx, destination: str, after: int, upto: int, most: int) -> Iterator[tuple[int, bytes]]:
    for pos, content in load_outgoing(tx, destination, after, upto, most):
        yield pos, b'{"content":%b,"edu_type":"m.direct_to_device"}' % content.encode()


def _lists(tx: Tx, due: Due, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
    newcomers = _newcomers(tx, due, after, upto)
    changed = load_sharing(tx, load_changed_accounts(tx, after, upto), due.room_nids)
    wanted = sorted(changed.union(newcomers))
    names = load_user_names(tx, wanted)
    keys = load_local(tx, names, Viewer())
    for user_nid in wanted:
        met_at = newcomers.get(user_nid)
        known_upto = after if met_at is None else 0
        yield from _of_user(tx, user_nid, names[user_nid], keys[user_nid], known_upto, upto, met_at)


def _newcomers(tx: Tx, due: Due, after: int, upto: int) -> dict[int, int]:
    """Who did not share a room with the destination at ``after``, with the position from which on they may."""
    if not due.room_nids:
        return {}
    in_rooms, fresh = set(due.room_nids), set(due.fresh_room_nids)
    # Rooms of thousands are not walked for this, but for those that are new to the destination.
    moved = {move.user_nid for move in load_member_moves(tx, due.room_nids, after, upto)}
    candidates = {stay.user_nid for stay in load_local_stays(tx, fresh)} if fresh else set()
    candidates.update(load_account_nids_of(tx, moved))
    found: dict[int, int] = {}
    known: set[int] = set()
    for stay in load_joined_since(tx, candidates) if candidates else ():
        if stay.room_nid not in in_rooms or stay.pos > upto:
            continue
        if stay.pos <= after and stay.room_nid not in fresh:
            known.add(stay.user_nid)
            continue
        # In a room that is new to the destination it met everybody at some moment: the end is late enough.
        met_at = upto if stay.room_nid in fresh else stay.pos
        found[stay.user_nid] = min(found.get(stay.user_nid, upto), met_at)
    return {user_nid: met_at for user_nid, met_at in found.items() if user_nid not in known}


def _of_user(
    tx: Tx, user_nid: int, user_id: str, keys: UserKeys, known_upto: int, upto: int, met_at: int | None
) -> Iterator[tuple[int, bytes]]:
    chain = load_chain(tx, user_nid, known_upto, upto)
    newest = {device_id: pos for pos, device_id in chain}
    previous = load_stream_id(tx, user_nid, known_upto) if met_at is None else 0
    last = max([pos for device_id, pos in newest.items() if device_id != SIGNING_KEYS], default=0)
    for pos, device_id in chain:
        if newest[device_id] != pos:
            continue
        place = pos if met_at is None else max(pos, met_at)
        if device_id == SIGNING_KEYS:
            yield place, _edu("m.signing_key_update", _signing_content(user_id, keys.signing))
            continue
        # What is gone is no news to who comes, but who has a list is to see by the chain that it lacks something.
        if met_at is None or device_id in keys.devices or pos == last:
            yield (
                place,
                _edu("m.device_list_update", _device_content(user_id, device_id, keys, pos, previous)),
            )
        previous = pos


def _device_content(
    user_id: str, device_id: str, keys: UserKeys, stream_id: int, previous: int
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": stream_id,
        "prev_id": [previous] if previous else [],
    }
    device = keys.devices.get(device_id)
    if device is None:
        return {**content, "deleted": True}
    name = device["unsigned"].get("device_display_name")
    if name is not None:
        content["device_display_name"] = name
    return {**content, "keys": without_unsigned(device)}


def _signing_content(user_id: str, signing: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = {f"{usage}_key": signing[usage] for usage in (MASTER, SELF_SIGNING) if usage in signing}
    return {"user_id": user_id, **found}


def without_unsigned(device: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as their owner signed them."""
    return {name: value for name, value in device.items() if name != "unsigned"}


def device_list_content(user_id: str, stream_id: int, keys: UserKeys) -> dict[str, Any]:
    """The answer to ``user/devices``."""
    devices: list[dict[str, Any]] = []
    for device_id, device in keys.devices.items():
        one: dict[str, Any] = {"device_id": device_id, "keys": without_unsigned(device)}
        name = device["unsigned"].get("device_display_name")
        if name is not None:
            one["device_display_name"] = name
        devices.append(one)
    signing = _signing_content(user_id, keys.signing)
    return {**signing, "stream_id": stream_id, "devices": devices}


def _edu(edu_type: str, content: Mapping[str, Any]) -> bytes:
    # What it holds was checked when it was uploaded.
    return encode({"content": content, "edu_type": edu_type})
