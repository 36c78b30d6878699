"""Rooms of sliding sync from the tables, in one read unit: what the log does not reach back to, or never tells.

Timelines are those of ``sync.timelines``; the state is that at the end of the timeline, as far as it is wanted.

proposal: MSC4186 (room results, lazily loaded memberships)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.db.tx import Ask, Tx
from homeserver.store.client_events import ClientEvent, ClientEventCache, load_client_events
from homeserver.store.sliding_reads import ask_state_of_types, load_state_of_types
from homeserver.store.sync_reads import ask_counts, load_summaries
from homeserver.store.timeline import load_member_keys, load_state, undo
from homeserver.store.visibility_reads import StateFacts
from homeserver.stream.index import Standing
from homeserver.sync.bulk import Built
from homeserver.sync.lazy import Sent
from homeserver.sync.sections import write_timeline
from homeserver.sync.serialise import Writer
from homeserver.sync.sliding.extras import ExtrasWanted, ask_extras
from homeserver.sync.sliding.news import NULL, Hero, RoomNews, RoomOrder, RoomSummary, names_of, stub
from homeserver.sync.sliding.required import Choices, Required, is_lazy
from homeserver.sync.timelines import Reader, RoomWork, Timelines, is_membership_of, text_in

_MEMBER = "m.room.member"
_NAMING = frozenset({"m.room.name", "m.room.avatar"})
# LIMIT(members who changed in a gap, of a client that loads them as it needs them: beyond it asks for those it shows)
GAP_MEMBERS_MOST = 1_000
# Rooms times users are looked up, although each room has a few of its own: so many at once.
_PAIRS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class RoomsWanted:
    """What is to be told of which rooms."""

    joined: Sequence[RoomOrder]
    gone: Sequence[RoomOrder]
    since: int  # the request's position: what came after it has just occurred; 0: nothing has
    upto: int
    sent: Mapping[int, Sent]  # the members that the client has
    names: Mapping[int, str]
    extras: ExtrasWanted  # what is read after them


@dataclass(slots=True)
class _Search:
    """What to look for of the current state of rooms. ``found``: what need not be looked for, by key."""

    types: dict[frozenset[str] | None, list[int]] = field(default_factory=dict)  # None: all but members
    everybody: list[int] = field(default_factory=list)
    users: dict[int, frozenset[str]] = field(default_factory=dict)
    found: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Job:
    """One room on its way. ``work`` spans what is new; ``shown`` has the timeline, which may be wider."""

    order: RoomOrder
    work: RoomWork
    shown: RoomWork
    wishes: frozenset[Required]  # of which everything is to be told
    peek: RoomWork | None = None  # events that the client has, but not those who sent them
    moved: dict[int, int] = field(default_factory=dict)  # the keys that changed; 0: it is gone
    state: dict[int, int] = field(default_factory=dict)  # what may be told: those, and what is told in full
    names: dict[int, int] = field(default_factory=dict)  # what names the room, where something was redacted

    @property
    def full(self) -> bool:
        return self.work.full or self.work.fresh

    @property
    def gone(self) -> bool:
        return self.work.left or bool(self.work.only_nid)

    @property
    def may_be_redacted(self) -> bool:
        """Whether state that the client has may have been redacted: what is in a gap is not looked at."""
        return not self.full and (
            self.work.limited or any(one.event.type == "m.room.redaction" for one in self.work.shown)
        )


def build_rooms(
    tx: Tx, reader: Reader, wanted: RoomsWanted, cache: ClientEventCache, facts: StateFacts
) -> dict[int, RoomNews]:
    """See the module."""
    return _Builder(tx, reader, wanted, cache, facts).build()


class _Builder:
    """The state of one read unit."""

    def __init__(
        self, tx: Tx, reader: Reader, wanted: RoomsWanted, cache: ClientEventCache, facts: StateFacts
    ) -> None:
        self._tx = tx
        self._reader = reader
        self._wanted = wanted
        self._cache = cache
        self._timelines = Timelines(tx, reader, wanted.names, cache, facts)
        self._events = self._timelines.events
        self._choices: dict[frozenset[Required], Choices] = {}
        self._writer = Writer(reader.filter, reader.now_ms)

    def build(self) -> dict[int, RoomNews]:
        timelines, upto = self._timelines, self._wanted.upto
        jobs = [*self._joined(), *self._left()]
        works = [job.work for job in jobs]
        works += [job.shown for job in jobs if job.shown is not job.work]
        works += [job.peek for job in jobs if job.peek is not None]
        inside = [job for job in jobs if not job.work.only_nid]
        searched = self._search([job for job in inside if job.full or job.wishes])
        timelines.find([work for work in works if not work.only_nid], self._ask_soon(jobs, searched))
        timelines.add_own_ends(works)
        self._find_states(inside, searched)
        summaries = self._summarise(jobs)
        shown = [job.shown for job in jobs]
        for job in jobs:
            timelines.find_replaced(job.work, job.shown.shown)
        before = [one.previous_nid for work in shown for one in work.shown if one.previous_nid]
        timelines.load([*before, *(nid for job in jobs for nid in job.work.replaced.values())])
        shown_of = {job.order.room_nid: _nids(job.shown) for job in jobs}
        timelines.ahead(shown, upto, ask_extras(self._wanted.extras.at(shown_of)))
        built = Built(
            shown,
            self._events,
            timelines.sent_as(shown),
            timelines.relate(shown, upto),
            self._writer,
        )
        return {job.order.room_nid: self._write(job, built, summaries) for job in jobs}

    def _choices_of(self, wishes: frozenset[Required]) -> Choices:
        found = self._choices.get(wishes)
        if found is None:
            found = self._choices[wishes] = Choices(wishes)
        return found

    # --- which rooms, from where to where ------------------------------------------------------------------------

    def _joined(self) -> list[_Job]:
        upto = self._wanted.upto
        jobs: list[_Job] = []
        moved: dict[int, list[RoomOrder]] = {}
        for order in self._wanted.joined:
            nid, standing = order.room_nid, order.standing
            if order.fresh:
                jobs.append(self._job(order, RoomWork(nid, standing, 0, upto, full=True, fresh=True)))
            elif standing.pos > order.since:
                moved.setdefault(order.since, []).append(order)
            else:
                jobs.append(self._job(order, RoomWork(nid, standing, order.since, upto, full=False)))
        for since, orders in moved.items():
            standings = {order.room_nid: order.standing for order in orders}
            works = {work.room_nid: work for work in self._timelines.by_moves(standings, {}, since, upto)}
            jobs += [self._job(order, works[order.room_nid]) for order in orders]
        return jobs

    def _left(self) -> list[_Job]:
        jobs: list[_Job] = []
        by_since: dict[int, list[RoomOrder]] = {}
        for order in self._wanted.gone:
            by_since.setdefault(order.since, []).append(order)
        for since, orders in by_since.items():
            standings: dict[int, Standing] = {order.room_nid: order.standing for order in orders}
            works = self._timelines.by_moves({}, standings, since, self._wanted.upto)
            found = {work.room_nid: work for work in works}
            # Of one that was over before, and was forgotten, there is nothing to tell.
            jobs += [self._job(one, found[one.room_nid]) for one in orders if one.room_nid in found]
        return jobs

    def _job(self, order: RoomOrder, work: RoomWork) -> _Job:
        work.limit = order.relevant.limit
        shown = work
        if order.wide and not work.full:
            shown = RoomWork(work.room_nid, work.standing, 0, work.upto, full=True, limit=work.limit)
        wishes = order.relevant.wishes if work.full or work.fresh else order.added
        # Who was never in a room sees nothing of it but their own event.
        peek = None
        if not work.full and shown is work and _is_newly_lazy(order):
            limit = max(work.limit, order.have)
            peek = RoomWork(work.room_nid, work.standing, 0, work.upto, full=True, limit=limit)
        return _Job(order, work, shown, frozenset() if work.only_nid else wishes, peek)

    # --- state ---------------------------------------------------------------------------------------------------

    def _search(self, jobs: Sequence[_Job]) -> _Search:
        """Where to look for what may be wanted of the current state of rooms."""
        search = _Search()
        own = {self._reader.user_id}
        for job in jobs:
            nid, wanted = job.order.room_nid, self._choices_of(job.wishes).wanted
            types = wanted.types | _NAMING if job.full else wanted.types
            if wanted.everything or types:
                search.types.setdefault(None if wanted.everything else types, []).append(nid)
            if wanted.members:
                search.everybody.append(nid)
            elif wanted.users == own and self._is_known(job):
                search.found.setdefault(nid, {})[self._reader.keys.own] = job.work.standing.event_nid
            elif wanted.users:
                search.users[nid] = wanted.users
        return search

    def _is_known(self, job: _Job) -> bool:
        """Whether the reader's own membership is in memory."""
        return bool(self._reader.keys.own) and not job.gone

    def _ask_soon(self, jobs: Sequence[_Job], search: _Search) -> list[Ask]:
        asks = [ask_state_of_types(nids, types) for types, nids in search.types.items()]
        if all(job.full and not job.gone for job in jobs):
            asks.append(ask_counts([job.work.room_nid for job in jobs]))
        return asks

    def _find_states(self, jobs: Sequence[_Job], search: _Search) -> None:
        current = self._load_current(search)
        doubtful = [job.work.room_nid for job in jobs if job.may_be_redacted]
        names = load_state_of_types(self._tx, doubtful, _NAMING) if doubtful else {}
        for job in jobs:
            work = job.work
            # Undone to the moment of the answer; what was not asked for is sorted out in the end.
            found = undo(current.get(work.room_nid, {}), work.moves, work.upto)
            job.state = {key: nid for key, nid in found.items() if nid}
            if not job.full:
                job.moved = {
                    move.key_nid: move.event_nid for move in work.moves if work.since < move.pos <= work.upto
                }
                job.state.update(job.moved)
            there = undo(names.get(work.room_nid, {}), work.moves, work.upto)
            job.names = {key: nid for key, nid in there.items() if nid}
        self._timelines.load(nid for job in jobs for nid in (*job.state.values(), *job.names.values()) if nid)
        self._timelines.load(
            move.prev_nid for job in jobs for move in job.work.moves if not job.moved.get(move.key_nid, 1)
        )
        self._add_members(jobs)

    def _load_current(self, search: _Search) -> dict[int, dict[int, int]]:
        """What may be wanted of the current state of rooms."""
        current = search.found
        for types, nids in search.types.items():
            _merge(current, load_state_of_types(self._tx, nids, types))
        if search.everybody:
            _merge(current, load_state(self._tx, search.everybody))
        found = load_members(self._tx, search.users)
        _merge(current, {nid: dict(keys.values()) for nid, keys in found.items()})
        return current

    def _add_members(self, jobs: Sequence[_Job]) -> None:
        """Lazy loading: whose membership the client needs, and has not."""
        needed = {
            job.work.room_nid: _needed(job.shown) | (_needed(job.peek) if job.peek is not None else set())
            for job in jobs
            if self._choices_of(job.order.relevant.wishes).lazy and not job.work.only_nid
        }
        own = self._reader.user_id
        known = {job.order.room_nid: job.work.standing.event_nid for job in jobs if self._is_known(job)}
        others = {nid: users - {own} if nid in known else users for nid, users in needed.items()}
        members = load_members(self._tx, others)
        for nid, event_nid in known.items():
            if own in needed.get(nid, ()):
                members.setdefault(nid, {})[own] = (self._reader.keys.own, event_nid)
        for job in jobs:
            nid = job.order.room_nid
            sent = {} if job.full else self._wanted.sent.get(nid, {})
            for user_id, (key_nid, event_nid) in members.get(nid, {}).items():
                moves = [move for move in job.work.moves if move.key_nid == key_nid]
                at_end = undo({key_nid: event_nid}, moves, job.work.upto)[key_nid]
                has = sent.get(user_id)
                if at_end and (has is None or has[0] != at_end):
                    job.state[key_nid] = at_end
                    job.work.members[user_id] = at_end
        self._timelines.load(nid for job in jobs for nid in job.work.members.values())

    def _chosen(self, job: _Job) -> list[bytes]:
        """The state to tell: events, and stubs of what is gone."""
        choices = self._choices_of(job.order.relevant.wishes)
        # Whoever loads members as they are needed keeps those that it has up to date by what changed.
        moved_members = GAP_MEMBERS_MOST if choices.lazy and not job.full else 0
        needed = set(job.work.members.values())
        told: list[ClientEvent] = []
        stubs: list[bytes] = []
        for key_nid, nid in job.state.items():
            event = self._at(job, key_nid)
            if event is None or event.state_key is None:
                continue
            if nid not in needed and not choices.wants(event.type, event.state_key):
                if event.type != _MEMBER or key_nid not in job.moved or not moved_members:
                    continue
                moved_members -= 1
            if not nid:
                stubs.append(stub(event.type, event.state_key))
                continue
            told.append(event)
            if event.type == _MEMBER:
                job.work.members[event.state_key] = nid
        if job.gone:
            # Clients take whoever is in a room for joined, unless the room's state says something else.
            own = [one.event for one in job.shown.shown if is_membership_of(one.event, self._reader.user_id)]
            told += [event for event in own[-1:] if event not in told]
        return [*self._writer.write_state(told, job.work.replaced, self._events), *stubs]

    def _at(self, job: _Job, key_nid: int) -> ClientEvent | None:
        """The event at a key; where it is gone, the one that was there."""
        nid = job.state[key_nid]
        if nid:
            return self._events.get(nid)
        prev = [move.prev_nid for move in job.work.moves if move.key_nid == key_nid and move.prev_nid]
        return self._events.get(prev[-1]) if prev else None

    # --- names ---------------------------------------------------------------------------------------------------

    def _summarise(self, jobs: Sequence[_Job]) -> dict[int, RoomSummary]:
        touched: dict[int, bool] = {}
        for job in jobs:
            work = job.work
            if not job.gone and (job.full or self._is_touched(job)):
                name = self._events.get(work.keyed.get(self._reader.keys.name, 0))
                touched[work.room_nid] = name is not None and text_in(name, "name") is not None
        if not touched:
            return {}
        return load_room_summaries(self._tx, touched, self._cache)

    def _is_touched(self, job: _Job) -> bool:
        """Whether what changed may have changed the summary."""
        if job.may_be_redacted:
            return True
        for key_nid, nid in job.moved.items():
            event = self._events.get(nid)
            if event is None or event.type == _MEMBER or key_nid == self._reader.keys.name:
                return True
        return False

    # --- bytes ---------------------------------------------------------------------------------------------------

    def _write(self, job: _Job, built: Built, summaries: Mapping[int, RoomSummary]) -> RoomNews:
        work, shown, since = job.work, job.shown, self._wanted.since
        news = RoomNews(
            write_timeline(shown, built),
            shown.limited,
            shown.start - 1,
            sum(1 for one in shown.shown if since and one.pos > since),
            self._chosen(job),
            initial=job.full,
            wide=shown is not work,
            gone=job.gone,
            shown=_nids(shown),
        )
        self._name(job, news)
        news.members = work.members
        news.summary = summaries.get(work.room_nid)
        return news

    def _name(self, job: _Job, news: RoomNews) -> None:
        """The room's name and picture: what they are, or that they changed."""
        keys = job.state if job.full else job.names | job.moved
        there = [event for nid in keys.values() if (event := self._events.get(nid)) is not None]
        news.name, news.avatar = names_of(there)
        if job.full:
            news.name = None if news.name == NULL else news.name
            news.avatar = None if news.avatar == NULL else news.avatar
            return
        for key_nid, nid in keys.items():
            event = None if nid else self._at(job, key_nid)
            if event is not None and event.state_key == "":
                news.name = NULL if event.type == "m.room.name" else news.name
                news.avatar = NULL if event.type == "m.room.avatar" else news.avatar


