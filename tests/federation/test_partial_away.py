"""What is said while the members of a room are still to come, and a server that is away then."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.ids import ServerName
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.transport import PeerRequest
from homeserver.peers.sender import FOLLOWER
from homeserver.rooms.federated import partial
from homeserver.store import outgoing, room_answers
from homeserver.store.changes import load_cursors, store_cursors
from homeserver.store.hearsay import load_hearsay, sweep_hearsay
from homeserver.store.outgoing import load_destinations, store_destinations
from homeserver.store.partial import load_partial_joins
from tests.federation.people import V3, A, B, C
from tests.federation.test_partial import BOB, CAROL, PartialCase
from tests.support.databases import on_each_database

ALICE = f"@alice:{A}"
D = "d.example"
# Longer than c waits between two attempts after all the others.
WHILE_S = 3_600


@on_each_database
class Away(PartialCase):
    """b, of which c knows by a's word alone, does not hear what carol says."""

    def setUp(self) -> None:
        super().setUp()
        self.lost: set[str] = set()
        self.net.tamper(self.lose)

    def lose(self, origin: ServerName, request: PeerRequest) -> Exception | None:
        """What c sends to these does not arrive; what they send does."""
        lost = origin == C and request.destination in self.lost and "/send/" in request.uri
        return ConnectionError("it is away") if lost else None

    def make(self, **body: Any) -> str:
        return super().make(power_level_content_override={"state_default": 0}, **body)

    def talk(self, room_id: str, *texts: str) -> None:
        """carol says things and sets the topic, and b hears of nothing."""
        self.lost.add(B)
        for text in texts:
            self.say(self.c, self.carol, room_id, text)
            self.net.advance(30)
        self.ok(self.c, self.carol, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": "talk"})
        self.net.advance(30)

    def back(self) -> None:
        """Everybody is reached again, and is the next time that c tries."""
        self.lost.clear()
        self.net.requests.clear()
        self.net.advance(WHILE_S)

    def told(self, server: str) -> list[str]:
        """What c has told a server since it is back."""
        pdus = [pdu for one in self.net.sent("/send/", C, server) for pdu in one.json["pdus"]]
        contents = [pdu["content"] for pdu in pdus]
        return [one.get("body") or one.get("topic") for one in contents]

    def test_back_after_the_members_have_come(self) -> None:
        room_id = self.make()
        self.talk(room_id, "one", "two")
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.back()
        self.assertEqual(["one", "two", "talk"], self.told(B))

    def test_more_than_is_read_of_a_room(self) -> None:
        """b gets the newest that it is owed of each, also where it is in a room no longer."""
        other_id = self.make()
        self.release()
        for leaves in (False, True):
            room_id = self.make()
            self.talk(room_id, "one", "two", "three")
            if leaves:
                self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
                self.net.advance(30)
            self.release()
            self.assertTrue(self.progress(room_id)["finished"])
            self.say(self.c, self.carol, room_id, "after")
            self.say(self.c, self.carol, other_id, f"elsewhere {leaves}")
            self.patch(outgoing, "OWED_MOST", 2)
            self.back()
            self.assertEqual(["one", "talk" if leaves else "after", f"elsewhere {leaves}"], self.told(B))
            self.patch(outgoing, "OWED_MOST", 500)

    def test_restarts_before_and_after_the_members_come(self) -> None:
        room_id = self.make()
        self.talk(room_id, "one", "two")
        self.c.restart()
        self.net.advance(30)
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.c.restart()
        self.back()
        self.assertEqual(["one", "two", "talk"], self.told(B))

    def test_another_user_of_it_joins_meanwhile(self) -> None:
        self.join_meanwhile(whole=False)

    def test_another_user_of_it_joined_meanwhile(self) -> None:
        self.join_meanwhile(whole=True)

    def join_meanwhile(self, *, whole: bool) -> None:
        """To c it looks as if b came into the room with that user."""
        room_id = self.make()
        self.talk(room_id, "one", "two")
        dan = self.b.register("dan")
        self.assertEqual(200, self.join(self.b, dan, room_id, A).status)
        self.net.advance(30)
        self.assertIn(("m.room.member", f"@dan:{B}"), self.state(self.c, self.carol, room_id))
        self.say(self.c, self.carol, room_id, "three")
        self.net.advance(30)
        if whole:
            self.release()
        self.assertIs(whole, self.progress(room_id)["finished"])
        self.back()
        self.assertEqual(["one", "two", "talk", "three"], self.told(B))

    def test_a_crash_before_it_was_sent(self) -> None:
        """c looks at its last seconds again when the members have come already."""
        room_id = self.make()
        self.net.advance(30)
        cursor = self.c.wait(self.c.database.read(load_cursors))[FOLLOWER]
        self.talk(room_id, "one", "two")
        self.release()
        self.net.advance(30)
        self.assertTrue(self.progress(room_id)["finished"])
        work = self.c.app.core.committer.work
        self.c.wait(work(store_cursors, [(FOLLOWER, cursor)]))
        owing = [row.server_name for row in self.c.wait(self.c.database.read(load_destinations))]
        self.c.wait(work(store_destinations, [], owing))
        self.c.restart()
        self.back()
        self.assertEqual(["one", "two", "talk"], self.told(B))

    def test_who_came_later_hears_nothing_earlier(self) -> None:
        d = self.server(D)
        dora = d.register("dora")
        room_id = self.make()
        self.lost.add(D)
        self.say(self.c, self.carol, room_id, "early")
        self.net.advance(30)
        self.assertEqual(200, self.join(d, dora, room_id, A).status)
        self.net.advance(30)
        self.say(self.c, self.carol, room_id, "late")
        self.net.advance(30)
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.c.restart()
        self.back()
        self.assertEqual(["late"], self.told(D))

    def test_it_is_remembered_for_as_long_as_somebody_is_behind(self) -> None:
        room_id = self.make()
        room_nid = self.c.app.core.interner.known_room(room_id) or 0

        def kept() -> int:
            self.c.wait(self.c.app.core.committer.work(sweep_hearsay, FOLLOWER))
            return len(self.c.wait(self.c.database.read(load_hearsay, [room_nid], 0)))

        self.assertEqual(1, kept())
        self.talk(room_id, "one")
        self.release()
        self.net.advance(30)
        self.assertEqual(1, kept())
        self.back()
        self.net.advance(30)
        self.assertEqual(0, kept())


@on_each_database
class LostAnswers(PartialCase):
    """The database makes the commit that has carol in the room, and its answer is lost: her client hears of a failure."""

    def make(self, **body: Any) -> str:
        room_id = self.found(**body)
        self.c.lose_answer("partial_joins")
        self.assertEqual(503, self.join(self.c, self.carol, room_id, A).status)
        self.c.log.entries.clear()
        return room_id

    def heard(self, room_id: str) -> list[Any]:
        """What bob's server was told of carol's messages."""
        events = self.sync(self.b, self.bob)["rooms"]["join"][room_id]["timeline"]["events"]
        return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]

    def test_it_becomes_whole(self) -> None:
        room_id = self.make()
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.say(self.c, self.carol, room_id, "one")
        self.net.advance(30)
        self.assertEqual(["one"], self.heard(room_id))
        path = f"{V3}/rooms/{quote(room_id)}/joined_members"
        waiting = self.c.start("GET", path, None, self.carol)
        self.net.settle()
        self.assertFalse(waiting.called)
        self.release()
        self.assertEqual({ALICE, BOB, CAROL}, set(self.net.wait(waiting).json["joined"]))
        self.assertTrue(self.progress(room_id)["finished"])
        self.say(self.c, self.carol, room_id, "two")
        self.net.advance(30)
        self.assertEqual(["one", "two"], self.heard(room_id))
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_what_is_said_before_it_is_known(self) -> None:
        """That the members are to come cannot be read for a while, and everything else can."""
        failing = [True]

        def fail(tx: Any) -> Any:
            if failing:
                raise DatabaseUnavailable("gone")
            return load_partial_joins(tx)

        self.patch(partial, "load_partial_joins", fail)
        room_id = self.make()
        self.net.advance(10)
        self.say(self.c, self.carol, room_id, "early")
        self.net.advance(10)
        self.assertEqual(["early"], self.heard(room_id))
        failing.clear()
        self.c.log.entries.clear()
        self.net.advance(60)
        self.say(self.c, self.carol, room_id, "late")
        self.net.advance(10)
        self.assertEqual(["early", "late"], self.heard(room_id))
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])

    def test_a_restart(self) -> None:
        room_id = self.make()
        self.net.down(B)
        self.net.advance(10)
        self.say(self.c, self.carol, room_id, "one")
        self.net.advance(10)
        self.c.restart()
        self.net.up(B)
        self.net.advance(WHILE_S)
        self.assertEqual(["one"], self.heard(room_id))
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])

    def test_who_comes_back_to_all_of_it(self) -> None:
        """Nobody waits for the members that the stay before lacks."""
        room_id = super().make()
        self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.advance(30)
        self.patch(room_answers, "FEW_MEMBERS", 1000)
        self.c.lose_answer("earlier_joins")
        self.assertEqual(503, self.join(self.c, self.carol, room_id, A).status)
        self.c.log.entries.clear()
        self.net.advance(10)
        waiting = self.c.start("GET", f"{V3}/rooms/{quote(room_id)}/joined_members", None, self.carol)
        self.net.settle()
        self.assertTrue(waiting.called)
        self.assertEqual({ALICE, BOB, CAROL}, set(self.net.wait(waiting).json["joined"]))
