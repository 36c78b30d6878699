"""Hot paths have a budget of SQL statements: who makes one dearer hears of it here.

What is counted is what the engine's hook sees: every statement of every unit of work. COMMIT is counted apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.api.rooms import ALICE, BOB, V3
from tests.support.app import TestApp
from tests.support.counting import Counted, count
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.keys import KeyDevice


@on_each_database
class Budgets(DatabaseCase):
    """A public room of alice and bob, both of whom have just used it."""

    def setUp(self) -> None:
        self.app = TestApp(self, database=self.new_database())
        self.alice, self.bob = self.app.register("alice"), self.app.register("bob")
        self.room_id = self.create()
        self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)
        for number in range(3):
            self.say(f"warm{number}")
        self.since = self.sync()["next_batch"]
        # What was put off (when a device was last seen) is written now, and not while we count.
        self.app.advance(60)
        for _ in range(20):
            self.app.advance(0)

    def create(self, **body: Any) -> str:
        room_id: str = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat", **body}, self.alice)[
            "room_id"
        ]
        return room_id

    def say(self, transaction_id: str, **content: Any) -> str:
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/{transaction_id}"
        body = {"msgtype": "m.text", "body": "hi", **content}
        event_id: str = self.app.ok("PUT", path, body, self.alice)["event_id"]
        return event_id

    def sync(self, since: str | None = None, **query: Any) -> Any:
        wanted = query if since is None else {"since": since, **query}
        return self.app.ok("GET", f"{V3}/sync", None, self.bob, wanted)

    def messages(self, **query: Any) -> Any:
        path = f"{V3}/rooms/{self.room_id}/messages"
        return self.app.ok("GET", path, None, self.bob, {"dir": "b", "limit": 10, **query})

    def count(self, step: Callable[[], object]) -> Counted:
        """What a step costs."""
        return count(self.app, step)

    # --- writing -------------------------------------------------------------------------------------

    def test_a_message_in_a_warm_room(self) -> None:
        counted = self.count(lambda: self.say("one"))
        # One statement a table: that of the head says whether its version is what the event was built on.
        self.assertEqual(
            [
                "room_heads",
                "events",
                "event_json",
                "edges",
                "client_transactions",
                "stream",
                "timeline",
                "changes",
            ],
            counted.written,
            counted,
        )
        self.assertEqual((8, 1), (len(counted.statements), counted.transactions), counted)
        # The answer of a retry is in memory.
        self.assertEqual([], self.count(lambda: self.say("one")).texts)

    def test_a_burst_of_messages_is_one_transaction(self) -> None:
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message"
        body = {"msgtype": "m.text", "body": "hi"}

        def burst() -> None:
            sent = [self.app.start("PUT", f"{path}/b{number}", body, self.alice) for number in range(20)]
            for one in sent:
                self.assertEqual(200, self.app.wait(one).status)

        counted = self.count(burst)
        self.assertEqual(1, counted.transactions, counted)
        # Rows go some at a time into a statement; twenty messages are far from twenty times the statements of one.
        self.assertLess(len(counted.statements), 4 * 8, counted)

    def test_a_new_room(self) -> None:
        self.create(name="first", topic="of its kind")
        counted = self.count(lambda: self.create(name="second", topic="with warm names"))
        self.assertEqual(1, counted.transactions, counted)
        self.assertEqual([], [table for table in counted.written if table in ("aliases", "published_rooms")])
        self.assertLessEqual(len(counted.statements), 30, counted)
        self.assertGreater(len(counted.statements), 10, counted)

    # --- reading -------------------------------------------------------------------------------------

    def test_an_idle_sync(self) -> None:
        counted = self.count(lambda: self.sync(self.since, timeout=0))
        self.assertEqual([], counted.texts, counted)

    def test_an_idle_sliding_sync_of_somebody_in_no_room(self) -> None:
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        carol = self.app.register("carol")
        pos = self.app.ok("POST", path, {}, carol)["pos"]
        query = {"pos": pos, "timeout": 0}
        counted = self.count(lambda: self.app.ok("POST", path, {}, carol, query))
        self.assertEqual([], counted.texts, counted)

    def test_an_idle_sync_of_a_device_with_keys(self) -> None:
        device_id = self.app.ok("GET", f"{V3}/account/whoami", None, self.bob)["device_id"]
        device = KeyDevice(BOB, device_id)
        keys = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("a", "b")}
        self.app.ok("POST", f"{V3}/keys/upload", keys, self.bob)
        claim = {"one_time_keys": {BOB: {device_id: "signed_curve25519"}}}
        counted = self.count(lambda: self.app.ok("POST", f"{V3}/keys/claim", claim, self.alice))
        self.assertEqual(["one_time_counts", "stream", "changes"], counted.written, counted)
        body = {"messages": {BOB: {device_id: {"n": 1}, "*": {"n": 2}}}}
        path = f"{V3}/sendToDevice/m.dummy/t1"
        counted = self.count(lambda: self.app.ok("PUT", path, body, self.alice))
        written = ["device_transactions", "stream", "to_device", "changes"]
        self.assertEqual((written, 1), (counted.written, counted.transactions), counted)
        found: list[Any] = []
        counted = self.count(lambda: found.append(self.sync(self.since, timeout=0)))
        # The messages; that the list is bob's own is known from the log.
        self.assertEqual(1, len(counted.statements), counted)
        self.assertEqual([1], [one["content"]["n"] for one in found[0]["to_device"]["events"]])
        # The next token says that they arrived.
        self.sync(found[0]["next_batch"], timeout=0)
        self.app.advance(0)
        counted = self.count(lambda: self.sync(found[0]["next_batch"], timeout=0))
        self.assertEqual([], counted.texts, counted)

    def test_a_long_poll(self) -> None:
        waiting: list[Any] = []
        query = {"since": self.since, "timeout": 30_000}
        counted = self.count(
            lambda: waiting.append(self.app.start("GET", f"{V3}/sync", None, self.bob, query))
        )
        self.assertEqual([], counted.texts, counted)
        sent = self.count(lambda: self.say("woken"))
        self.assertEqual(8, len(sent.statements), sent)
        counted = self.count(lambda: self.app.wait(waiting[0]))
        self.assertEqual([], counted.texts, counted)

    def test_an_incremental_sync_from_the_log(self) -> None:
        event_id = self.say("news")
        found: list[Any] = []
        counted = self.count(lambda: found.append(self.sync(self.since, timeout=0)))
        self.assertEqual([], counted.texts, counted)
        events = found[0]["rooms"]["join"][self.room_id]["timeline"]["events"]
        self.assertEqual([event_id], [event["event_id"] for event in events])

    def test_an_initial_sync(self) -> None:
        few = self.count(self.sync)
        self.assertGreater(len(few.statements), 0)
        for _ in range(10):
            self.app.ok("POST", f"{V3}/join/{self.create()}", {}, self.bob)
        self.sync()
        again = self.count(self.sync)
        self.assertLessEqual(len(again.statements), 14, again)

    def test_the_first_initial_sync_after_a_restart(self) -> None:
        """At any number of rooms the same: rooms are read together, and what is unread in them is as well."""
        found: list[list[tuple[str, int]]] = []
        for rooms in (3, 24):
            self.fill_rooms(rooms, 4)
            self.app.restart()
            counted = self.count(self.sync)
            # LIMIT(seven of them are of the process, and not of the user: the numbers of names, a token; and three are
            # of the device: what keys it has left, and whether a message waits for it)
            self.assertLessEqual(len(counted.statements), 31, counted)
            sections, backlogs = counted.units[-2:]
            self.assertEqual("load_sections", sections[0])
            # Whose rules, how far they have read, since when, what came then, who is there, and the texts.
            self.assertEqual(("load_backlogs", 6), backlogs)
            found.append(counted.units)
        self.assertEqual(found[0], found[1])
        # What comes then is counted in memory, in each of them.
        since = self.sync()["next_batch"]
        self.app.advance(60)
        for _ in range(20):
            self.app.advance(0)
        self.say("news")
        self.assertEqual([], self.count(lambda: self.sync(since, timeout=0)).texts)

    def test_the_first_counts_where_rules_ask_for_more(self) -> None:
        """Mentions of everybody (whose power?) and replies to what is in threads (in which?) in every room."""
        found: list[list[tuple[str, int]]] = []
        for rooms in (3, 12):
            for room_id in self.fill_rooms(rooms, 0):
                self.room_id = room_id
                root = self.say(f"{room_id}.root")
                thread = {"rel_type": "m.thread", "event_id": root}
                reply = self.say(f"{room_id}.reply", **{"m.relates_to": thread})
                reference = {"rel_type": "m.reference", "event_id": reply}
                self.say(f"{room_id}.reference", **{"m.relates_to": reference})
                self.say(f"{room_id}.all", **{"m.mentions": {"room": True}})
            self.app.restart()
            answers: list[Any] = []
            filter_ = '{"room":{"timeline":{"unread_thread_notifications":true}}}'
            counted = self.count(lambda: answers.append(self.sync(filter=filter_)))  # noqa: B023
            room = answers[0]["rooms"]["join"][self.room_id]
            self.assertEqual({"notification_count": 2, "highlight_count": 1}, room["unread_notifications"])
            self.assertEqual(
                [{"notification_count": 2, "highlight_count": 0}],
                list(room["unread_thread_notifications"].values()),
            )
            self.assertEqual("load_backlogs", counted.units[-1][0])
            self.assertLessEqual(counted.units[-1][1], 12, counted)
            found.append(counted.units)
        self.assertEqual(found[0], found[1])

    def fill_rooms(self, rooms: int, messages: int) -> list[str]:
        """Have bob in so many rooms; the new ones."""
        made: list[str] = []
        before = self.app.ok("GET", f"{V3}/joined_rooms", None, self.bob)["joined_rooms"]
        while len(before) + len(made) < rooms:
            self.room_id = self.create()
            made.append(self.room_id)
            self.app.ok("POST", f"{V3}/join/{self.room_id}", {}, self.bob)
            for number in range(messages):
                self.say(f"{self.room_id}.{number}")
        return made

    def test_a_first_screen_and_a_list_that_grows(self) -> None:
        """However many rooms a sliding sync tells of, one unit reads them and one transaction keeps what was told."""
        self.fill_rooms(6, 1)
        path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        wanted = [["m.room.name", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]

        def slide(last: int, pos: str | None) -> Any:
            lists = {"all": {"ranges": [[0, last]], "timeline_limit": 5, "required_state": wanted}}
            extensions = {name: {"enabled": True} for name in ("account_data", "receipts", "typing")}
            query = {} if pos is None else {"pos": pos}
            return self.app.ok("POST", path, {"lists": lists, "extensions": extensions}, self.bob, query)

        slide(9, None)
        answers: list[Any] = []
        first = self.count(lambda: answers.append(slide(1, None)))
        self.assertEqual(2, len(answers[0]["rooms"]))
        grown = self.count(lambda: answers.append(slide(5, answers[0]["pos"])))
        self.assertEqual(4, len(answers[1]["rooms"]))
        for counted in (first, grown):
            self.assertEqual([("_load_rooms", counted.units[0][1])], counted.units, counted)
            # Rooms without a name are called after their members, who take four of them.
            self.assertLessEqual(counted.units[0][1], 15, counted)
            self.assertEqual(1, counted.texts.count("COMMIT"), counted)
            self.assertEqual(["sliding_connections"] * 2, counted.written, counted)

    def test_a_page_of_messages(self) -> None:
        counted = self.count(self.messages)
        self.assertLessEqual(len(counted.statements), 5, counted)
        self.assertGreater(len(counted.statements), 0)
        # Nothing but the order of the timeline is asked for twice.
        counted = self.count(self.messages)
        self.assertEqual(1, len(counted.statements), counted)
        self.assertEqual([], counted.written)

    def test_members_of_a_room(self) -> None:
        found: list[Any] = []
        path = f"{V3}/rooms/{self.room_id}/joined_members"
        counted = self.count(lambda: found.append(self.app.ok("GET", path, None, self.bob)))
        self.assertEqual({ALICE, BOB}, set(found[0]["joined"]))
        self.assertLessEqual(len(counted.statements), 3, counted)

    def test_a_token_is_known(self) -> None:
        path = f"{V3}/account/whoami"
        self.assertEqual([], self.count(lambda: self.app.ok("GET", path, None, self.alice)).texts)