def _merge(into: dict[int, dict[int, int]], found: Mapping[int, Mapping[int, int]]) -> None:
    for nid, state in found.items():
        into.setdefault(nid, {}).update(state)


def _nids(work: RoomWork) -> list[int]:
    return [one.event.nid for one in work.shown]


def _needed(work: RoomWork) -> set[str]:
    """Whose membership it takes to show a timeline: who sent an event, and whom a membership is about."""
    needed = {one.event.sender for one in work.shown}
    needed.update(one.event.state_key or "" for one in work.shown if one.event.type == _MEMBER)
    return needed


def _is_newly_lazy(order: RoomOrder) -> bool:
    """Whether members are to be told as they are needed, where none were told before."""
    if not is_lazy(order.relevant.wishes) or is_lazy(order.had):
        return False
    return not any(one.all_members for one in order.had)


def load_room_summaries(tx: Tx, named: Mapping[int, bool], cache: ClientEventCache) -> dict[int, RoomSummary]:
    """The summaries of rooms (which have a name or not), with what their heroes are called there."""
    unnamed = [nid for nid, has_name in named.items() if not has_name]
    counts = load_summaries(tx, list(named), unnamed)
    users = {nid: {*counts[nid].present, *counts[nid].gone} for nid in unnamed}
    members = load_members(tx, users)
    nids = sorted({keys[1] for found in members.values() for keys in found.values()})
    events = load_client_events(tx, nids, cache)
    return {
        nid: RoomSummary(
            summary,
            {name: Hero(name, events.get(keys[1])) for name, keys in members.get(nid, {}).items()},
        )
        for nid, summary in counts.items()
    }


def load_members(tx: Tx, users: Mapping[int, Collection[str]]) -> dict[int, dict[str, tuple[int, int]]]:
    """The current memberships of some users of each room: user id -> (state key nid, event nid)."""
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for group in _groups(users):
        names = sorted({name for nid in group for name in users[nid]})
        for nid, members in load_member_keys(tx, group, names).items():
            found[nid] = {name: keys for name, keys in members.items() if name in users[nid]}
    return found


def _groups(users: Mapping[int, Collection[str]]) -> list[list[int]]:
    """Rooms whose users are looked up together."""
    groups: list[list[int]] = []
    names: set[str] = set()
    for nid, wanted in users.items():
        if not wanted:
            continue
        names.update(wanted)
        if not groups or (len(groups[-1]) + 1) * len(names) > _PAIRS_AT_ONCE:
            groups.append([])
            names = set(wanted)
        groups[-1].append(nid)
    return groups
