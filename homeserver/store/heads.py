"""The heads of rooms move from the versions that bundles were built on, or nothing of a batch is stored.

Another process may have moved a room; then the jobs run again on what it left (``rooms/actor.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import and_, bindparam, exists, select, update

from homeserver.db.errors import Conflict
from homeserver.db.schema.rooms import room_heads, waiting_redactions
from homeserver.db.statements import any_of, any_pair, pairs_text, rows, statement
from homeserver.db.tx import Tx
from homeserver.store.placement import Bundle, RoomHead

_H = room_heads.c
_COLUMNS = ("version", "snapshot_nid", "depth", "extremities")
# No redaction waits for these events.
_UNAWAITED = ~exists(
    select(waiting_redactions.c.by_nid).where(any_of(waiting_redactions.c.target_id, "unseen"))
)
# One room moves on: the update itself finds out whether it was where it must be.
_MOVE, _MOVE_UNAWAITED = (
    statement(
        update(room_heads)
        .where(_H.room_nid == bindparam("of_room"), _H.version == bindparam("from_version"), *conditions)
        .values({name: bindparam(f"new_{name}") for name in _COLUMNS})
        .returning(_H.room_nid)
    )
    for conditions in ((), (_UNAWAITED,))
)
# Of several it is looked at first; they stay there until the commit.
_AT_VERSIONS = and_(any_of(_H.room_nid, "room_nids"), any_pair(_H.room_nid, _H.version, "versions"))
_HEADS, _HEADS_UNAWAITED = (
    statement(select(_H.room_nid).where(_AT_VERSIONS, *conditions).with_for_update(of=room_heads))
    for conditions in ((), (_UNAWAITED,))
)
_BEGUN = statement(select(_H.room_nid).where(any_of(_H.room_nid, "room_nids")))
_PUT = rows(room_heads, "room_nid", *_COLUMNS, keys=("room_nid",), update=_COLUMNS)
_encode = msgspec.json.Encoder().encode


def move_heads(tx: Tx, bundles: Sequence[Bundle]) -> None:
    """Write the heads that bundles leave.

    ``Conflict`` (see ``Tx.require``) where a room is not at the version that its bundle was built on, or a redaction waits
    for an event that a bundle took for unseen.
    """
    old: dict[int, int] = {}  # the versions that rooms must have
    new: dict[int, RoomHead] = {}
    unseen: list[str] = []
    for bundle in bundles:
        if bundle.head is None:
            continue
        before = new.get(bundle.room_nid)
        if before is not None and before.version != bundle.expected_version:
            raise Conflict(f"room {bundle.room_nid} is not at version {bundle.expected_version}")
        old.setdefault(bundle.room_nid, bundle.expected_version)
        new[bundle.room_nid] = bundle.head
        unseen += bundle.unseen
    also = {"unseen": unseen} if unseen else {}
    heads = {room_nid: _row(head) for room_nid, head in new.items()}
    if len(old) == 1 and all(old.values()):
        ((room_nid, version),) = old.items()
        values = {f"new_{name}": value for name, value in zip(_COLUMNS, heads[room_nid], strict=True)}
        move = _MOVE_UNAWAITED if unseen else _MOVE
        tx.require(1, move, of_room=room_nid, from_version=version, **values, **also)
        return
    _check_versions(tx, old, also)
    tx.insert(_PUT, [(room_nid, *row) for room_nid, row in heads.items()])


def _check_versions(tx: Tx, old: dict[int, int], also: dict[str, list[str]]) -> None:
    stored = [(room_nid, version) for room_nid, version in old.items() if version]
    if stored:
        asked = {"room_nids": sorted(room_nid for room_nid, _ in stored), "versions": pairs_text(stored)}
        tx.require(len(stored), _HEADS_UNAWAITED if also else _HEADS, **asked, **also)
    if len(stored) < len(old):
        begun = sorted(room_nid for room_nid, version in old.items() if not version)
        tx.require(0, _BEGUN, room_nids=begun)


def _row(head: RoomHead) -> tuple[int, int, int, str]:
    newest = _encode([one.nid for one in head.extremities]).decode()
    return head.version, head.snapshot.nid, head.depth, newest
