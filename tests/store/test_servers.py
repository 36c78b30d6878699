"""Which servers are in rooms: the index in memory, and what the tables say, at any position."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.store import stays as stays_module
from homeserver.store.stays import Stay, load_occupancy, load_stays
from homeserver.stream.servers import TURNS_MOST, ServerIndex
from tests.api.rooms import V3
from tests.api.servers import place_event, set_membership
from tests.support.app import TestApp
from tests.support.databases import DatabaseCase, on_each_database

OURS = "test.example"


@on_each_database
class Servers(DatabaseCase):
    """A public room of alice, and users of other servers."""

    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())
        self.token = self.app.register("alice")
        self.room_id: str = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.token)[
            "room_id"
        ]
        core = self.app.app.core
        self.room_nid = core.interner.known_room(self.room_id) or 0
        self.index = core.servers

    @property
    def pos(self) -> int:
        return self.app.app.core.changes.position

    def join(self, *user_ids: str) -> None:
        for user_id in user_ids:
            set_membership(self.app, self.room_id, user_id, "join")

    def leave(self, *user_ids: str) -> None:
        for user_id in user_ids:
            set_membership(self.app, self.room_id, user_id, "leave")

    def servers(self, index: ServerIndex | None = None) -> list[str]:
        return list(self.app.wait(Deferred.fromCoroutine((index or self.index).servers_in(self.room_nid))))

    def at(self, pos: int, index: ServerIndex | None = None) -> list[str]:
        return list(
            self.app.wait(Deferred.fromCoroutine((index or self.index).servers_at(self.room_nid, pos)))
        )

    def came(self, pos: int, server: str, index: ServerIndex | None = None) -> bool:
        asked = (index or self.index).came(self.room_nid, server, pos)
        return self.app.wait(Deferred.fromCoroutine(asked))

    def fresh(self, budget: int = 1_000_000) -> ServerIndex:
        """An index that knows nothing yet, as after a restart."""
        core = self.app.app.core
        return ServerIndex(core.around.database, core.changes, core.index, budget)

    def test_follows_from_the_beginning_without_a_read(self) -> None:
        self.assertEqual(self.index.known(self.room_nid), (OURS,))
        self.join("@a:one.example", "@b:one.example", "@c:two.example:8448")
        self.assertEqual(self.index.known(self.room_nid), ("one.example", OURS, "two.example:8448"))
        self.leave("@a:one.example")
        self.assertIn("one.example", self.servers())
        self.leave("@b:one.example")
        self.assertNotIn("one.example", self.servers())
        self.assertEqual(self.servers(), self.servers(self.fresh()))

    def test_an_event_goes_to_who_was_there_before_or_after_it(self) -> None:
        self.join("@a:one.example")
        joined = self.pos
        self.join("@c:two.example")
        came = self.pos
        self.leave("@a:one.example")
        went = self.pos
        place_event(self.app, self.room_id, "m.room.message", {"body": "x"}, None, "@alice:test.example")
        later = self.pos
        for index in (self.index, self.fresh(), self.fresh()):
            self.assertEqual(self.at(later, index), [OURS, "two.example"])
            self.assertEqual(self.at(went, index), ["one.example", OURS, "two.example"])
            self.assertEqual(self.at(came, index), ["one.example", OURS, "two.example"])
            self.assertEqual(self.at(joined, index), ["one.example", OURS])
            self.assertEqual(self.at(joined - 1, index), [OURS])
        old_first = self.fresh()
        self.assertEqual(self.at(joined, old_first), ["one.example", OURS])
        self.assertEqual(self.at(later, old_first), [OURS, "two.example"])

    def test_who_came_with_a_membership(self) -> None:
        """However late it is asked, and whoever of the same server came or went since."""
        self.join("@a:one.example")
        first = self.pos
        self.join("@b:one.example")
        second = self.pos
        self.assertTrue(self.came(first, "one.example", self.fresh()))
        self.leave("@a:one.example")
        self.leave("@b:one.example")
        went = self.pos
        self.join("@a:one.example")
        again = self.pos
        self.join("@c:two.example", "@d:two.example")
        self.leave("@c:two.example", "@d:two.example")
        last = self.pos
        for index in (self.index, self.fresh()):
            found = [pos for pos in range(first, last + 1) if self.came(pos, "one.example", index)]
            self.assertEqual([first, again], found)
        # Asked for one position alone, of a room that is not in memory, or that came there for another one.
        for pos in (first, second, went, again):
            index = self.fresh()
            self.assertEqual(pos in (first, again), self.came(pos, "one.example", index))
            self.assertEqual(
                [first, again],
                [one for one in (first, second, went, again) if self.came(one, "one.example", index)],
            )
        self.assertFalse(self.came(first, "two.example", self.fresh()))

    def test_a_kick_a_ban_and_who_was_only_invited(self) -> None:
        self.join("@a:one.example", "@b:two.example")
        set_membership(self.app, self.room_id, "@i:three.example", "invite", "@alice:test.example")
        set_membership(self.app, self.room_id, "@a:one.example", "leave", "@alice:test.example")
        kicked = self.pos
        set_membership(self.app, self.room_id, "@b:two.example", "ban", "@alice:test.example")
        banned = self.pos
        for index in (self.index, self.fresh()):
            self.assertEqual(self.at(kicked, index), ["one.example", OURS, "two.example"])
            self.assertEqual(self.at(banned, index), [OURS, "two.example"])
            self.assertEqual(self.servers(index), [OURS])

    def test_more_turns_than_are_remembered(self) -> None:
        self.servers()
        self.join("@a:one.example")
        first = self.pos
        for _ in range(TURNS_MOST // 2 + 1):
            self.leave("@a:one.example")
            self.join("@a:one.example")
        self.leave("@a:one.example")
        self.assertEqual(self.at(first), ["one.example", OURS])
        self.assertEqual(self.at(first - 1), [OURS])
        self.assertEqual(self.servers(), [OURS])

    def test_memory_is_bounded(self) -> None:
        index = self.fresh(budget=1)
        self.app.app.core.changes.subscribe(index.apply)
        rooms = [
            self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, self.token)["room_id"]
            for _ in range(5)
        ]
        self.assertEqual(len(index), 1)
        for room_id in rooms:
            nid = self.app.app.core.interner.known_room(room_id) or 0
            self.assertEqual(self.app.wait(Deferred.fromCoroutine(index.servers_in(nid))), (OURS,))
            self.assertEqual(len(index), 1)
        self.assertEqual(self.servers(index), [OURS])

    def test_users_and_rooms(self) -> None:
        self.join("@a:one.example")
        core, wait = self.app.app.core, self.app.wait
        alice = core.interner.known_user("@alice:test.example") or 0
        remote = core.interner.known_user("@a:one.example") or 0
        for index in (self.index, self.fresh(1)):
            self.assertEqual(
                wait(Deferred.fromCoroutine(index.servers_of_user(alice))), {"one.example", OURS}
            )
            self.assertTrue(wait(Deferred.fromCoroutine(index.shares("one.example", self.room_nid))))
            self.assertFalse(wait(Deferred.fromCoroutine(index.shares("two.example", self.room_nid))))
            self.assertTrue(wait(Deferred.fromCoroutine(index.is_joined(remote, self.room_nid))))
            self.assertFalse(wait(Deferred.fromCoroutine(index.is_joined(remote + 10**6, self.room_nid))))

    def test_servers_that_others_tell_of_are_sent_to_and_not_believed(self) -> None:
        self.index.others = lambda room_nid: ["far.example"] if room_nid == self.room_nid else ()
        self.assertEqual(self.servers(), ["far.example", OURS])
        self.assertFalse(
            self.app.wait(Deferred.fromCoroutine(self.index.shares("far.example", self.room_nid)))
        )
        for server, may_share in ((OURS, True), ("far.example", True), ("elsewhere.example", False)):
            asking = Deferred.fromCoroutine(self.index.may_share(server, self.room_nid))
            self.assertEqual(may_share, self.app.wait(asking), server)

    def test_a_server_that_went_and_came_while_it_was_away(self) -> None:
        self.join("@a:one.example", "@x:one.example:1", "@y:o_e.example")
        before = self.pos
        self.leave("@a:one.example")
        went = self.pos
        self.join("@b:one.example")
        came = self.pos

        def stays(server: str, since: int) -> object:
            return self.app.wait(self.app.database.read(load_stays, server, [self.room_nid], since))

        # From the room's members, from the server's users, and where these are too many.
        for few_rooms, few_users in ((1, 5_000), (0, 5_000), (0, 0)):
            self.patch(stays_module, "FEW_ROOMS", few_rooms)
            self.patch(stays_module, "FEW_USERS", few_users)
            self.assertEqual(stays("one.example", before), {self.room_nid: Stay(True, (went, came))})
            self.assertEqual(stays("one.example", went), {self.room_nid: Stay(False, (came,))})
            self.assertEqual(stays("one.example", came), {self.room_nid: Stay(True, ())})
            self.assertEqual(stays("one.example:1", came), {self.room_nid: Stay(True, ())})
            # Neither a sign of LIKE's nor the end of a name makes another server of one.
            self.assertEqual(stays("%", before), {})
            self.assertEqual(stays("one_example", before), {})
            self.assertEqual(stays("O_E.example", before), {})
            self.assertEqual(stays("ample", before), {})

    def test_the_log_moves_while_a_room_is_read(self) -> None:
        """What is committed between the read and its answer is neither lost nor counted twice."""
        self.join("@a:one.example")
        gate: Deferred[None] = Deferred()
        index, read = self.fresh(), self.app.database.read

        def slow(unit: Any, *args: Any) -> Any:
            found = read(unit, *args)
            return gate.addCallback(lambda _: found) if unit is load_occupancy else found

        self.app.app.core.changes.subscribe(index.apply)
        self.app.database.read = slow  # type: ignore[method-assign, assignment]
        asked: Deferred[Collection[str]] = Deferred.fromCoroutine(index.servers_in(self.room_nid))
        self.app.database.read = read  # type: ignore[method-assign]
        self.assertFalse(asked.called)
        self.join("@b:two.example")
        self.leave("@a:one.example")
        gate.callback(None)
        found: Collection[str] = self.app.wait(asked)
        self.assertEqual(list(found), [OURS, "two.example"])
        self.join("@c:two.example")
        self.leave("@b:two.example")
        self.assertEqual(self.servers(index), [OURS, "two.example"])
