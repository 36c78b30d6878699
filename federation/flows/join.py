"""What a server says of a room that we join: read, verified, put in order and judged, without believing any of it.

The work goes in steps that a thread can do in chunks, as the answer may hold tens of thousands of events:

1. `read_answer`; `Lot.peek`: whose keys are needed, and in which order to go through the events: create events first,
   members last, so that auth events mostly come before what rests on them.
2. `Lot.check` of the create events, and `Lot.find_create`.
3. `Lot.check` of all others, a chunk after the other or several side by side: format, signatures, hashes. What has its
   auth events judged already is judged by them in the same go, while it is parsed. `Lot.take` keeps what came of it; what
   had to wait becomes `ready` when the last of its auth events is judged, and is judged by `Lot.judge` (no recursion).
4. `Lot.held` tells what holds so far, auth events first: it may be stored while the next chunks are checked, for no
   verdict depends on what comes later.
5. `Lot.conclude`: does the state let us in?

Between the steps only texts and names are kept, never all events at once.

An event that does not hold is left out, and with it what rests on it: rooms have events of servers whose keys nobody
has any more. If the answer is to be refused for that, `conclude` says so. What would be missing for no other reason than
that a server or a notary did not answer just now is counted in `awaited`: the keys may be had later.

# spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from federation.auth.select import AUTHORISED_BY, CREATE, StateKey, StateLookup, auth_keys_for
from federation.canonical import MAX_INTEGER
from federation.checks import AuthEvents, check_auth_events, check_state_before, lookup_in, lookup_of
from federation.errors import Malformed
from federation.event import (
    MAX_AUTH_EVENTS,
    Event,
    parse_stored,
    parse_with_texts,
    reference_ids,
    stored_bytes,
)
from federation.hashes import check_content_hash
from federation.ids import EventId, KeyId, RoomId, ServerName, UserId, parse_server_name
from federation.keyring import MAX_KEYS, ServerKeys, is_key_id
from federation.redaction import redact
from federation.signing import required_signers, signature_key_ids, verify_event_signatures
from federation.verdict import Accept, Verdict
from federation.versions import RoomRules

MAX_EVENTS: Final = 500_000
MAX_SERVERS: Final = 20_000
# LIMIT(events that are kept parsed: 2,000 by themselves, and in sets of auth events 2,560)
_REMEMBERED: Final = 2_000
_AUTH_SETS: Final = 256
_MEMBER: Final = "m.room.member"


class _Content(msgspec.Struct):
    membership: Any = None


class _Fields(msgspec.Struct):
    """Of an event that was checked: what its row says."""

    type: str
    sender: str
    state_key: str
    depth: int
    origin_server_ts: int
    prev_events: list[Any]
    content: _Content


class Held(NamedTuple):
    """A state event that holds, as far as it takes to store it."""

    event_id: EventId
    key: StateKey
    sender: UserId
    depth: int
    ts_ms: int
    prev_ids: tuple[EventId, ...]
    auth_ids: tuple[EventId, ...]
    text: bytes  # canonical
    membership: str  # of a membership, as it spells it; else empty


EventKeys = Mapping[ServerName, Mapping[KeyId, bytes]]


class _Answer(msgspec.Struct):
    state: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]
    event: msgspec.Raw = msgspec.Raw()
    members_omitted: bool = False
    servers_in_room: list[str] | None = None


class _PeekContent(msgspec.Struct, frozen=True):
    join_authorised_via_users_server: Any = None


class _Peek(msgspec.Struct):
    """Enough of an event to know whose keys it takes to check it, and when to."""

    type: str = ""
    sender: str = ""
    event_id: str = ""
    origin_server_ts: int = 0
    signatures: dict[str, dict[str, Any]] = {}
    content: _PeekContent = _PeekContent()


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """An answer as it came: texts of events, those of the state by their places among them."""

    texts: list[bytes]
    state: frozenset[int]
    event: bytes
    """The join as the server signed it; empty where it did not send it."""
    members_omitted: bool
    servers: tuple[ServerName, ...]


class _State(msgspec.Struct):
    pdus: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]


def read_answer(body: bytes) -> JoinAnswer:
    """The parts of a body, events unread. Raises Malformed."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not an answer to send_join: {error!s:.200}") from None
    return _read(answer)


