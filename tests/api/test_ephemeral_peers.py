"""Typing, receipts and presence across servers: what we tell, and what we make of what others tell."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import succeed

from homeserver.config.schema import Switch
from homeserver.ephemeral import remote_presence
from homeserver.peers import presence_out
from homeserver.peers.edus_in import TYPING_MS
from homeserver.peers.edus_out import RECEIPTS_WAIT_S, RENEW_S
from homeserver.peers.presence_out import EVERY_S, REPEAT_S
from homeserver.rooms.federated import remote_receipts
from homeserver.runtime.tasks import TaskGroup
from tests.api.rooms import V3
from tests.api.sending import HOME, SEND, Mailbox, SendingCase
from tests.api.servers import place_event, set_membership
from tests.support.databases import on_each_database

ALICE, USER, OTHER = f"@alice:{HOME}", "@user:one.example", "@other:one.example"


class Moments(SendingCase):
    """Alice and a user of another server in a room."""

    def setUp(self) -> None:
        super().setUp()
        (self.one,) = self.join("one.example")
        self.number = 0

    def sync(self, since: str | None = None) -> Any:
        query: dict[str, Any] = {"timeout": 0} if since is None else {"timeout": 0, "since": since}
        return self.home.ok("GET", f"{V3}/sync", None, self.alice, query)

    def ephemeral(self, since: str | None = None) -> dict[str, Any]:
        room = self.sync(since).get("rooms", {}).get("join", {}).get(self.room_id, {})
        return {event["type"]: event["content"] for event in room.get("ephemeral", {}).get("events", ())}

    def tell(self, edu_type: str, content: Any, box: Mailbox | None = None) -> None:
        """Another server sends an EDU."""
        sender = box or self.one
        self.number += 1
        transaction = {
            "origin": sender.name,
            "origin_server_ts": self.net.now_ms,
            "pdus": [],
            "edus": [{"edu_type": edu_type, "content": content}],
        }
        status, answer = sender.stranger.ask(HOME, "PUT", f"{SEND}{self.number}", transaction)
        self.assertEqual((status, answer), (200, {"pdus": {}}))
        self.net.settle()

    def type(self, typing: bool, timeout: int = 30_000) -> None:
        path = f"{V3}/rooms/{self.room_id}/typing/{ALICE}"
        self.home.ok("PUT", path, {"typing": typing, "timeout": timeout}, self.alice)
        self.net.settle()

    def read(self, event_id: str, kind: str = "m.read", **body: Any) -> None:
        self.home.ok("POST", f"{V3}/rooms/{self.room_id}/receipt/{kind}/{event_id}", body, self.alice)


@on_each_database
class TypingOut(Moments):
    def states(self, box: Mailbox | None = None) -> list[bool]:
        found = (box or self.one).told("m.typing")
        for content in found:
            self.assertEqual(sorted(content), ["room_id", "typing", "user_id"])
            self.assertEqual((content["room_id"], content["user_id"]), (self.room_id, ALICE))
        return [content["typing"] for content in found]

    def test_begin_and_end(self) -> None:
        self.type(True)
        self.type(True)
        self.assertEqual(self.states(), [True])
        self.type(False)
        self.type(False)
        self.assertEqual(self.states(), [True, False])

    def test_it_ends_by_itself_and_is_told_again_before_others_forget(self) -> None:
        for _ in range(int(2 * RENEW_S) // 5):
            self.type(True, 10_000)
            self.net.advance(5)
        self.assertEqual(self.states(), [True, True])
        self.net.advance(20)
        self.assertEqual(self.states(), [True, True, False])

    def test_who_leaves_stops(self) -> None:
        self.type(True)
        self.home.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.alice)
        self.net.settle()
        self.assertEqual(self.states(), [True, False])

    def test_only_the_latest_waits_for_a_server_that_is_busy(self) -> None:
        self.one.answer = None
        self.say("x")
        self.net.settle()
        self.type(True)
        self.type(False)
        self.type(True)
        self.type(False)
        self.one.answer = (200, {"pdus": {}})
        self.net.advance(65)
        self.assertEqual(self.states(), [False])

    def test_nothing_is_kept_for_who_is_away(self) -> None:
        self.net.down("one.example")
        self.say("x")
        self.net.advance(10)
        self.type(True)
        self.net.up("one.example")
        self.net.advance(25)
        self.assertEqual((self.states(), self.one.bodies), ([], ["x"]))

    def test_what_others_type_is_not_sent_on(self) -> None:
        two = Mailbox(self.net, "two.example")
        self.move("@user:two.example", "join")
        self.tell("m.typing", {"room_id": self.room_id, "user_id": USER, "typing": True})
        self.net.advance(1)
        self.assertEqual((two.edus, self.one.edus), ([], []))


@on_each_database
class ReceiptsOut(Moments):
    def test_public_receipts_go_out_together(self) -> None:
        first, second = self.say("first"), self.say("second")
        thread = {"rel_type": "m.thread", "event_id": first}
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/t"
        body = {"msgtype": "m.text", "body": "in it", "m.relates_to": thread}
        reply = self.home.ok("PUT", path, body, self.alice)["event_id"]
        self.net.settle()
        self.read(first)
        self.read(second)
        self.read(second, "m.read.private")
        self.read(reply, thread_id=first)
        ts_ms = self.net.now_ms
        self.net.settle()
        self.assertEqual(self.one.told("m.receipt"), [])
        self.net.advance(RECEIPTS_WAIT_S)
        unthreaded = {"data": {"ts": ts_ms}, "event_ids": [second]}
        threaded = {"data": {"ts": ts_ms, "thread_id": first}, "event_ids": [reply]}
        self.assertEqual(
            self.one.told("m.receipt"),
            [
                {self.room_id: {"m.read": {ALICE: unthreaded}}},
                {self.room_id: {"m.read": {ALICE: threaded}}},
            ],
        )
        self.assertEqual(len({id(one) for one in self.one.taken if one.get("edus")}), 1, "one transaction")

    def test_receipts_of_others_are_not_sent_on(self) -> None:
        two = Mailbox(self.net, "two.example")
        self.move("@user:two.example", "join")
        event_id = self.say("x")
        receipt = {"event_ids": [event_id], "data": {"ts": 5}}
        self.tell("m.receipt", {self.room_id: {"m.read": {USER: receipt}}})
        self.net.advance(2)
        self.assertEqual(two.told("m.receipt"), [])


@on_each_database
class TypingIn(Moments):
    def begin(self, user_id: str = USER, typing: Any = True, room_id: Any = None, box: Any = None) -> Any:
        content = {"room_id": room_id or self.room_id, "user_id": user_id, "typing": typing}
        self.tell("m.typing", content, box)
        return self.ephemeral().get("m.typing", {}).get("user_ids", [])

    def test_begins_and_ends(self) -> None:
        self.assertEqual(self.begin(), [USER])
        self.assertEqual(self.begin(typing=False), [])
        self.assertEqual(self.begin(), [USER])
        self.net.advance(TYPING_MS / 1000 + 1)
        self.assertEqual(self.ephemeral(), {})

    def test_only_who_is_in_the_room(self) -> None:
        self.move("@gone:one.example", "join")
        self.move("@gone:one.example", "leave")
        two = Mailbox(self.net, "two.example")
        for user_id, box in (
            ("@gone:one.example", self.one),
            ("@unknown:one.example", self.one),
            (ALICE, self.one),
            ("@user:two.example", two),
            (USER, two),
        ):
            self.assertEqual(self.begin(user_id, box=box), [], user_id)
        self.assertEqual(self.begin(room_id="!unknown:one.example"), [])
        self.assertEqual(self.begin(room_id="!nul\0:one.example"), [])

    def test_not_in_a_room_that_we_have_left(self) -> None:
        self.home.ok("POST", f"{V3}/rooms/{self.room_id}/leave", {}, self.alice)
        self.begin()
        room_nid = self.home.app.core.interner.known_room(self.room_id) or 0
        self.assertEqual(self.home.app.services.typing.users_in(room_nid), [])


@on_each_database
class ReceiptsIn(Moments):
    def receipt(self, event_id: str, user_id: str = USER, kind: str = "m.read", **data: Any) -> None:
        receipt = {"event_ids": [event_id], "data": {"ts": 5, **data}}
        self.tell("m.receipt", {self.room_id: {kind: {user_id: receipt}}})

    def receipts(self) -> Any:
        return self.ephemeral().get("m.receipt", {})

    def test_are_stored_and_shown(self) -> None:
        first, second = self.say("first"), self.say("second")
        self.receipt(second)
        self.receipt(first)
        shown = {second: {"m.read": {USER: {"ts": 5}}}}
        self.assertEqual(self.receipts(), shown)
        self.home.restart()
        self.assertEqual(self.receipts(), shown)

    def test_one_that_overtook_its_event(self) -> None:
        event_id = place_event(self.home, self.room_id, "m.room.message", {"body": "x"}, None, USER)
        placed = self.home.app.core.changes.since(self.home.app.core.changes.position - 1)
        assert placed is not None
        sink, (change,) = self._sink(), placed
        find: Any = remote_receipts.__dict__["find_targets"]
        self.patch(remote_receipts, "find_targets", lambda *_: {})
        self.receipt(event_id)
        self.assertEqual((self.receipts(), sink.waiting), ({}, 1))
        self.patch(remote_receipts, "find_targets", find)
        sink.apply([change])
        self.net.settle()
        self.assertEqual((self.receipts(), sink.waiting), ({event_id: {"m.read": {USER: {"ts": 5}}}}, 0))

    def test_one_whose_event_comes_while_it_is_looked_for(self) -> None:
        event_id = place_event(self.home, self.room_id, "m.room.message", {"body": "x"}, None, USER)
        log, sink = self.home.app.core.changes, self._sink()
        placed = log.since(log.position - 1)
        assert placed is not None
        looks: list[Any] = []
        read = sink._database.read

        def look(unit: Any, *args: Any) -> Any:
            if unit is remote_receipts.__dict__["find_targets"]:
                looks.append(args)
                if len(looks) == 1:
                    sink.apply(placed)
                    return succeed({})  # as it was before the event
            return read(unit, *args)

        self.patch(sink._database, "read", look)
        self.receipt(event_id)
        self.assertEqual((self.receipts(), sink.waiting), ({event_id: {"m.read": {USER: {"ts": 5}}}}, 0))

    def test_more_than_are_looked_for(self) -> None:
        """Those beyond do not wait for what may be here."""
        self.move(OTHER, "join")
        first, second = self.say("first"), self.say("second")
        self.patch(remote_receipts, "EVENTS_MOST", 1)
        receipts = {
            user_id: {"event_ids": [event_id], "data": {"ts": 5}}
            for user_id, event_id in ((USER, first), (OTHER, second))
        }
        self.tell("m.receipt", {self.room_id: {"m.read": receipts}})
        self.assertEqual((1, 0), (len(self.receipts()), self._sink().waiting))

    def test_an_event_that_comes_while_the_server_stops(self) -> None:
        event_id = self.say("last")
        log = self.home.app.core.changes
        changes = log.since(log.position - 1)
        assert changes is not None
        sink = self._sink()
        self.patch(remote_receipts, "find_targets", lambda *_: {})
        self.receipt(event_id)
        around = self.home.app.core.around
        tasks = TaskGroup(around.clock, around.log)
        tasks.stop()
        self.patch(sink, "_tasks", tasks)
        sink.apply(changes)  # who follows the log does not raise
        self.assertEqual(1, sink.waiting)

    def test_those_that_wait_are_bounded(self) -> None:
        self.patch(remote_receipts, "WAITING_MOST", 3)
        for number in range(5):
            self.receipt(f"$unknown{number}")
            self.receipt(f"$unknown{number}")
        self.assertEqual(self._sink().waiting, 3)

    def test_threads(self) -> None:
        root = self.say("root")
        thread = {"rel_type": "m.thread", "event_id": root}
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/t"
        body = {"msgtype": "m.text", "body": "in it", "m.relates_to": thread}
        reply = self.home.ok("PUT", path, body, self.alice)["event_id"]
        self.receipt(reply, thread_id=root)
        self.receipt(root, thread_id="main")
        # What names no thread of the event's would be a row for whatever somebody thinks of.
        self.receipt(root, thread_id="$else")
        self.receipt(root, thread_id="nul\0")
        self.receipt(root, thread_id="")
        self.receipt(root, thread_id=5)
        self.assertEqual(
            self.receipts(),
            {
                reply: {"m.read": {USER: {"ts": 5, "thread_id": root}}},
                root: {"m.read": {USER: {"ts": 5, "thread_id": "main"}}},
            },
        )

    def test_what_is_not_theirs_to_say(self) -> None:
        event_id = self.say("x")
        self.move("@gone:one.example", "join")
        self.move("@gone:one.example", "leave")
        for user_id in ("@gone:one.example", "@unknown:one.example", ALICE, "@user:two.example"):
            self.receipt(event_id, user_id)
        self.receipt(event_id, kind="m.read.private")
        self.receipt(event_id, kind="org.example")
        self.receipt("$nul\0")
        self.receipt(event_id, ts=-1)
        elsewhere = self.say("elsewhere", self.create())
        self.receipt(elsewhere)
        self.assertEqual(self.receipts(), {})

    def _sink(self) -> Any:
        edus: Any = self.home.app.services.incoming.receiver._edus
        return edus._ephemeral._receipts


class PresenceCase(Moments):
    presence = Switch(enabled=True)

    def set_state(self, state: str, **body: Any) -> None:
        self.home.ok("PUT", f"{V3}/presence/{ALICE}/status", {"presence": state, **body}, self.alice)

    def heard(self, box: Mailbox | None = None) -> list[Any]:
        return [
            (update["user_id"], update["presence"])
            for content in (box or self.one).told("m.presence")
            for update in content["push"]
        ]


@on_each_database
class PresenceOut(PresenceCase):
    def setUp(self) -> None:
        super().setUp()
        self.net.advance(2 * EVERY_S)
        self.one.taken.clear()

    def test_changes_are_told_together_and_once(self) -> None:
        bob = self.home.register("bob")
        self.home.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.net.advance(EVERY_S)
        self.one.taken.clear()
        self.set_state("online")
        self.set_state("unavailable", status_msg="busy")
        path = f"{V3}/presence/@bob:{HOME}/status"
        self.home.ok("PUT", path, {"presence": "online"}, bob)
        self.net.settle()
        self.assertEqual(self.heard(), [])
        self.net.advance(EVERY_S)
        self.assertEqual(sorted(self.heard()), [(ALICE, "unavailable"), (f"@bob:{HOME}", "online")])
        (content,) = self.one.told("m.presence")
        update = next(one for one in content["push"] if one["user_id"] == ALICE)
        self.assertEqual((update["status_msg"], update["currently_active"]), ("busy", False))
        self.assertIs(type(update["last_active_ago"]), int)

    def test_only_servers_that_share_a_room(self) -> None:
        other = self.home.register("other")
        room_id = self.home.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, other)["room_id"]
        two = Mailbox(self.net, "two.example")
        self.move("@user:two.example", "join", room_id)
        self.net.advance(2 * EVERY_S)
        self.set_state("unavailable")
        self.net.advance(EVERY_S)
        self.assertEqual(self.heard(), [(ALICE, "unavailable")])
        self.assertNotIn(ALICE, [user_id for user_id, _ in self.heard(two)])

    def test_who_comes_into_a_room_is_told_who_is_there(self) -> None:
        self.set_state("online")
        self.net.advance(EVERY_S)
        two = Mailbox(self.net, "two.example")
        self.move("@user:two.example", "join")
        self.move("@second:two.example", "join")
        self.net.advance(EVERY_S)
        self.assertEqual(self.heard(two), [(ALICE, "online")])

    def test_the_servers_of_a_room_that_one_of_us_joins(self) -> None:
        bob = self.home.register("bob")
        path = f"{V3}/presence/@bob:{HOME}/status"
        self.home.ok("PUT", path, {"presence": "online"}, bob)
        self.net.advance(EVERY_S)
        self.assertEqual(self.heard(), [])
        self.home.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.net.advance(EVERY_S)
        self.assertEqual(self.heard(), [(f"@bob:{HOME}", "online")])

    def test_what_many_servers_are_told_is_written_once(self) -> None:
        two = Mailbox(self.net, "two.example")
        self.move("@user:two.example", "join")
        self.net.advance(2 * EVERY_S)
        bob = self.home.register("bob")
        room_id = self.home.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, bob)["room_id"]
        self.move("@user:two.example", "join", room_id)
        self.net.advance(2 * EVERY_S)
        self.one.taken.clear()
        two.taken.clear()
        with mock.patch.object(self.sender, "enqueue_edu", wraps=self.sender.enqueue_edu) as enqueued:
            self.set_state("unavailable")
            self.net.advance(EVERY_S)
            self.assertEqual(1, len({id(call.args[1]) for call in enqueued.call_args_list}))
            path = f"{V3}/presence/@bob:{HOME}/status"
            self.home.ok("PUT", path, {"presence": "unavailable"}, bob)
            self.set_state("online")
            self.net.advance(EVERY_S)
        alice = [(ALICE, "unavailable"), (ALICE, "online")]
        self.assertEqual(alice, self.heard())
        self.assertEqual(sorted([*alice, (f"@bob:{HOME}", "unavailable")]), sorted(self.heard(two)))
        # Whoever is told of both hears of them together.
        self.assertEqual(2, len(two.told("m.presence")))

    def test_who_stays_online_is_told_again(self) -> None:
        self.set_state("online")
        self.net.advance(EVERY_S)
        self.one.taken.clear()
        for _ in range(int(REPEAT_S) // 30 + 1):
            self.sync()
            self.net.time.advance(30)
        self.net.advance(EVERY_S)
        # Once because nothing was done for a while, and once more for those who would forget.
        self.assertEqual(self.heard(), [(ALICE, "unavailable")] * 2)

    def test_many_are_told_of_some_at_a_time(self) -> None:
        bob = self.home.register("bob")
        self.home.ok("POST", f"{V3}/join/{self.room_id}", {}, bob)
        self.home.ok("PUT", f"{V3}/presence/@bob:{HOME}/status", {"presence": "online"}, bob)
        self.set_state("online")
        self.patch(presence_out, "USERS_A_TURN", 1)
        self.net.advance(EVERY_S)
        self.assertEqual({(ALICE, "online"), (f"@bob:{HOME}", "online")}, set(self.heard()))
        for _ in range(2 * int(REPEAT_S) // 30):
            self.sync()
            self.home.ok("GET", f"{V3}/sync", None, bob)
            self.net.time.advance(30)
        self.net.advance(EVERY_S)
        told = [[one["user_id"] for one in content["push"]] for content in self.one.told("m.presence")]
        self.assertEqual({1}, {len(users) for users in told})
        # At first, when they do nothing, and then each again, twice.
        self.assertEqual([4, 4], [told.count([user_id]) for user_id in (ALICE, f"@bob:{HOME}")])

    def test_before_a_stop_everybody_is_gone(self) -> None:
        self.set_state("online")
        self.net.advance(EVERY_S)
        self.one.taken.clear()
        self.home.app.release_waiters()
        self.net.settle()
        self.assertEqual(self.heard(), [(ALICE, "offline")])
        (content,) = self.one.told("m.presence")
        self.assertIs(type(content["push"][0]["last_active_ago"]), int)

    def test_nothing_for_who_is_away(self) -> None:
        self.net.down("one.example")
        self.say("x")
        self.net.advance(10)
        self.set_state("unavailable")
        self.net.advance(EVERY_S)
        link = self.sender._links["one.example"]
        self.assertEqual(link.machine._edus, {})


@on_each_database
class PresenceIn(PresenceCase):
    def put(
        self, user_id: str = USER, presence: Any = "online", box: Mailbox | None = None, **fields: Any
    ) -> None:
        update = {"user_id": user_id, "presence": presence, "last_active_ago": 5000, **fields}
        self.tell("m.presence", {"push": [update]}, box)

    def status(self, user_id: str = USER) -> Any:
        return self.home.call("GET", f"{V3}/presence/{user_id}/status", None, self.alice)

    def seen(self, since: str | None = None) -> dict[str, Any]:
        events = self.sync(since).get("presence", {}).get("events", ())
        return {event["sender"]: event["content"] for event in events if event["sender"] != ALICE}

    def test_is_shown(self) -> None:
        self.assertEqual(self.status(), (200, {"presence": "offline"}))
        since = self.sync()["next_batch"]
        self.put(currently_active=True, status_msg="hi")
        content = {
            "presence": "online",
            "last_active_ago": 5000,
            "currently_active": True,
            "status_msg": "hi",
        }
        self.assertEqual(self.status(), (200, content))
        self.assertEqual(self.seen(since), {USER: content})
        self.assertEqual(self.seen(), {USER: content})
        since = self.sync()["next_batch"]
        self.put(currently_active=True, status_msg="hi", last_active_ago=0)
        self.assertEqual(self.seen(since), {}, "the same again is no news")
        self.put(presence="offline")
        self.assertEqual(self.seen(since)[USER]["presence"], "offline")

    def test_a_long_poll_is_woken(self) -> None:
        since = self.sync()["next_batch"]
        waiting = self.home.start("GET", f"{V3}/sync", None, self.alice, {"since": since, "timeout": 30_000})
        self.put()
        self.net.advance(remote_presence.WAKE_S)
        answer: list[Any] = []
        waiting.addCallback(answer.append)
        self.net.settle()
        self.assertEqual(answer[0].json["presence"]["events"][0]["sender"], USER)

    def test_who_shares_no_room(self) -> None:
        self.move("@gone:one.example", "join")
        self.move("@gone:one.example", "leave")
        two = Mailbox(self.net, "two.example")
        for user_id, box in (
            ("@gone:one.example", None),
            ("@x:one.example", None),
            (USER, two),
            (ALICE, None),
        ):
            self.put(user_id, "unavailable", box)
        self.assertEqual(self.seen(), {})
        self.assertEqual(self.status("@gone:one.example")[0], 403)
        self.assertEqual(self.status("@x:one.example")[0], 403)

    def test_who_leaves_is_forgotten(self) -> None:
        self.put()
        remote: Any = self.home.app.services.presence
        remote = remote.remote
        self.assertEqual(len(remote), 1)
        set_membership(self.home, self.room_id, USER, "leave")
        self.assertEqual(len(remote), 0)
        self.assertEqual((self.seen(), self.status()[0]), ({}, 403))

    def test_silence_ends_it(self) -> None:
        self.put()
        since = self.sync()["next_batch"]
        self.home.time.advance(remote_presence.KEPT_S + 100)
        self.net.settle()
        self.assertEqual(self.seen(since)[USER]["presence"], "offline")
        self.home.time.advance(remote_presence.KEPT_S + 100)
        self.net.settle()
        remote: Any = self.home.app.services.presence
        remote = remote.remote
        self.assertEqual(len(remote), 0)

    def test_memory_is_bounded(self) -> None:
        self.patch(remote_presence, "USERS_MOST", 2)
        for number in range(3):
            self.move(f"@u{number}:one.example", "join")
            self.put(f"@u{number}:one.example")
        self.assertEqual(sorted(self.seen()), ["@u1:one.example", "@u2:one.example"])

    def test_shapes(self) -> None:
        for fields in ({"presence": 5}, {"presence": "away"}, {"status_msg": 5}, {"last_active_ago": -1}):
            self.put(**fields)
        self.tell("m.presence", {"push": {}})
        self.tell("m.presence", {"push": [5, None, {}]})
        self.assertEqual(self.seen(), {})
