"""The sections of an answer: rooms joined, left and stripped, each from its parts. Builders only; no waiting here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.db.tx import Tx
from homeserver.store.account_data import (
    AccountDataChanged,
    AccountDatum,
    load_account_data_of,
    load_account_data_since,
)
from homeserver.store.client_events import ClientEventCache, load_client_events
from homeserver.store.outside import OutsideRow, load_outside, shown_outside
from homeserver.store.placement import Membership
from homeserver.store.receipts import ReceiptChange, load_receipts
from homeserver.store.state import BaseCache
from homeserver.store.stripped import load_stripped_state, strip
from homeserver.store.sync_reads import Summary
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import Standing
from homeserver.sync.bulk import Built, Order, build_rooms
from homeserver.sync.filters import EventFilter, SyncFilter, pick_fields
from homeserver.sync.serialise import (
    NO_EVENTS,
    account_data_event,
    decode_object,
    encode,
    events_object,
    outside_event,
    split_list,
    summary_object,
    timeline_object,
)
from homeserver.sync.timelines import Reader, RoomWork

_AccountData = AccountDataChanged | AccountDatum


@dataclass(slots=True)
class Piece:
    """What an answer says of one room: objects as bytes."""

    timeline: bytes
    state: bytes
    has_events: bool
    summary: bytes | None = None
    members: dict[str, int] = field(default_factory=dict)
    fresh: bool = False
    sticky: frozenset[int] = frozenset()  # of the events in the timeline: those that are sticky

    @staticmethod
    def quiet(upto: int) -> Piece:
        """Of a room in which no event happened."""
        return Piece(timeline_object((), False, upto), NO_EVENTS, has_events=False)


@dataclass(frozen=True, slots=True)
class Want:
    """What one read unit is to load."""

    order: Order | None
    stripped: Mapping[int, Standing]
    outside: Mapping[int, Standing]  # of rooms that this server is not in
    strip_keys: Sequence[int]
    receipts_of: Sequence[int] | None  # rooms whose receipts since the token are asked for
    account_data: bool  # what changed since the token; at an initial sync everything
    initial: bool
    since: int
    upto: int


@dataclass(frozen=True, slots=True)
class Stripped:
    """What is shown of a room to somebody who is not in it: events as bytes, and by whom their membership is.

    ``member``: the last of the events, which is that membership, with all that its room would be shown of it.
    """

    sender: str
    events: list[bytes]
    member: bytes


@dataclass(slots=True)
class Loaded:
    """What it found."""

    pieces: dict[int, Piece] = field(default_factory=dict)
    stripped: dict[int, Stripped] = field(default_factory=dict)
    receipts: dict[int, list[ReceiptChange]] = field(default_factory=dict)
    account_data: list[_AccountData] = field(default_factory=list)


def load_sections(tx: Tx, reader: Reader, want: Want, cache: ClientEventCache, facts: StateFacts) -> Loaded:
    """Everything that an answer needs of the tables, in one read unit."""
    loaded = Loaded()
    if want.order is not None:
        loaded.pieces = write_pieces(build_rooms(tx, reader, want.order, cache, facts), reader)
    if want.stripped:
        loaded.stripped = load_stripped(tx, want.stripped, want.strip_keys, cache, facts.bases)
    if want.outside:
        _load_outside(tx, reader, want, loaded)
    fresh = sorted(nid for nid, piece in loaded.pieces.items() if piece.fresh)
    if want.receipts_of:
        changed = [nid for nid in want.receipts_of if nid not in fresh]
        _add_receipts(tx, loaded, changed, want.since, want.upto)
    if fresh:
        _add_receipts(tx, loaded, fresh, 0, want.upto)
    _load_account_data(tx, reader, want, loaded, fresh)
    return loaded


def _add_receipts(tx: Tx, loaded: Loaded, room_nids: Sequence[int], since: int, upto: int) -> None:
    if room_nids:
        for receipt in load_receipts(tx, room_nids, since, upto):
            loaded.receipts.setdefault(receipt.room_nid, []).append(receipt)


def _load_account_data(tx: Tx, reader: Reader, want: Want, loaded: Loaded, fresh: Sequence[int]) -> None:
    if want.initial:
        loaded.account_data += load_account_data_of(tx, reader.user_nid, [0, *loaded.pieces], want.upto)
        return
    if want.account_data:
        loaded.account_data += load_account_data_since(tx, reader.user_nid, want.since, want.upto)
    if fresh:
        loaded.account_data += load_account_data_of(tx, reader.user_nid, list(fresh), want.upto, deleted=True)


def load_stripped(
    tx: Tx,
    standings: Mapping[int, Standing],
    strip_keys: Sequence[int],
    cache: ClientEventCache,
    bases: BaseCache,
) -> dict[int, Stripped]:
    """The state that people see before they join, as it was when they were invited, and their membership."""
    own = {nid: one.event_nid for nid, one in standings.items() if not one.outside}
    state = load_stripped_state(tx, own.values(), strip_keys, cache, bases)
    events = load_client_events(tx, sorted(own.values()), cache)
    return {
        room_nid: Stripped(
            events[nid].sender,
            [strip(event) for event in (*state.get(nid, ()), events[nid])],
            events[nid].render(),
        )
        for room_nid, nid in own.items()
        if nid in events
    }


def outside_stripped(row: OutsideRow) -> Stripped:
    """The same of a room that this server is not in."""
    event = decode_object(row.event)
    return Stripped(
        event["sender"],
        split_list(row.stripped),
        outside_event(event, row.event_id),
    )


def shown_leave(row: OutsideRow) -> list[bytes]:
    """By which event a membership of a room that this server is not in ended; none where a resolution took it away."""
    return [outside_event(decode_object(row.event), row.event_id)] if row.event_id else []


def _load_outside(tx: Tx, reader: Reader, want: Want, loaded: Loaded) -> None:
    """What other servers told of rooms that this one is not in."""
    for nid, row in load_outside(tx, reader.user_nid, want.outside).items():
        if want.outside[nid].membership in (Membership.INVITE, Membership.KNOCK):
            loaded.stripped[nid] = outside_stripped(row)
        else:
            timeline = timeline_object(_wanted_leave(row, reader, reader.filter.timeline), False, want.upto)
            state = NO_EVENTS
            if reader.state_after:
                state = events_object(_wanted_leave(row, reader, reader.filter.state))
            loaded.pieces[nid] = Piece(timeline, state, has_events=True)


def _wanted_leave(row: OutsideRow, reader: Reader, wanted: EventFilter) -> list[bytes]:
    """As :func:`shown_leave`, as far as a reader wants it in a section."""
    if not row.event_id:
        return []
    event = decode_object(row.event)
    has_url = isinstance(event["content"].get("url"), str)
    if not wanted.rooms.accepts(event["room_id"]) or not wanted.accepts(
        event["type"], event["sender"], has_url
    ):
        return []
    shown, fields = shown_outside(event, row.event_id), reader.filter.event_fields
    return [encode(shown if fields is None else pick_fields(shown, fields))]


def write_pieces(built: Built, reader: Reader) -> dict[int, Piece]:
    """The rooms of ``bulk`` as bytes."""
    pieces: dict[int, Piece] = {}
    for work in built.rooms:
        events = write_timeline(work, built)
        state = built.writer.write_state(work.state, work.replaced, built.events)
        summary = summary_for(work.summary, reader.user_id) if work.summary is not None else None
        pieces[work.room_nid] = Piece(
            timeline_object(events, work.limited, work.start - 1),
            events_object(state),
            bool(events or state or work.limited or (summary and reader.filter.wants_summaries))
            or _is_whole(work),
            summary,
            work.members,
            work.fresh,
            frozenset(one.event.nid for one in work.shown if one.event.sticky_ms),
        )
    return pieces


def write_timeline(work: RoomWork, built: Built) -> list[bytes]:
    """The events of a room's timeline."""
    write, events, sent_as, related = built.writer.write, built.events, built.sent_as, built.related
    return [
        write(
            one.event,
            one.membership,
            events.get(one.previous_nid) if one.previous_nid else None,
            sent_as.get(one.event.nid, b""),
            hide_previous=one.hide_previous,
            relations=related.get(one.event.nid, b""),
        )
        for one in work.shown
    ]


