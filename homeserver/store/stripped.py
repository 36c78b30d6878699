"""Stripped state: what somebody who is not in a room is told of it, as it was when they were invited or knocked.

Where that is not known, since this server came into the room later, it is what the room is now.

# spec: client-server-api#stripped-state
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from homeserver.db.tx import Tx
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_client_events
from homeserver.store.events import load_head, load_rows
from homeserver.store.history import find_member_keys
from homeserver.store.state import BaseCache, load_snapshots

_encode = msgspec.json.Encoder().encode


def load_stripped_state(
    tx: Tx, nids: Collection[int], strip_keys: Sequence[int], cache: ClientEventCache, bases: BaseCache
) -> dict[int, list[ClientEvent]]:
    """For each of some membership events what comes with it: the state at ``strip_keys``, and who sent it.

    The sender's own membership is not demanded by the specification; clients show by it who it is that invites.
    """
    befores: dict[int, int] = {}
    for row in load_rows(tx, nids).values():
        before = row.state_before
        if before is None:
            head = load_head(tx, row.room_nid)
            before = head.snapshot_nid if head is not None else None
        if before:
            befores[row.nid] = before
    if not befores:
        return {}
    snapshots = load_snapshots(tx, sorted(set(befores.values())), bases)
    senders = {nid: event.sender for nid, event in load_client_events(tx, sorted(befores), cache).items()}
    members = find_member_keys(tx, sorted(set(senders.values())))
    wanted: dict[int, list[int]] = {}
    for nid, before in befores.items():
        snapshot = snapshots.get(before)
        if snapshot is not None:
            keys = [*strip_keys, members.get(senders.get(nid, ""), 0)]
            wanted[nid] = [found for key in keys if key and (found := snapshot.get(key))]
    events = load_client_events(tx, sorted({nid for found in wanted.values() for nid in found}), cache)
    return {nid: [events[one] for one in found if one in events] for nid, found in wanted.items()}


def strip(event: ClientEvent) -> bytes:
    """An event with nothing but what strangers may see of it."""
    return b'{"content":%b,"sender":%b,"state_key":%b,"type":%b}' % (
        event.content,
        _encode(event.sender),
        _encode(event.state_key or ""),
        _encode(event.type),
    )
