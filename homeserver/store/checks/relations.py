"""Invariants that are one query each: rows that point nowhere, that disagree, or that are numbered wrongly.

Each query gives the rows that break its rule, a few of them; no rows is what it should find. Written as Core
expressions over the catalogue, so a column that is renamed breaks the import and not the check.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, literal_column, or_, select, union_all

from homeserver.db.schema.accounts import (
    access_tokens,
    account_data,
    accounts,
    devices,
    filters,
    login_tokens,
    openid_tokens,
    profiles,
    receipts,
    refresh_tokens,
    registration_tokens,
)
from homeserver.db.schema.media import media
from homeserver.db.schema.peers import destinations, relays, server_key_answers, server_keys
from homeserver.db.schema.relations import relations
from homeserver.db.schema.rooms import (
    aliases,
    auth_edges,
    client_transactions,
    current_state,
    edges,
    ends,
    event_json,
    event_types,
    events,
    gaps,
    members,
    nid_leases,
    published_rooms,
    redactions,
    room_heads,
    rooms,
    snapshots,
    state_keys,
    state_log,
    timeline,
    user_ids,
    waiting_redactions,
)
from homeserver.db.schema.start import LEASE_NAME, WELL_KNOWN_TYPES
from homeserver.db.schema.stream import changes, followers, stream
from homeserver.store.changes import SKIPPED, Kind
from homeserver.store.checks.accounts import ADDRESSES
from homeserver.store.checks.appservices import APPSERVICES
from homeserver.store.checks.delayed import DELAYED
from homeserver.store.checks.e2ee import ENCRYPTION
from homeserver.store.checks.incoming import INCOMING
from homeserver.store.checks.key_backups import KEY_BACKUPS
from homeserver.store.checks.media import MEDIA
from homeserver.store.checks.moderation import MODERATION
from homeserver.store.checks.oauth import OAUTH
from homeserver.store.checks.outside import OUTSIDE
from homeserver.store.checks.partial import PARTIAL
from homeserver.store.checks.push import PUSH
from homeserver.store.checks.rules import POSITION as _POSITION
from homeserver.store.checks.rules import Rule
from homeserver.store.checks.rules import ahead as _ahead
from homeserver.store.checks.rules import none_of as _none_of
from homeserver.store.checks.rules import points_nowhere as _points_nowhere
from homeserver.store.checks.rules import rule as _rule
from homeserver.store.checks.search import SEARCH
from homeserver.store.checks.sticky import STICKY
from homeserver.store.checks.sync import SYNC
from homeserver.store.past import HOLE, is_past
from homeserver.store.placement import Mark, Membership

_OLDEST_CHANGE = select(func.min(changes.c.pos)).scalar_subquery()
_top = timeline.alias("top")
# How often positions were left free above the oldest change.
_HOLES = (
    select(func.count())
    .where(_top.c.mark == int(Mark.ABOVE_HOLE), _top.c.pos > _OLDEST_CHANGE)
    .scalar_subquery()
)
# How often a restored server began beyond what had been given, and by how much.
_SKIPPED: ColumnElement[int] = literal_column(str(SKIPPED - 1))
_skips = changes.alias("skips")
_SKIPS = (
    select(func.count())
    .where(_skips.c.kind == int(Kind.RESTORED), _skips.c.pos > _OLDEST_CHANGE)
    .scalar_subquery()
)
_EVENT_KEY = events.join(state_keys, state_keys.c.nid == events.c.state_key_nid)


def _of_other_room(name: str, event: ColumnElement[Any], room: ColumnElement[Any]) -> Rule:
    return _rule(
        f"{name} speaks of an event of another room",
        select(event, room).where(events.c.nid == event, events.c.room_nid != room),
    )


_REFERENCES = (
    _points_nowhere(events.c.room_nid, rooms.c.nid),
    _points_nowhere(events.c.type_nid, event_types.c.nid),
    _points_nowhere(events.c.state_key_nid, state_keys.c.nid),
    _points_nowhere(events.c.sender_nid, user_ids.c.nid),
    _points_nowhere(events.c.nid, event_json.c.nid),
    _points_nowhere(events.c.state_before, snapshots.c.nid, events.c.state_before != 0),
    _points_nowhere(state_keys.c.type_nid, event_types.c.nid),
    _points_nowhere(event_json.c.nid, events.c.nid),
    _points_nowhere(timeline.c.event_nid, events.c.nid),
    _points_nowhere(edges.c.child_nid, events.c.nid),
    _points_nowhere(auth_edges.c.child_nid, events.c.nid),
    _points_nowhere(auth_edges.c.parent_nid, events.c.nid),
    _points_nowhere(redactions.c.by_nid, events.c.nid),
    _points_nowhere(waiting_redactions.c.by_nid, events.c.nid),
    _points_nowhere(ends.c.event_nid, events.c.nid),
    _points_nowhere(events.c.state_after, snapshots.c.nid),
    _points_nowhere(relations.c.child_nid, events.c.nid),
    _of_other_room("relations", relations.c.child_nid, relations.c.room_nid),
    _ahead(relations.c.pos),
    _points_nowhere(gaps.c.room_nid, rooms.c.nid),
    _points_nowhere(snapshots.c.room_nid, rooms.c.nid),
    _points_nowhere(snapshots.c.base_nid, snapshots.c.nid),
    _points_nowhere(room_heads.c.room_nid, rooms.c.nid),
    _points_nowhere(room_heads.c.snapshot_nid, snapshots.c.nid, room_heads.c.snapshot_nid != 0),
    _points_nowhere(timeline.c.room_nid, room_heads.c.room_nid),
    _points_nowhere(current_state.c.room_nid, room_heads.c.room_nid),
    _points_nowhere(current_state.c.event_nid, events.c.nid),
    _points_nowhere(state_log.c.room_nid, room_heads.c.room_nid),
    _points_nowhere(members.c.user_nid, user_ids.c.nid),
    _points_nowhere(members.c.room_nid, rooms.c.nid),
    _points_nowhere(members.c.event_nid, events.c.nid, members.c.outside == 0),
    _points_nowhere(client_transactions.c.event_nid, events.c.nid),
    _points_nowhere(aliases.c.room_nid, room_heads.c.room_nid),
    _points_nowhere(aliases.c.creator_nid, user_ids.c.nid),
    _points_nowhere(published_rooms.c.room_nid, room_heads.c.room_nid),
    _points_nowhere(accounts.c.user_nid, user_ids.c.nid),
    _points_nowhere(devices.c.user_nid, accounts.c.user_nid),
    # 0: an administrator's who acts as the user.
    _points_nowhere(access_tokens.c.device_nid, devices.c.nid, access_tokens.c.device_nid != 0),
    _points_nowhere(access_tokens.c.user_nid, accounts.c.user_nid),
    _points_nowhere(refresh_tokens.c.device_nid, devices.c.nid),
    _points_nowhere(login_tokens.c.user_nid, accounts.c.user_nid),
    _points_nowhere(openid_tokens.c.user_nid, accounts.c.user_nid),
    _points_nowhere(profiles.c.user_nid, user_ids.c.nid),
    _points_nowhere(account_data.c.user_nid, accounts.c.user_nid),
    _points_nowhere(account_data.c.room_nid, rooms.c.nid, account_data.c.room_nid != 0),
    _points_nowhere(filters.c.user_nid, accounts.c.user_nid),
    _points_nowhere(receipts.c.room_nid, rooms.c.nid),
    _points_nowhere(receipts.c.user_nid, user_ids.c.nid),
    _points_nowhere(receipts.c.event_nid, events.c.nid),
    _points_nowhere(media.c.user_nid, user_ids.c.nid),
)
_SAME_ROOM = (
    _of_other_room("the timeline", timeline.c.event_nid, timeline.c.room_nid),
    _of_other_room("the current state", current_state.c.event_nid, current_state.c.room_nid),
    _of_other_room("a membership", members.c.event_nid, members.c.room_nid),
    _of_other_room("a client's transaction", client_transactions.c.event_nid, client_transactions.c.room_nid),
    _of_other_room("a receipt", receipts.c.event_nid, receipts.c.room_nid),
    _rule(
        "an event's state is a snapshot of another room",
        select(events.c.nid, snapshots.c.nid).where(
            snapshots.c.nid == events.c.state_before, snapshots.c.room_nid != events.c.room_nid
        ),
    ),
    _rule(
        "a room's head is a snapshot of another room",
        select(room_heads.c.room_nid, snapshots.c.nid).where(
            snapshots.c.nid == room_heads.c.snapshot_nid, snapshots.c.room_nid != room_heads.c.room_nid
        ),
    ),
)
_parent, _child, _redacted = events.alias("parent"), events.alias("child"), events.alias("redacted")
_EVENTS = (
    _rule(
        "an event's state key belongs to another event type",
        select(events.c.nid).select_from(_EVENT_KEY).where(events.c.type_nid != state_keys.c.type_nid),
    ),
    _rule(
        "an outlier or rejected event stands in the timeline",
        select(events.c.nid)
        .select_from(events.join(timeline, timeline.c.event_nid == events.c.nid))
        .where(or_(events.c.state_before.is_(None), events.c.rejected_reason.is_not(None))),
    ),
    _rule(
        "a position is in several timelines",
        select(timeline.c.pos, func.count())
        .where(timeline.c.pos > 0)
        .group_by(timeline.c.pos)
        .having(func.count() > 1),
    ),
    _rule("the timeline has no position 0", select(timeline.c.room_nid).where(timeline.c.pos == 0)),
    _rule(
        "authorisation edges lead between rooms or start at an event that is no state",
        select(_child.c.nid, _parent.c.nid)
        .select_from(
            auth_edges.join(_child, _child.c.nid == auth_edges.c.child_nid).join(
                _parent, _parent.c.nid == auth_edges.c.parent_nid
            )
        )
        .where(
            or_(
                _child.c.room_nid != _parent.c.room_nid,
                _child.c.state_key_nid.is_(None),
                _parent.c.state_key_nid.is_(None),
            )
        ),
    ),
    _rule(
        "a redaction is by another type of event, or redacts in another room",
        select(events.c.nid, redactions.c.target_id)
        .select_from(
            redactions.join(events, events.c.nid == redactions.c.by_nid).outerjoin(
                _redacted, _redacted.c.event_id == redactions.c.target_id
            )
        )
        .where(
            or_(
                events.c.type_nid != WELL_KNOWN_TYPES["m.room.redaction"],
                _redacted.c.room_nid != events.c.room_nid,
            )
        ),
    ),
    _rule(
        "an event in the timeline has a parent that is neither here nor a known gap",
        select(events.c.nid, edges.c.parent_id)
        .select_from(
            edges.join(events, events.c.nid == edges.c.child_nid).join(
                timeline, timeline.c.event_nid == events.c.nid
            )
        )
        .where(
            ~exists(select(literal(1)).where(_parent.c.event_id == edges.c.parent_id)),
            ~exists(
                select(literal(1)).where(
                    gaps.c.room_nid == events.c.room_nid, gaps.c.missing_id == edges.c.parent_id
                )
            ),
        ),
    ),
    _rule(
        "a gap is an event that stands in the timeline",
        select(gaps.c.room_nid, gaps.c.missing_id).where(
            events.c.event_id == gaps.c.missing_id, timeline.c.event_nid == events.c.nid
        ),
    ),
    _rule(
        "a place is marked as what it is not",
        select(timeline.c.room_nid, timeline.c.pos, timeline.c.mark).where(
            or_(
                _none_of(timeline.c.mark, Mark),
                and_(timeline.c.pos < 0, ~is_past(timeline)),
            )
        ),
    ),
    _rule(
        "what was fetched stands in no hole",
        select(timeline.c.room_nid, timeline.c.pos).where(
            timeline.c.pos > 0,
            is_past(timeline),
            ~exists(
                select(literal(1)).where(
                    _top.c.room_nid == timeline.c.room_nid,
                    _top.c.mark == int(Mark.ABOVE_HOLE),
                    _top.c.pos > timeline.c.pos,
                    _top.c.pos <= timeline.c.pos + HOLE,
                )
            ),
        ),
    ),
    _rule(
        "a gap is below a place where no hole is",
        select(gaps.c.room_nid, gaps.c.missing_id, gaps.c.top)
        .select_from(gaps.outerjoin(_top, and_(_top.c.room_nid == gaps.c.room_nid, _top.c.pos == gaps.c.top)))
        .where(gaps.c.top != 0, or_(_top.c.mark.is_(None), _top.c.mark != int(Mark.ABOVE_HOLE))),
    ),
    _rule(
        "a head's version is below the number of its events",
        select(room_heads.c.room_nid, room_heads.c.version)
        .select_from(room_heads.join(timeline, timeline.c.room_nid == room_heads.c.room_nid))
        .where(~is_past(timeline))
        .group_by(room_heads.c.room_nid, room_heads.c.version)
        .having(func.count() > room_heads.c.version),
    ),
    _rule("a head has no version", select(room_heads.c.room_nid).where(room_heads.c.version < 1)),
    _rule(
        "a forgotten room that its user has not left",
        select(members.c.room_nid, members.c.user_nid).where(
            members.c.forgotten != 0,
            _none_of(members.c.membership, [Membership.LEAVE, Membership.BAN]),
        ),
    ),
)
_logged = changes.alias("logged")
_STREAM = (
    _rule("the stream is not one row", select(func.count()).select_from(stream).having(func.count() != 1)),
    _rule(
        "the newest change is not at the position of the stream",
        select(func.max(changes.c.pos)).having(func.max(changes.c.pos) != _POSITION),
    ),
    _rule(
        "the log of changes has holes",
        select(func.min(changes.c.pos), func.max(changes.c.pos), func.count()).having(
            func.count() + HOLE * _HOLES + _SKIPPED * _SKIPS
            != func.max(changes.c.pos) - func.min(changes.c.pos) + 1
        ),
    ),
    _rule(
        "a change is of no known kind",
        select(changes.c.pos, changes.c.kind).where(_none_of(changes.c.kind, Kind)),
    ),
    _rule(
        "an event in the timeline has no change at its position",
        select(timeline.c.pos, timeline.c.event_nid)
        .select_from(timeline.outerjoin(_logged, _logged.c.pos == timeline.c.pos))
        .where(
            timeline.c.pos >= _OLDEST_CHANGE,
            ~is_past(timeline),
            or_(
                _logged.c.pos.is_(None),
                _logged.c.kind != int(Kind.EVENT),
                _logged.c.topic != timeline.c.room_nid,
                _logged.c.ref != timeline.c.event_nid,
            ),
        ),
    ),
    _rule(
        "a change speaks of an event that has no place",
        select(changes.c.pos, changes.c.ref)
        .select_from(
            changes.outerjoin(
                timeline, and_(timeline.c.room_nid == changes.c.topic, timeline.c.pos == changes.c.pos)
            )
        )
        .where(changes.c.kind == int(Kind.EVENT), timeline.c.pos.is_(None)),
    ),
    _rule(
        "a follower has lost changes that it had not read",
        select(followers.c.name, followers.c.pos).where(followers.c.pos < _OLDEST_CHANGE - 1),
    ),
    *(
        _ahead(column)
        for column in (
            timeline.c.pos,
            state_log.c.pos,
            members.c.pos,
            account_data.c.pos,
            receipts.c.pos,
            followers.c.pos,
        )
    ),
)
_ACCOUNTS = (
    *(
        _rule(
            f"{table.name}: a token of another user than its device",
            select(table.c.user_nid, table.c.device_nid).where(
                devices.c.nid == table.c.device_nid, devices.c.user_nid != table.c.user_nid
            ),
        )
        for table in (access_tokens, refresh_tokens)
    ),
    *(
        _rule(
            f"a deactivated account has rows in {table.name}",
            select(accounts.c.user_nid).where(
                accounts.c.deactivated != 0, table.c.user_nid == accounts.c.user_nid
            ),
        )
        for table in (devices, access_tokens, refresh_tokens, login_tokens, openid_tokens)
    ),
    _rule(
        "a refresh token was used and has no seed, or the other way round",
        select(refresh_tokens.c.device_nid).where(
            refresh_tokens.c.used_ts_ms.is_(None) != refresh_tokens.c.seed.is_(None)
        ),
    ),
    _rule(
        "a deactivated account has a password",
        select(accounts.c.user_nid).where(accounts.c.deactivated != 0, accounts.c.password_hash.is_not(None)),
    ),
    _rule(
        "a registration token was used a negative number of times",
        select(registration_tokens.c.token).where(registration_tokens.c.completed < 0),
    ),
    _rule(
        "a receipt is of no known kind", select(receipts.c.room_nid).where(_none_of(receipts.c.kind, [0, 1]))
    ),
)
_PEERS = (
    _points_nowhere(server_keys.c.server_name, server_key_answers.c.server_name),
    _rule(
        "a destination has what has not happened yet",
        select(destinations.c.server_name, destinations.c.caught_up_to).where(
            or_(destinations.c.caught_up_to > stream.c.pos, destinations.c.caught_up_to < 0)
        ),
    ),
    _rule(
        "a destination failed a negative number of times",
        select(destinations.c.server_name).where(destinations.c.failures < 0),
    ),
    _rule(
        "an event is to be sent on that is not here",
        select(relays.c.pos, relays.c.event_nid)
        .select_from(relays.outerjoin(events, events.c.nid == relays.c.event_nid))
        .where(events.c.nid.is_(None)),
    ),
)
_LEASE = select(nid_leases.c.next).where(nid_leases.c.name == LEASE_NAME).scalar_subquery()
_numbered = union_all(
    *(
        select(table.c.nid.label("nid"))
        for table in (rooms, user_ids, event_types, state_keys, events, snapshots, devices)
    )
).subquery("numbered")
_NUMBERS = (
    _rule(
        "there is no lease of numbers",
        select(func.count()).where(nid_leases.c.name == LEASE_NAME).having(func.count() != 1),
    ),
    _rule("a number was used that nobody leased", select(_numbered.c.nid).where(_numbered.c.nid >= _LEASE)),
    _rule(
        "a number stands for two things",
        select(_numbered.c.nid).group_by(_numbered.c.nid).having(func.count() > 1),
    ),
    _rule(
        "an event type has another number than the program's",
        select(event_types.c.type, event_types.c.nid).where(
            or_(
                *(
                    and_(event_types.c.type == name, event_types.c.nid != nid)
                    for name, nid in WELL_KNOWN_TYPES.items()
                )
            )
        ),
    ),
)

RULES: tuple[Rule, ...] = (
    *_REFERENCES,
    *_SAME_ROOM,
    *_EVENTS,
    *_STREAM,
    *_ACCOUNTS,
    *_PEERS,
    *_NUMBERS,
    *ADDRESSES,
    *ENCRYPTION,
    *KEY_BACKUPS,
    *INCOMING,
    *SYNC,
    *OAUTH,
    *OUTSIDE,
    *PARTIAL,
    *MODERATION,
    *PUSH,
    *DELAYED,
    *APPSERVICES,
    *SEARCH,
    *STICKY,
    *MEDIA,
)