def _is_whole(work: RoomWork) -> bool:
    return work.full or work.fresh


def summary_for(summary: Summary, user_id: str) -> bytes:
    """A room's summary as one member gets it."""
    heroes = summary.heroes(user_id) if summary.unnamed else None
    return summary_object(summary.joined, summary.invited, heroes)


def joined_room(
    piece: Piece, state_name: bytes, ephemeral: Sequence[bytes], account: Sequence[bytes], counts: bytes
) -> bytes:
    """A room of the ``join`` section."""
    parts = [b'{"timeline":', piece.timeline]
    if state_name:
        parts += [b',"', state_name, b'":', piece.state]
    parts += [b',"ephemeral":{"events":[', b",".join(ephemeral), b']},"account_data":{"events":[']
    parts += [b",".join(account), b"]},", counts]
    if piece.summary is not None:
        parts += [b',"summary":', piece.summary]
    parts.append(b"}")
    return b"".join(parts)


def left_room(piece: Piece, state_name: bytes, account: Sequence[bytes]) -> bytes:
    """A room of the ``leave`` section."""
    return b'{"timeline":%b,"%b":%b,"account_data":%b}' % (
        piece.timeline,
        state_name,
        piece.state,
        events_object(account),
    )


def stripped_rooms(
    names: Mapping[int, str],
    standings: Mapping[int, Standing],
    found: Mapping[int, Stripped],
    membership: Membership,
    hidden: Container[str],
) -> dict[str, bytes]:
    """The rooms of the ``invite`` or the ``knock`` section; ``hidden``: whose invites are not shown."""
    rooms: dict[str, bytes] = {}
    for room_nid, standing in standings.items():
        stripped = found.get(room_nid)
        if standing.membership != membership or stripped is None or room_nid not in names:
            continue
        if membership == Membership.INVITE and stripped.sender in hidden:
            # spec: client-server-api#ignoring-users
            # spec: client-server-api#invite-permission
            continue
        # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4319
        # COMPAT(clients that look for it there, until two releases after the specification has `state`): whole, in both.
        name = b"invite_state" if membership == Membership.INVITE else b"knock_state"
        shown = events_object([*stripped.events[:-1], stripped.member])
        rooms[names[room_nid]] = b'{"%b":%b,"state":%b}' % (name, shown, events_object([stripped.member]))
    return rooms


def rooms_section(sections: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """The ``rooms`` member, or nothing."""
    parts = []
    for name, rooms in sections.items():
        if rooms:
            inner = b",".join([encode(room_id) + b":" + body for room_id, body in rooms.items()])
            parts.append(b'"' + name.encode() + b'":{' + inner + b"}")
    return b'"rooms":{' + b",".join(parts) + b"}" if parts else b""


def account_data_by_room(found: Iterable[_AccountData], filter_: SyncFilter) -> dict[int, dict[str, bytes]]:
    """Account data as events, the newest of each type, by room (0: the account's)."""
    result: dict[int, dict[str, bytes]] = {}
    for one in found:
        wanted = filter_.room_account_data if one.room_nid else filter_.account_data
        if wanted.everything or wanted.accepts_type(one.type):
            result.setdefault(one.room_nid, {})[one.type] = account_data_event(one.type, one.content)
    return result
