"""What a server says of a room that we join: read, verified, put in order and judged, without believing any of it.

The work goes in steps that a thread can do in chunks, as the answer may hold tens of thousands of events:

1. `read_answer`; `Lot.peek`: whose keys are needed, and in which order to go through the events: create events first,
   members last, so that auth events mostly come before what rests on them.
2. `join_events.check_events` of the create events (`Lot.texts`, `Lot.terms`), and `Lot.find_create`.
3. The same of all others, a chunk after the other or several side by side: format, signatures, hashes. `Lot.take` keeps what
   came of it; what has its auth events judged is `ready`, and is judged by `Lot.judge` (no recursion).
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

from federation.auth.select import CREATE, StateKey, StateLookup, auth_keys_for
from federation.canonical import MAX_INTEGER
from federation.checks import AuthEvents, check_auth_events, check_state_before, lookup_in, lookup_of
from federation.errors import Malformed
from federation.event import (
    MAX_AUTH_EVENTS,
    MAX_PDU_BYTES,
    Event,
    parse_stored,
    reference_ids,
)
from federation.flows.join_events import Checked, Terms
from federation.ids import EventId, KeyId, RoomId, ServerName, UserId, parse_server_name
from federation.keyring import MAX_KEYS, ServerKeys, is_key_id
from federation.signing import required_signers, signature_key_ids
from federation.verdict import Accept, Verdict
from federation.versions import RoomRules

MAX_EVENTS: Final = 500_000
MAX_SERVERS: Final = 20_000
# LIMIT(the text of an event: a PDU with its `unsigned`, all of it in escapes. What is longer is left out undecoded)
MAX_TEXT_BYTES: Final = 4 * MAX_PDU_BYTES
# LIMIT(what an answer consists of, before any of it is decoded: a list of millions of nothing costs a hundred times its text.
# An event has a comma for each twenty bytes or more)
_FEW_COMMAS: Final = 100_000
_COMMA_BYTES: Final = 12
_MAX_COMMAS: Final = 25 * MAX_EVENTS
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
    _check_commas(body)
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not an answer to send_join: {error!s:.200}") from None
    return _read(answer)


def read_state(body: bytes) -> JoinAnswer:
    """The same of an answer that tells the whole state at an event. # spec: server-server-api#get_matrixfederationv1stateroomid"""
    _check_commas(body)
    try:
        state = msgspec.json.decode(body, type=_State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not the state at an event: {error!s:.200}") from None
    return _read(_Answer(state.pdus, state.auth_chain))


def _check_commas(body: bytes) -> None:
    if body.count(b",") > min(_FEW_COMMAS + len(body) // _COMMA_BYTES, _MAX_COMMAS):
        raise Malformed("an answer that is too complex")


def _read(answer: _Answer) -> JoinAnswer:
    if len(answer.state) + len(answer.auth_chain) > MAX_EVENTS:
        raise Malformed("more events than a room can have")
    places = dict.fromkeys(_texts(answer.state))
    state = frozenset(range(len(places)))
    places.update(dict.fromkeys(_texts(answer.auth_chain)))
    return JoinAnswer(
        list(places),
        state,
        bytes(answer.event),
        answer.members_omitted,
        tuple(_servers(answer.servers_in_room or ())),
    )


def _texts(events: Sequence[msgspec.Raw]) -> Iterator[bytes]:
    texts = map(bytes, events)
    return (text for text in texts if len(text) <= MAX_TEXT_BYTES)


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
    is_plain_join: bool


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
    """What was found of plain joins, by the user's server. None where memberships are cited: there users differ.

    A plain join is one by which a user lets themselves in, by nobody's leave and not as the room's first. Where no membership
    is cited the rules ask of it nothing but what it cites, and whose server it is of. In a large room nearly all events are
    of this kind, and cite the same.
    """


class Lot:
    """The events of one answer on their way; see the module.

    Its steps one at a time; what `check_events` is given may be checked beside anything.
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

    def terms(
        self, keys: Mapping[ServerName, ServerKeys], silent: Collection[ServerName] = frozenset()
    ) -> Terms:
        """What the events are checked by. ``silent``: servers some of whose keys may be had later."""
        create_id = None if self._create is None else self._create.event_id
        return Terms(self._room_id, self._rules.version, keys, frozenset(silent), create_id)

    def texts(self, start: int, count: int) -> list[bytes]:
        """The texts of a chunk."""
        return [self._texts[place] for place in self._plan[start : start + count]]

    def take(self, start: int, checked: Checked) -> None:
        """Keep what the chunk from ``start`` on brought; of several forms of one event the first."""
        for passed in checked.passed:
            event_id, auth_ids = passed.event_id, passed.auth_ids
            if event_id in self._entries:
                continue
            place = self._plan[start + passed.place]
            key = (passed.type, passed.state_key)
            self._entries[event_id] = _Entry(place, event_id, key, auth_ids, passed.is_plain_join)
            if passed.text is not None:
                self._texts[place] = passed.text
            if self._judged.issuperset(auth_ids):
                self._ready.append(event_id)
                continue
            waits_for = [one for one in dict.fromkeys(auth_ids) if one not in self._judged]
            self._waiting[event_id] = len(waits_for)
            for auth_id in waits_for:
                self._children.setdefault(auth_id, []).append(event_id)
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
            self._settle(event_id, self._judge(self._entries[event_id]))

    def _judge(self, entry: _Entry) -> str:
        """Why the auth events forbid an event, all of which are judged; empty where they do not."""
        if entry.key[0] == CREATE[0] and self._create is not None and entry.event_id != self._create.event_id:
            return "the room has another create event"
        auth = self._auth_of(entry.auth_ids)
        if auth.joins is None or not entry.is_plain_join:
            return _problem_of(check_auth_events(self._load(entry), auth.events, auth.lookup))
        server = entry.key[1].partition(":")[2]  # of a join the sender's
        problem = auth.joins.get(server)
        if problem is None:
            verdict = check_auth_events(self._load(entry), auth.events, auth.lookup)
            problem = auth.joins[server] = _problem_of(verdict)
        return problem

    def _settle(self, event_id: EventId, problem: str) -> None:
        if problem:
            self._rejected[event_id] = problem
        self._order.append(event_id)
        self._judged.add(event_id)
        for child in self._children.pop(event_id, ()):
            self._waiting[child] -= 1
            if not self._waiting[child]:
                del self._waiting[child]
                self._ready.append(child)

    def _auth_of(self, cited: tuple[EventId, ...]) -> _Auth:
        auth = self._auth.get(cited)
        if auth is None:
            auth_ids = [auth_id for auth_id in cited if auth_id in self._judged]
            events = [self._load(self._entries[auth_id]) for auth_id in auth_ids]
            rejected = [one for one in auth_ids if one in self._rejected]
            users_differ = any(one.type == _MEMBER for one in events)
            auth = _Auth(
                AuthEvents(events, rejected, self._create),
                lookup_in(events, self._rules, self._create),
                None if users_differ else {},
            )
            if len(auth_ids) <= MAX_AUTH_EVENTS:
                if len(self._auth) >= _AUTH_SETS:
                    self._auth.clear()
                self._auth[cited] = auth
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
        auth = self._auth_of(join.auth_event_ids)
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


def _problem_of(verdict: Verdict) -> str:
    return "" if isinstance(verdict, Accept) else getattr(verdict, "reason", "not authorised")
