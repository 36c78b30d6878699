"""The keys of other servers' users: device lists that are kept while we hear of every change, and asked for otherwise.

1. A list is good while it is not stale and while its owner and one of our users have been in a room together since
   before it was asked for: then the owner's server had to tell us of every change. Decided anew for each question.
2. One question about a user is under way at a time; who asks meanwhile gets its answer: the same ``UserKeys``, which MUST
   NOT be changed.
3. As names of servers cost nothing, a user of ours has some questions under way at a time, and no answer may be larger
   than honest ones are. What has arrived is held as far as there is room for it in the answer to the client.
4. What a server says counts only for its own users, and only in the specified shape.

# spec: server-server-api#device-management
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from federation.errors import RemoteError
from federation.ids import ServerName, domain_of
from homeserver.db.threads import Database
from homeserver.db.tx import Tx, WriteTx
from homeserver.e2ee.assembly import Viewer, load_kept, read_keys
from homeserver.e2ee.foreign import Listed, parse_claimed, parse_list, parse_query
from homeserver.e2ee.line import Line, ask_in_turn
from homeserver.e2ee.shapes import MAX_ONE_TIME_KEY_BYTES
from homeserver.e2ee.types import Claims, Failure, Found, FoundKeys, UserKeys, Wanted, failed
from homeserver.http.transport import AnswerTooLarge, Unreachable, build_uri
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock, sleep, unless_over
from homeserver.runtime.log import Log
from homeserver.runtime.slots import Slots
from homeserver.runtime.tasks import TaskGroup, all_of
from homeserver.store.device_lists import JoinedSince, load_joined_since
from homeserver.store.ids import Interner
from homeserver.store.remote_lists import Fetched, RemoteList, load_remote_lists, store_list
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex
from homeserver.stream.log import ChangeLog

_V1 = "/_matrix/federation/v1/user"
# LIMIT(lists that are fetched again in the background; the others are fetched when somebody asks)
RESYNCS_MOST = 100
# So that no answer is larger than what is taken.
USERS_A_QUESTION = 250
# LIMIT(questions under way, and of those for one user of ours; lines of questions that wait; and of those for one user)
# Where a large room is asked about for the first time, dozens of servers may not answer: they are not to take every place
# of a question until its time is up. Against memory counts a user's places times the largest answer: 800 MiB for somebody
# who owns as many servers as there are places. (Whom we know to be down fails at once, and takes no place for long.)
QUESTIONS_AT_ONCE = 500
QUESTIONS_EACH = 100
_WAITING = 5_000
_WAITING_EACH = 500
# So that nobody waits long for the writer.
LISTS_A_UNIT = 50
RESYNC_WAITS_S = (2.0, 10.0, 60.0, 600.0)
RESYNC_TIMEOUT_S = 30.0
# LIMIT(an answer: one list of some 5,000 devices, and of each user a hundred devices; of a claim a key of each device)
# Servers that do not bound the devices of a user send longer lists than are kept, of which the first devices count.
# Where an answer is too large the users are asked for in parts, so it need not have room for all that could be.
_ANSWER_MOST_BYTES = 8 * 1024 * 1024
_LIST_BYTES = 4 * 1024 * 1024
_USER_BYTES = 64 * 1024
_CLAIM_BYTES = 64 * 1024
_KEY_BYTES = 2 * MAX_ONE_TIME_KEY_BYTES
_Query = tuple[ServerName, Sequence[str]]
_Claim = tuple[ServerName, Mapping[str, Mapping[str, str]]]
_LATE = failed("M_UNREACHABLE", "The server did not answer in time")


@dataclass(slots=True)
class _Asking:
    """What one client waits for."""

    wanted: Wanted
    found: Found
    answers: dict[str, Deferred[UserKeys | Failure]] = field(default_factory=dict)  # by user

    def expect(self, user_id: str) -> None:
        """An answer is to come. What it says is held only where there is room for it."""
        answer: Deferred[UserKeys | Failure] = Deferred()
        self.answers[user_id] = answer
        answer.addCallback(self._note, user_id)

    def _note(self, answer: UserKeys | Failure, user_id: str) -> None:
        if not isinstance(answer, UserKeys):
            self.found.failures[domain_of(user_id)] = answer
        elif answer.devices or answer.signing:
            self.found.add(user_id, answer.only(self.wanted[user_id]))

    def refuse(self, question: _Query, failure: Failure) -> None:
        """Wait for the answer to a question no more."""
        for user_id in question[1]:
            _give(self.answers[user_id], failure)

    def give_up(self, failure: Failure) -> None:
        """Wait for nothing more."""
        for answer in self.answers.values():
            _give(answer, failure)


@dataclass(slots=True)
class _Claiming:
    """Keys that one client claims."""

    ended: dict[ServerName, Deferred[None]]
    found: FoundKeys = field(default_factory=FoundKeys)

    def refuse(self, question: _Claim, failure: Failure) -> None:
        """Nobody asks this server."""
        self.end(question[0], failure)

    def end(self, server_name: ServerName, failure: Failure | None) -> None:
        """From this server there is nothing more to come."""
        if failure is not None:
            self.found.failures[server_name] = failure
        if not self.ended[server_name].called:
            self.ended[server_name].callback(None)


class RemoteLists:
    """See the module."""

    def __init__(
        self,
        peers: PeerClient,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        changes: ChangeLog,
        tasks: TaskGroup,
        clock: Clock,
        log: Log,
    ) -> None:
        self._peers = peers
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._changes = changes
        self._tasks = tasks
        self._clock = clock
        self._log = log
        self._places = Slots(QUESTIONS_AT_ONCE, QUESTIONS_EACH, _WAITING, _WAITING_EACH)
        self._asked: dict[str, list[Deferred[UserKeys | Failure]]] = {}
        self._resyncing: set[str] = set()

    async def _all_told(self, line: Line[Any], answers: Iterable[Deferred[Any]]) -> None:
        """Ask what stands in line, and wait for all of the answers; who waits no more has nothing more asked."""
        self._tasks.spawn("ask some servers", ask_in_turn(line, self._places, self._tasks))
        try:
            await all_of(list(answers))
        finally:
            line.questions.clear()

    # --- device lists ----------------------------------------------------------------------------------------------

    async def query(self, asker: str, wanted: Wanted, timeout_s: float) -> Found:
        """Device lists, kept or asked for on behalf of a user of ours."""
        nids = await self._interner.find_users(wanted)
        found = Found()
        kept = await self._kept(nids) if nids else {}
        await read_keys(self._database, load_kept, kept, Viewer(), wanted, found)
        known = set(kept.values())
        missing = [user_id for user_id in wanted if user_id not in known]
        if missing:
            await self._ask_all(asker, _Asking(wanted, found), missing, timeout_s)
        return found

    async def _ask_all(self, asker: str, asking: _Asking, missing: Sequence[str], timeout_s: float) -> None:
        line = Line(asker, partial(self._ask_some, asking, timeout_s), asking.refuse)
        by_server: dict[ServerName, list[str]] = {}
        for user_id in missing:
            by_server.setdefault(domain_of(user_id), []).append(user_id)
            asking.expect(user_id)
        for server_name, user_ids in by_server.items():
            for start in range(0, len(user_ids), USERS_A_QUESTION):
                line.questions.append((server_name, user_ids[start : start + USERS_A_QUESTION]))
        # All of it, asked or not: some of it others may have asked for with more patience.
        with unless_over(self._clock, timeout_s, asking.give_up, _LATE):
            await self._all_told(line, asking.answers.values())

    async def _ask_some(self, asking: _Asking, timeout_s: float, question: _Query) -> None:
        server_name, user_ids = question
        fresh = [user_id for user_id in user_ids if user_id not in self._asked]
        for user_id in user_ids:
            self._asked.setdefault(user_id, []).append(asking.answers[user_id])
        if fresh:
            await self._ask(server_name, fresh, timeout_s)

    async def _kept(self, nids: Mapping[str, int]) -> dict[int, str]:
        """Those whose lists are kept and good."""
        lists, joined = await self._database.read(_load_standing, sorted(nids.values()))
        shared = self._by_user(joined)
        return {
            nid: user_id
            for user_id, nid in nids.items()
            if nid in lists and not lists[nid].stale and self._follows(lists[nid], shared.get(nid, ()))
        }

    @staticmethod
    def _by_user(joined: Sequence[JoinedSince]) -> dict[int, list[JoinedSince]]:
        found: dict[int, list[JoinedSince]] = {}
        for one in joined:
            found.setdefault(one.user_nid, []).append(one)
        return found

    def _follows(self, kept: RemoteList, rooms: Sequence[JoinedSince]) -> bool:
        """Whether there is a room in which the owner and one of us have been together since before the question."""
        return any(room.pos <= kept.pos and self._was_in(room.room_nid, kept.pos) for room in rooms)

    def _was_in(self, room_nid: int, pos: int) -> bool:
        for user_nid in self._index.local_members(room_nid):
            standing = self._index.standing(user_nid, room_nid)
            if standing is not None and standing.pos <= pos:
                return True
        return False

    async def _ask(self, server_name: ServerName, user_ids: Sequence[str], timeout_s: float) -> None:
        answers: Mapping[str, UserKeys | Failure] = {}
        try:
            answers = await self._ask_server(server_name, user_ids, self._clock.monotonic() + timeout_s)
        finally:
            for user_id in user_ids:
                answer = answers.get(user_id) or failed("M_UNKNOWN", "The question failed")
                for waiting in self._asked.pop(user_id):
                    _give(waiting, answer)

    async def _ask_server(
        self, server_name: ServerName, user_ids: Sequence[str], until_s: float
    ) -> Mapping[str, UserKeys | Failure]:
        timeout_s = until_s - self._clock.monotonic()
        if timeout_s <= 0:
            return dict.fromkeys(user_ids, _LATE)
        asked_pos = self._changes.position
        nobody: list[str] = []  # in particular: all devices
        content = {"device_keys": dict.fromkeys(user_ids, nobody)}
        try:
            answer = await self._peers.ask(
                server_name,
                "POST",
                f"{_V1}/keys/query",
                content,
                timeout_s=timeout_s,
                max_bytes=min(_ANSWER_MOST_BYTES, _LIST_BYTES + _USER_BYTES * len(user_ids)),
                insist=False,
            )
        except AnswerTooLarge as error:
            if len(user_ids) == 1:
                return {user_ids[0]: _failure_of(error)}
            # In halves, so that whoever has too many keys takes nobody else's away.
            half = len(user_ids) // 2
            first = await self._ask_server(server_name, user_ids[:half], until_s)
            return {**first, **await self._ask_server(server_name, user_ids[half:], until_s)}
        except (RemoteError, Unreachable) as error:
            return dict.fromkeys(user_ids, _failure_of(error))
        nids = await self._interner.find_users(user_ids)
        lists = {user_id: parse_query(answer, user_id, nids.get(user_id, 0)) for user_id in user_ids}
        await self._keep(
            [(nids[user_id], listed) for user_id, listed in lists.items() if user_id in nids], asked_pos
        )
        return {user_id: listed.keys for user_id, listed in lists.items()}

    async def _keep(self, lists: Sequence[tuple[int, Listed]], asked_pos: int) -> None:
        """Keep those of people with whom somebody here shares a room."""
        shared = await self._shared([nid for nid, _ in lists])
        fetched = [
            Fetched(nid, listed.stream_id, asked_pos, listed.devices, listed.signing)
            for nid, listed in lists
            if nid in shared
        ]
        for start in range(0, len(fetched), LISTS_A_UNIT):
            await self._worker.work(_store_lists, fetched[start : start + LISTS_A_UNIT])

    async def _shared(self, nids: Collection[int]) -> set[int]:
        joined = await self._database.read(load_joined_since, list(nids))
        return {one.user_nid for one in joined if self._index.local_members(one.room_nid)}

    # --- after a gap -----------------------------------------------------------------------------------------------

    def resync_soon(self, user_id: str) -> None:
        """Fetch a whole list again, once at a time, some times if need be; after that it waits until it is asked for."""
        if user_id not in self._resyncing and len(self._resyncing) < RESYNCS_MOST:
            self._resyncing.add(user_id)
            self._tasks.spawn("fetch a device list", self._resync(user_id))

    async def _resync(self, user_id: str) -> None:
        try:
            for wait_s in (*RESYNC_WAITS_S, 0.0):
                if await self._fetch(user_id) or not wait_s:
                    return
                await sleep(self._clock, wait_s)
        finally:
            self._resyncing.discard(user_id)

    async def _fetch(self, user_id: str) -> bool:
        """Whether there is nothing more to do."""
        nid = await self._interner.find_user(user_id)
        if nid is None or nid not in await self._shared([nid]):
            return True
        asked_pos = self._changes.position
        try:
            answer = await self._peers.ask(
                domain_of(user_id),
                "GET",
                build_uri(f"{_V1}/devices", user_id),
                timeout_s=RESYNC_TIMEOUT_S,
                max_bytes=_LIST_BYTES + _USER_BYTES,
            )
        except (RemoteError, Unreachable) as error:
            self._log.debug("a device list could not be fetched", server=domain_of(user_id), error=str(error))
            return False
        listed = parse_list(answer, user_id, nid)
        if listed is None:
            return False
        fetched = Fetched(nid, listed.stream_id, asked_pos, listed.devices, listed.signing)
        return await self._worker.work(store_list, fetched)

    # --- one-time keys ---------------------------------------------------------------------------------------------

    async def claim(self, asker: str, claims: Claims, timeout_s: float) -> FoundKeys:
        """One-time keys of other servers' devices, on behalf of a user of ours.

        Whom there is no place to ask in that time is not asked; who was asked has as long, as keys are gone once claimed.
        """
        by_server: dict[ServerName, dict[str, dict[str, str]]] = {}
        for user_id, device_id, algorithm in claims:
            by_user = by_server.setdefault(domain_of(user_id), {})
            by_user.setdefault(user_id, {})[device_id] = algorithm
        claiming = _Claiming({server_name: Deferred() for server_name in by_server})
        ask = partial(self._claim, claiming, timeout_s)
        line = Line(asker, ask, claiming.refuse, deque(by_server.items()))
        with unless_over(self._clock, timeout_s, line.give_up, _LATE):
            await self._all_told(line, claiming.ended.values())
        return claiming.found

    async def _claim(self, claiming: _Claiming, timeout_s: float, question: _Claim) -> None:
        server_name, wanted = question
        failure: Failure | None = failed("M_UNKNOWN", "The question failed")
        try:
            keys = sum(len(by_device) for by_device in wanted.values())
            answer = await self._peers.ask(
                server_name,
                "POST",
                f"{_V1}/keys/claim",
                {"one_time_keys": wanted},
                timeout_s=timeout_s,
                max_bytes=min(_ANSWER_MOST_BYTES, _CLAIM_BYTES + _KEY_BYTES * keys),
                insist=False,
            )
            claiming.found.keys.update(parse_claimed(answer, wanted))
            failure = None
        except (RemoteError, Unreachable) as error:
            failure = _failure_of(error)
        finally:
            claiming.end(server_name, failure)


def _load_standing(tx: Tx, nids: Sequence[int]) -> tuple[dict[int, RemoteList], list[JoinedSince]]:
    lists = load_remote_lists(tx, nids)
    return lists, load_joined_since(tx, list(lists)) if lists else []


def _store_lists(tx: WriteTx, fetched: Sequence[Fetched]) -> None:
    for one in fetched:
        store_list(tx, one)


def _give(waiting: Deferred[UserKeys | Failure], answer: UserKeys | Failure) -> None:
    if not waiting.called:
        waiting.callback(answer)


def _failure_of(error: RemoteError | Unreachable) -> Failure:
    if isinstance(error, RemoteError):
        return failed(error.errcode, error.message)
    return failed("M_UNREACHABLE", "The server cannot be reached")
