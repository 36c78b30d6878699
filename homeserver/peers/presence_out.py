"""Presence of our users, for other servers: only for those that share a room with them, some together, and nothing kept.

1. A change is told once to each server, at most every ``EVERY_S``, in one EDU with whatever else changed.
2. Others forget what they were told after half an hour, so who is online is told again before that.
3. A server that comes into a room, and the servers of a room that a user of ours joins, are told who is there.
4. Before the server stops it says that everybody is gone.

# spec: server-server-api#presence
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from federation.queue import OutgoingEdu
from homeserver.peers.edus_out import RoomEdus
from homeserver.peers.sender import Sender
from homeserver.runtime.clock import Clock, DelayedCall, sleep
from homeserver.store.changes import Change
from homeserver.store.placement import Membership, moves_of
from homeserver.store.stays import server_of
from homeserver.stream.index import MembershipIndex
from homeserver.stream.servers import ServerIndex

EVERY_S = 5.0
REPEAT_S = 1_500.0
# Where many are there, a round of it takes so long.
SPREAD_S = 300.0
# Who joins a room with more local members than this is told of nobody in it, and hears of changes.
MEMBERS_MOST = 100
# LIMIT(memory, where many join within EVERY_S; whoever is left out hears of the next change)
MEETINGS_MOST = 20_000
# LIMIT(what one EDU holds; others bound it too)
UPDATES_MOST = 200
# Users of whom servers are told in one turn; of more than these who stay online is told in turns, too.
USERS_A_TURN = 2 * UPDATES_MOST

_encode = msgspec.json.Encoder(order="deterministic").encode


class LocalPresence(Protocol):
    """Who of our users is online."""

    def user_id(self, user_nid: int) -> str | None: ...
    def describe(self, user_nid: int) -> dict[str, Any]: ...
    def is_present(self, user_nid: int) -> bool: ...
    def present(self) -> list[int]: ...


class PresenceOut:
    """See the module. ``tell`` is called by ``Presence``, ``note`` hears of every change of the log."""

    def __init__(
        self,
        edus: RoomEdus,
        presence: LocalPresence,
        servers: ServerIndex,
        index: MembershipIndex,
        sender: Sender,
        clock: Clock,
    ) -> None:
        self._edus = edus
        self._server_name = edus.server_name
        self._presence = presence
        self._servers = servers
        self._index = index
        self._sender = sender
        self._clock = clock
        self._changed: dict[int, None] = {}  # users, for every server that they share a room with
        # Who met in a room: (user, room, server, or "" for all that are there).
        self._met: dict[tuple[int, int, str], None] = {}
        self._timer: DelayedCall | None = None
        self._repeat: DelayedCall | None = None
        # Who is to be told of again, some at a time, the next last; how long until these, and until the next round.
        self._again: list[list[int]] = []
        self._gap_s = self._rest_s = REPEAT_S

    def begin(self) -> None:
        """Repeat now and then."""
        self._repeat = self._clock.callLater(REPEAT_S, self._tell_again)

    def close(self) -> None:
        """The server stops."""
        for timer in (self._timer, self._repeat):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._repeat = None

    def tell(self, user_nid: int) -> None:
        """A user's presence has changed."""
        self._changed[user_nid] = None
        self._plan()

    def note(self, change: Change) -> None:
        """Follow the log: who comes to share a room."""
        joins = [move for move in moves_of(change) if move.membership == Membership.JOIN]
        servers = [server_of(move.user_id) for move in joins]
        ours = [move for server, move in zip(servers, joins, strict=True) if server == self._server_name]
        for move in ours:
            if self._presence.is_present(move.member_nid):
                self._meet(move.member_nid, change.topic, "")
        members = self._index.local_members(change.topic) if joins and not ours else ()
        if len(members) <= MEMBERS_MOST:
            for server in sorted(set(servers)):
                for user_nid in members:
                    if self._presence.is_present(user_nid):
                        self._meet(user_nid, change.topic, server)

    def _meet(self, user_nid: int, room_nid: int, server: str) -> None:
        if len(self._met) < MEETINGS_MOST:
            self._met[user_nid, room_nid, server] = None
            self._plan()

    def say_goodbye(self) -> None:
        """Everybody is offline from now on, as far as is known from memory who should hear it."""
        updates = _Updates()
        for rooms, users in self._by_rooms(self._presence.present()).items():
            servers = {server for room_nid in rooms for server in self._servers.known(room_nid) or ()}
            gone = {"presence": "offline"}
            updates.add(
                servers, [self._written(nid, {**self._presence.describe(nid), **gone}) for nid in users]
            )
        self._send(updates)

    def _plan(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(EVERY_S, self._flush)

    def _tell_again(self) -> None:
        if not self._again:
            present = sorted(self._presence.present())
            starts = range(0, len(present) or 1, USERS_A_TURN)
            self._again = [present[start : start + USERS_A_TURN] for start in starts]
            gaps = len(self._again) - 1
            self._gap_s = SPREAD_S / (gaps + 1)
            # Who came just after a round had begun is the last one of the next, and not yet forgotten.
            self._rest_s = REPEAT_S - SPREAD_S - gaps * self._gap_s if gaps else REPEAT_S
        for user_nid in self._again.pop():
            if self._presence.is_present(user_nid):
                self._changed[user_nid] = None
        self._plan()
        wait_s = self._gap_s if self._again else self._rest_s
        self._repeat = self._clock.callLater(wait_s, self._tell_again)

    def _flush(self) -> None:
        self._timer = None
        changed, self._changed = self._changed, {}
        met, self._met = self._met, {}
        self._edus.spawn("tell who is online", self._collect(changed, met))

    async def _collect(self, changed: Collection[int], met: Iterable[tuple[int, int, str]]) -> None:
        told, updates = sorted(changed), _Updates()
        for start in range(0, len(told), USERS_A_TURN):
            if start:
                self._send(updates)
                updates = _Updates()
                await sleep(self._clock, 0)
            for rooms, users in self._by_rooms(told[start : start + USERS_A_TURN]).items():
                bodies = [body for user_nid in users if (body := self._update(user_nid)) is not None]
                if bodies:
                    updates.add(await self._servers.servers_of_rooms(rooms), bodies)
        for user_nid, room_nid, server in met:
            body = self._update(user_nid)
            if user_nid not in changed and body is not None:
                for one in [server] if server else await self._servers.servers_in(room_nid):
                    updates.add_one(one, body)
        self._send(updates)

    def _by_rooms(self, user_nids: Iterable[int]) -> dict[frozenset[int], list[int]]:
        """Users by the rooms that they are in: of thousands, many are in the same."""
        found: dict[frozenset[int], list[int]] = {}
        for user_nid in user_nids:
            found.setdefault(frozenset(self._index.joined_rooms(user_nid)), []).append(user_nid)
        return found

    def _update(self, user_nid: int) -> bytes | None:
        if self._presence.user_id(user_nid) is None:
            return None
        return self._written(user_nid, self._presence.describe(user_nid))

    def _written(self, user_nid: int, content: Mapping[str, Any]) -> bytes:
        # The schema asks for it; of who was never active there is nothing to tell.
        return _encode({"last_active_ago": 0, **content, "user_id": self._presence.user_id(user_nid)})

    def _send(self, updates: _Updates) -> None:
        for bodies, servers in updates.parcels():
            edus = [
                OutgoingEdu(b'{"content":{"push":[%b]},"edu_type":"m.presence"}' % b",".join(part))
                for start in range(0, len(bodies), UPDATES_MOST)
                if (part := bodies[start : start + UPDATES_MOST])
            ]
            for server in servers:
                if server != self._server_name:
                    for edu in edus:
                        self._sender.enqueue_edu(server, edu)


class _Updates:
    """What servers are to be told. Those that are told the same share it: a large room has thousands of them."""

    def __init__(self) -> None:
        self._audiences: dict[frozenset[str], list[bytes]] = {}
        self._beside: dict[str, dict[bytes, None]] = {}  # what one server is told besides

    def add(self, servers: Collection[str], bodies: Sequence[bytes]) -> None:
        """Tell all of these servers of users."""
        self._audiences.setdefault(frozenset(servers), []).extend(bodies)

    def add_one(self, server: str, body: bytes) -> None:
        """Tell one server of one user, once."""
        self._beside.setdefault(server, {})[body] = None

    def parcels(self) -> Iterator[tuple[list[bytes], list[str]]]:
        """What to tell, and whom."""
        audiences = list(self._audiences.items())
        heard: dict[str, list[int]] = {}
        for number, (servers, _) in enumerate(audiences):
            for server in servers:
                heard.setdefault(server, []).append(number)
        alike: dict[tuple[tuple[int, ...], tuple[bytes, ...]], list[str]] = {}
        for server in sorted({*heard, *self._beside}):
            key = tuple(heard.get(server, ())), tuple(self._beside.get(server, ()))
            alike.setdefault(key, []).append(server)
        for (numbers, beside), named in alike.items():
            yield [*(body for number in numbers for body in audiences[number][1]), *beside], named