def read_state(body: bytes) -> JoinAnswer:
    """The same of an answer that tells the whole state at an event. # spec: server-server-api#get_matrixfederationv1stateroomid"""
    try:
        state = msgspec.json.decode(body, type=_State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not the state at an event: {error!s:.200}") from None
    return _read(_Answer(state.pdus, state.auth_chain))


def _read(answer: _Answer) -> JoinAnswer:
    if len(answer.state) + len(answer.auth_chain) > MAX_EVENTS:
        raise Malformed("more events than a room can have")
    places = dict.fromkeys(map(bytes, answer.state))
    state = frozenset(range(len(places)))
    places.update(dict.fromkeys(map(bytes, answer.auth_chain)))
    return JoinAnswer(
        list(places),
        state,
        bytes(answer.event),
        answer.members_omitted,
        tuple(_servers(answer.servers_in_room or ())),
    )


def _servers(names: Sequence[str]) -> Iterator[ServerName]:
    for name in names[:MAX_SERVERS]:
        try:
            yield parse_server_name(name)
        except Malformed:
            continue


@dataclass(frozen=True, slots=True)
class Signatures:
    """Under which key a server signed events (several: each event under all of these), and when the newest of them."""

    server: ServerName
    key_ids: tuple[KeyId, ...]
    newest_ts_ms: int


@dataclass(slots=True)
class _Entry:
    """A verified event: all that is kept of it beside its text."""

    place: int
    event_id: EventId
    key: StateKey
    auth_ids: tuple[EventId, ...]


class Passed(NamedTuple):
    """An event that passed checks 1 to 3."""

    entry: _Entry
    text: bytes
    problem: str | None
    """Why its auth events forbid it; empty: they do not; None: not all of them are judged yet."""


class Checked(NamedTuple):
    """What came of a chunk: events that passed, and servers whose keys lacked, once an event."""

    passed: list[Passed]
    lacking: list[ServerName]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the answer comes to: the state before our join, or why it is refused."""

    state: Mapping[StateKey, EventId]
    problem: str | None = None


class _Auth(NamedTuple):
    """What an event is judged by, alike for all events that cite the same."""

    events: AuthEvents
    lookup: StateLookup
    joins: dict[str, str] | None
    """What was found of plain joins, by the user's server. None where memberships are cited: there users differ."""


class Lot:
    """The events of one answer on their way; see the module.

    `check` may run in several threads side by side, also beside anything else. Of the other steps one at a time.
    """

    def __init__(self, answer: JoinAnswer, room_id: RoomId, rules: RoomRules) -> None:
        self.size = len(answer.texts)
        self.creates = 0
        """So many come before all others: create events, and what cannot even be looked at."""
        self.members_omitted = answer.members_omitted
        self.servers = answer.servers
        self._room_id = room_id
        self._rules = rules
        self._texts: list[bytes] = answer.texts
        self._in_state = answer.state
        self._plan: list[int] = []  # places, in the order of the checks
        self._entries: dict[EventId, _Entry] = {}
        self._waiting: dict[EventId, int] = {}  # event -> how many of its auth events are not judged
        self._children: dict[EventId, list[EventId]] = {}  # auth event -> who waits for it
        self._ready: deque[EventId] = deque()
        self._order: list[EventId] = []  # of what is judged
        self._rejected: dict[EventId, str] = {}
        # Read by `check`, whatever else goes on: an event comes in here when all else is known of it.
        self._judged: set[EventId] = set()
        self._create: Event | None = None
        self._recent: dict[EventId, Event] = {}
        self._auth: dict[tuple[EventId, ...], _Auth] = {}
        self.awaited: Counter[ServerName] = Counter()
        """Servers without whose keys events were left out: how many, of those whose keys may be had later."""

    # --- whose keys ----------------------------------------------------------------------------------

    def peek(self) -> list[Signatures]:
        """The keys that it takes to check all of it."""
        decode = msgspec.json.Decoder(_Peek).decode
        newest: dict[str, dict[tuple[str, ...], int]] = {}  # by server, and the keys it signed with
        creates: list[int] = []
        members: list[int] = []
        others: list[int] = []
        for place, text in enumerate(self._texts):
            try:
                event = decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                creates.append(place)
                continue
            if event.type == _MEMBER:
                members.append(place)
            else:
                (creates if event.type == CREATE[0] else others).append(place)
            servers = [event.sender.partition(":")[2]]
            authoriser_id = event.content.join_authorised_via_users_server
            if event.event_id or isinstance(authoriser_id, str):
                named = (event.event_id, authoriser_id if isinstance(authoriser_id, str) else "")
                servers = list(dict.fromkeys([*servers, *[one.partition(":")[2] for one in named]]))
            for server in servers:
                _note_signature(newest, server, event)
        self.creates = len(creates)
        self._plan = [*creates, *others, *members]
        return [
            Signatures(server, tuple(map(KeyId, key_ids)), newest_ts_ms)
            for server in _servers(list(newest))
            for key_ids, newest_ts_ms in newest[server].items()
        ]

    # --- one by one ----------------------------------------------------------------------------------

    def check(
        self,
        start: int,
        count: int,
        keys: Mapping[ServerName, ServerKeys],
        silent: Collection[ServerName] = frozenset(),
    ) -> Checked:
        """Checks 1 to 3 of a chunk: state events of this room, signed with these keys, redacted where the hash is wrong.

        And check 4, of those whose auth events are judged already. ``silent``: servers some of whose keys may be had later.
        """
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        found = Checked([], [])
        for place in self._plan[start : start + count]:
            try:
                parsed = parse_with_texts(decode(self._texts[place]), self._rules, is_old=True)
            except (Malformed, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            event = parsed.event
            # No event of ours has NUL in a name, and PostgreSQL's text cannot hold it.
            if (
                event.room_id != self._room_id
                or event.state_key is None
                or "\0" in event.type
                or "\0" in event.state_key
            ):
                continue
            required = required_signers(event)
            for_event = {server: keys[server].for_event(event) for server in required if server in keys}
            if silent and (lacking := _lacking(event, required, for_event, silent)):
                found.lacking.extend(lacking)
            elif isinstance(verify_event_signatures(event, required, for_event, parsed.signed), Accept):
                text = parsed.stored
                if not check_content_hash(event.json, event.rules):
                    event = parse_stored(event.event_id, redact(event.json, event.rules), event.rules)
                    text = stored_bytes(event)
                entry = _Entry(place, event.event_id, event.key(), event.auth_event_ids)
                is_due = self._create is not None and self._judged.issuperset(entry.auth_ids)
                found.passed.append(Passed(entry, text, self._judge(event) if is_due else None))
        return found

    def take(self, checked: Checked) -> None:
        """Keep what a chunk brought; of several forms of one event the first."""
        for entry, text, problem in checked.passed:
            event_id = entry.event_id
            if event_id in self._entries:
                continue
            self._entries[event_id] = entry
            self._texts[entry.place] = text
            if problem is not None:
                self._settle(event_id, problem)
                continue
            waits_for = [one for one in dict.fromkeys(entry.auth_ids) if one not in self._judged]
            self._waiting[event_id] = len(waits_for)
            for auth_id in waits_for:
                self._children.setdefault(auth_id, []).append(event_id)
            if not waits_for:
                self._ready.append(event_id)
        self.awaited.update(checked.lacking)

    def find_create(self) -> str | None:
        """Find the room's create event in the state; what is wrong with it, if anything."""
        told = [one for one in self._entries.values() if one.key == CREATE and one.place in self._in_state]
        if len(told) != 1 or told[0].auth_ids:
            return "the state has no create event that holds"
        create = self._load(told[0])
        if create.content.get("room_version", "1") != self._rules.version:
            return "the create event is of another room version"
        self._create = create
        return None

    @property
    def is_ready(self) -> bool:
        """Whether events wait for nothing but to be judged."""
        return bool(self._ready)

    def judge(self, count: int) -> None:
        """Check 4 of so many events that are ready for it, and of what becomes so by that."""
        for _ in range(min(count, self.size)):
            if not self._ready:
                return
            event_id = self._ready.popleft()
            del self._waiting[event_id]
            self._settle(event_id, self._judge(self._load(self._entries[event_id])))

    def _judge(self, event: Event) -> str:
        """Why the auth events forbid an event, all of which are judged; empty where they do not."""
        if event.type == CREATE[0] and self._create is not None and event.event_id != self._create.event_id:
            return "the room has another create event"
        auth = self._auth_of(event)
        if auth.joins is None or self._create is None or not _is_plain_join(event, self._create):
            return _problem_of(check_auth_events(event, auth.events, auth.lookup))
        server = event.sender.partition(":")[2]
        problem = auth.joins.get(server)
        if problem is None:
            problem = auth.joins[server] = _problem_of(check_auth_events(event, auth.events, auth.lookup))
        return problem

    def _settle(self, event_id: EventId, problem: str) -> None:
        if problem:
            self._rejected[event_id] = problem
        self._order.append(event_id)
        self._judged.add(event_id)
        for child in self._children.pop(event_id, ()):
            self._waiting[child] -= 1
            if not self._waiting[child]:
                self._ready.append(child)

    def _auth_of(self, event: Event) -> _Auth:
        auth = self._auth.get(event.auth_event_ids)
        if auth is None:
            auth_ids = [auth_id for auth_id in event.auth_event_ids if auth_id in self._judged]
            events = [self._load(self._entries[auth_id]) for auth_id in auth_ids]
            cited = AuthEvents(events, [one for one in auth_ids if one in self._rejected], self._create)
            users_differ = any(one.type == _MEMBER for one in events)
            auth = _Auth(cited, lookup_in(events, self._rules, self._create), None if users_differ else {})
            if len(auth_ids) <= MAX_AUTH_EVENTS:
                if len(self._auth) >= _AUTH_SETS:
                    self._auth.clear()
                self._auth[event.auth_event_ids] = auth
        return auth

    # --- all together --------------------------------------------------------------------------------

    def conclude(self, join: Event, *, partial: bool = False) -> Conclusion:
        """The state, and whether it lets us in. ``partial``: members may be missing."""
        state: dict[StateKey, EventId] = {}
        for event_id in self._order:
            entry = self._entries[event_id]
            if entry.place not in self._in_state or event_id in self._rejected:
                continue
            if state.setdefault(entry.key, event_id) != event_id:
                return Conclusion({}, f"the state has two events at {entry.key[0]}")
        auth = self._auth_of(join)
        verdict = check_auth_events(join, auth.events, auth.lookup)
        if isinstance(verdict, Accept):
            if partial:
                # What it cites of members is the state there, as far as that is told.
                for one in auth.events.events:
                    if one.type == _MEMBER:
                        state.setdefault(one.key(), one.event_id)
            keys = auth_keys_for(join.rules, join.type, join.sender, join.state_key, join.content)
            events = {key: self._load(self._entries[state[key]]) for key in (CREATE, *keys) if key in state}
            verdict = check_state_before(join, lookup_of(events))
        if not isinstance(verdict, Accept):
            return Conclusion({}, f"it does not let us in: {getattr(verdict, 'reason', '')}")
        return Conclusion(state)

    # --- what comes out ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._order)

    @property
    def dropped(self) -> int:
        """How many events do not hold; of those that are judged or never can be."""
        return self.size - len(self._order) + len(self._rejected)

    def held(self, start: int, count: int) -> list[Held]:
        """The events of a chunk that hold, auth events before what rests on them."""
        decode = msgspec.json.Decoder(_Fields).decode
        found: list[Held] = []
        for event_id in self._order[start : start + count]:
            if event_id in self._rejected:
                continue
            entry = self._entries[event_id]
            text = self._texts[entry.place]
            fields = decode(text)
            word = fields.content.membership if entry.key[0] == _MEMBER else None
            found.append(
                Held(
                    event_id,
                    entry.key,
                    UserId(fields.sender),
                    fields.depth,
                    fields.origin_server_ts,
                    reference_ids(fields.prev_events, self._rules),
                    entry.auth_ids,
                    text,
                    word if isinstance(word, str) else "",
                )
            )
        return found

    def _load(self, entry: _Entry) -> Event:
        event = self._recent.get(entry.event_id)
        if event is None:
            event = parse_stored(entry.event_id, self._texts[entry.place], self._rules)
            if len(self._recent) >= _REMEMBERED:
                self._recent.clear()
            self._recent[entry.event_id] = event
        return event


def _note_signature(newest: dict[str, dict[tuple[str, ...], int]], server: str, event: _Peek) -> None:
    """By server, and the keys it signed with: how new the newest of such events is."""
    known = newest.get(server)
    key_ids = tuple(event.signatures.get(server, ()))
    if known is None or key_ids not in known:
        # LIMIT(more keys of a server are not kept, and others cannot be had)
        key_ids = tuple(filter(is_key_id, signature_key_ids(event.signatures, server)))[:MAX_KEYS]
        if not key_ids or (known is None and len(newest) >= MAX_SERVERS):
            return
        known = newest.setdefault(server, {})
        if key_ids not in known and len(known) >= MAX_KEYS:
            return
    known[key_ids] = max(known.get(key_ids, 0), min(event.origin_server_ts, MAX_INTEGER))


def signers_of(event: Event) -> list[tuple[ServerName, tuple[KeyId, ...]]]:
    """Who must have signed an event, and under which keys they say they did."""
    signatures: Collection[Any] = event.json.get("signatures", {})
    return [(server, signature_key_ids(signatures, server)) for server in sorted(required_signers(event))]


def _is_plain_join(event: Event, create: Event) -> bool:
    """A user lets themselves in, by nobody's leave and not as the room's first.

    Where no membership is cited the rules ask of such an event nothing but what it cites, and whose server it is of. In a
    large room nearly all events are of this kind, and cite the same.
    """
    content = event.content
    return (
        event.type == _MEMBER
        and event.state_key == event.sender
        and content.get("membership") == "join"
        and AUTHORISED_BY not in content
        and event.prev_event_ids != (create.event_id,)
    )


def _problem_of(verdict: Verdict) -> str:
    return "" if isinstance(verdict, Accept) else getattr(verdict, "reason", "not authorised")


def _lacking(
    event: Event, required: Collection[ServerName], keys: EventKeys, silent: Collection[ServerName]
) -> list[ServerName]:
    """The silent servers that say they signed an event, with keys that are not here."""
    lacking: list[ServerName] = []
    for server in sorted(required):
        key_ids = signature_key_ids(event.json["signatures"], server) if server in silent else ()
        if key_ids and not any(key_id in keys.get(server, ()) for key_id in key_ids):
            lacking.append(server)
    return lacking
