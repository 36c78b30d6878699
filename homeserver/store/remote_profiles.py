"""What the rooms show of other servers' users: the names and pictures that their memberships carry.

Nobody tells us of the profiles themselves. Of several rooms the newest membership counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, func, select

from homeserver.db.schema.accounts import accounts
from homeserver.db.schema.rooms import event_json, events, members, redactions
from homeserver.db.statements import any_of, statement
from homeserver.db.tx import Tx
from homeserver.store.device_lists import MemberMove, load_member_moves
from homeserver.store.placement import Membership

_JOINED = members.c.membership == int(Membership.JOIN)
_EVENTS = statement(
    select(events.c.nid, event_json.c.json, redactions.c.by_nid)
    .select_from(
        events.join(event_json, event_json.c.nid == events.c.nid).outerjoin(
            redactions, redactions.c.target_id == events.c.event_id
        )
    )
    .where(any_of(events.c.nid, "nids"))
)
_NEWEST = statement(
    select(members.c.user_nid, func.max(members.c.event_nid))
    .where(and_(any_of(members.c.user_nid, "user_nids"), any_of(members.c.room_nid, "room_nids"), _JOINED))
    .group_by(members.c.user_nid)
)
_REMOTE = statement(
    select(members.c.user_nid)
    .select_from(members.outerjoin(accounts, accounts.c.user_nid == members.c.user_nid))
    .where(and_(members.c.room_nid == bindparam("room_nid"), _JOINED, accounts.c.user_nid.is_(None)))
    .order_by(members.c.user_nid)
    .limit(bindparam("most"))
)

SHOWN = frozenset({"displayname", "avatar_url"})
Shown = dict[str, str | None]
"""Of those two fields; None: there is none (any more)."""


class _Content(msgspec.Struct):
    membership: Any = None
    displayname: Any = None
    avatar_url: Any = None


class _Member(msgspec.Struct):
    content: _Content


class _View(NamedTuple):
    """What a membership says."""

    joined: bool
    shown: Shown


_decode = msgspec.json.Decoder(_Member).decode
_NOTHING = _View(False, {})


def load_renamed(
    tx: Tx, moves: Sequence[MemberMove] | None, room_nids: Collection[int], since: int, upto: int
) -> dict[int, Shown]:
    """What has changed in ``(since, upto]`` of those who were in one of the rooms before and after it.

    ``moves``: how memberships moved, oldest first of each room; None: it is read.
    """
    if moves is None:
        moves = load_member_moves(tx, room_nids, since, upto)
    spans: dict[tuple[int, int], tuple[int, int]] = {}  # from which event to which
    for move in moves:
        first, _ = spans.get((move.room_nid, move.user_nid), (move.prev_nid, 0))
        spans[move.room_nid, move.user_nid] = (first, move.event_nid)
    views = _load_views(tx, {nid for span in spans.values() for nid in span if nid})
    found: dict[int, Shown] = {}
    for (_, user_nid), (first, last) in sorted(spans.items(), key=lambda one: one[1][1]):
        before, after = views.get(first, _NOTHING), views.get(last, _NOTHING)
        if before.joined and after.joined:
            changed = {name: value for name, value in after.shown.items() if before.shown[name] != value}
            if changed:
                found.setdefault(user_nid, {}).update(changed)
    return found


def load_shown(tx: Tx, user_nids: Collection[int], room_nids: Collection[int]) -> dict[int, Shown]:
    """How some users are shown who are in one of the rooms."""
    newest: dict[int, int] = dict(tx.all(_NEWEST, user_nids=list(user_nids), room_nids=list(room_nids)))
    views = _load_views(tx, newest.values())
    return {user_nid: views[nid].shown for user_nid, nid in newest.items() if nid in views}


def load_remote_members(tx: Tx, room_nids: Collection[int], most: int) -> list[int]:
    """The first of other servers' users who are in some rooms."""
    found: dict[int, None] = {}
    for room_nid in room_nids:
        found.update(dict.fromkeys(tx.column(_REMOTE, room_nid=room_nid, most=most)))
        if len(found) >= most:
            break
    return list(found)[:most]


def _load_views(tx: Tx, nids: Collection[int]) -> dict[int, _View]:
    found: dict[int, _View] = {}
    for nid, json, redacted_by in tx.all(_EVENTS, nids=list(nids)) if nids else ():
        content = _decode(json).content
        values = (("displayname", content.displayname), ("avatar_url", content.avatar_url))
        # spec: client-server-api#redactions: only the membership is left of it.
        shown = {
            name: value if isinstance(value, str) and redacted_by is None else None for name, value in values
        }
        found[nid] = _View(content.membership == "join", shown)
    return found
