"""Sticky events between servers. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354"""

from __future__ import annotations

from itertools import count
from typing import Any

from federation.event import Event
from homeserver.db.errors import DatabaseUnavailable
from homeserver.rooms import sticky as keeping
from homeserver.store import client_events, outgoing
from homeserver.store.changes import Kind
from homeserver.store.foreign import load_foreign
from homeserver.store.sticky import load_ends, relay_sticky
from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.federation.people import A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.failing import failing_once
from tests.support.federation import NetServer

ARGUMENT = "org.matrix.msc4354.sticky_duration_ms"
STICKY = "msc4354_sticky"
HOUR_MS = 3_600_000
FILTER = '{"room":{"timeline":{"limit":1}}}'


def section(answer: Any, room_id: str) -> list[str]:
    """The texts of the sticky events that a sync tells."""
    room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
    return [event["content"]["body"] for event in room.get(STICKY, {}).get("events", [])]


@on_each_database
class Received(ReceiveCase):
    """Mallory of another server sticks."""

    def setUp(self) -> None:
        super().setUp()
        self.enter()

    def stick(self, body: str, duration_ms: Any = HOUR_MS, **more: Any) -> Event:
        return self.room.make(
            "m.rtc.member",
            {"msgtype": "m.text", "body": body},
            ts=more.pop("ts", int(self.app.time.rightNow * 1000)),
            **{STICKY: {"duration_ms": duration_ms}},
            **more,
        )

    def told(self, since: str | None = None) -> list[str]:
        query = {"filter": FILTER, **({"since": since} if since else {})}
        return section(self.app.ok("GET", f"{V3}/sync", token=self.alice, query=query), self.room_id)

    def bury(self) -> None:
        """Something newer is all that a timeline holds."""
        path = f"{V3}/rooms/{self.room_id}/send/m.room.message/{self.app.entropy.id(8)}"
        self.app.ok("PUT", path, {"msgtype": "m.text", "body": "newer"}, self.alice)

    def test_told(self) -> None:
        event = self.stick("far")
        self.assert_taken(self.peer.push(self.app, event), event)
        self.bury()
        self.assertEqual(["far"], self.told())
        self.app.restart()
        self.assertEqual(["far"], self.told())

    def test_clocks_that_lie(self) -> None:
        now_ms = int(self.app.time.rightNow * 1000)
        future = self.stick("future", 60_000, ts=now_ms + 10 * HOUR_MS)
        past = self.stick("past", 60_000, ts=now_ms - 60_000)
        for event in (future, past):
            self.assert_taken(self.peer.push(self.app, event), event)
        self.bury()
        self.assertEqual(["future"], self.told())
        self.app.advance(60)
        self.assertEqual([], self.told())

    def test_what_is_left_of_what_comes_from_the_future(self) -> None:
        """It is counted from when the event came, wherever it is told."""
        since = self.app.ok("GET", f"{V3}/sync", token=self.alice)["next_batch"]
        now_ms = int(self.app.time.rightNow * 1000)
        event = self.stick("future", 600_000, ts=now_ms + 10 * HOUR_MS)
        self.assert_taken(self.peer.push(self.app, event), event)
        self.bury()
        for wait_s, left_ms in ((0, 600_000), (300, 300_000), (299, 1_000), (1, None), (3_600, None)):
            self.app.advance(wait_s)
            for restarted in (False, True):
                if restarted:
                    self.app.restart()
                self.assertEqual(([left_ms] * 2, [left_ms] if left_ms else []), self.left_of(event, since))

    def test_other_processes_know_what_is_left(self) -> None:
        log = self.app.app.core.changes
        before, now_ms = log.position, int(self.app.time.rightNow * 1000)
        event = self.stick("future", 600_000, ts=now_ms + 10 * HOUR_MS)
        self.assert_taken(self.peer.push(self.app, event), event)
        changes = self.app.wait(self.app.database.read(load_foreign, before, log.position))
        ends = [change.payload.sticky_until_ms for change in changes if change.kind == Kind.EVENT]
        self.assertEqual([now_ms + 600_000], ends)

    def test_what_is_left_after_a_moment_without_a_database(self) -> None:
        """An event whose end could not be read is not kept in memory as one that has none."""
        event = self.stick("here", 600_000)
        self.assert_taken(self.peer.push(self.app, event), event)
        self.app.restart()
        self.patch(client_events, "load_ends", failing_once(load_ends))
        path = f"{V3}/rooms/{self.room_id}/event/{event.event_id}"
        self.assertEqual(503, self.app.call("GET", path, token=self.alice)[0])
        self.app.log.entries.clear()
        found = self.app.ok("GET", path, token=self.alice)
        self.assertIn("msc4354_sticky_duration_ttl_ms", found["unsigned"])

    def left_of(self, event: Event, since: str) -> tuple[list[int | None], list[int]]:
        """For how long an event is still said to stick: in a timeline and on its own; and in the section."""
        rooms = []
        for limit in (50, 1):
            query = {"since": since, "filter": f'{{"room":{{"timeline":{{"limit":{limit}}}}}}}'}
            answer = self.app.ok("GET", f"{V3}/sync", token=self.alice, query=query)
            rooms.append(answer["rooms"]["join"][self.room_id])
        found = [one for one in rooms[0]["timeline"]["events"] if one["event_id"] == event.event_id]
        path = f"{V3}/rooms/{self.room_id}/event/{event.event_id}"
        found.append(self.app.ok("GET", path, token=self.alice))
        name = "msc4354_sticky_duration_ttl_ms"
        section = rooms[1].get(STICKY, {"events": ()})["events"]
        return [one["unsigned"].get(name) for one in found], [one["unsigned"][name] for one in section]

    def test_what_means_nothing(self) -> None:
        for duration in (HOUR_MS + 1, -1, "60000", None, True, [60_000]):
            event = self.stick("odd", duration)
            self.assert_taken(self.peer.push(self.app, event), event)
        nonsense: tuple[Any, ...] = ("x", 5, [], {})
        for sticky in nonsense:
            event = self.room.make("m.x", {"body": "odd"}, **{STICKY: sticky})
            self.assert_taken(self.peer.push(self.app, event), event)
        self.bury()
        self.assertEqual([], self.told())

    def test_looked_at_again(self) -> None:
        """What was soft-failed is shown when its sender may speak again: all servers shall agree on it."""
        late = self.stick("late")
        mallory = late.sender
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/kick", {"user_id": mallory}, self.alice)
        self.assertEqual(200, self.peer.push(self.app, late)[0])
        self.bury()
        self.assertEqual([], self.told())
        since = self.app.ok("GET", f"{V3}/sync", token=self.alice, query={"filter": FILTER})["next_batch"]
        for restarted in (False, True):
            if restarted:
                self.app.restart()
                self.app.app.begin()
            else:
                self.assertEqual([], self.told(since))
        room = self.peer.follow(self.app, self.room_id)
        joined = room.join()
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        self.bury()
        self.assertEqual(["late"], self.told(since))
        self.assertEqual(["late"], self.told())
        self.assertNotIn(late.event_id, self.timeline())

    def test_looked_at_again_while_the_database_is_away(self) -> None:
        self.look_again_in_vain(stored=False)

    def test_looked_at_again_and_stored_but_nobody_heard(self) -> None:
        self.look_again_in_vain(stored=True)

    def look_again_in_vain(self, *, stored: bool) -> None:
        """The first look fails, before or after all is stored: it is told, and told once."""
        late = self.stick("late")
        self.app.ok("POST", f"{V3}/rooms/{self.room_id}/kick", {"user_id": late.sender}, self.alice)
        self.assertEqual(200, self.peer.push(self.app, late)[0])
        self.bury()
        query = {"filter": FILTER}
        since = self.app.ok("GET", f"{V3}/sync", token=self.alice, query=query)["next_batch"]
        keeper, looks = self.app.app.services.unattended.sticky, count()
        look = keeper._look_again

        async def fail(room_nid: int, hidden: Any) -> None:
            is_first = next(looks) == 0
            if stored or not is_first:
                await look(room_nid, hidden)
            if is_first:
                raise DatabaseUnavailable("gone for a moment")

        self.patch(keeper, "_look_again", fail)
        joined = self.peer.follow(self.app, self.room_id).join()
        self.assert_taken(self.peer.push(self.app, joined), joined)
        self.settle()
        query["since"] = since
        told = self.app.ok("GET", f"{V3}/sync", token=self.alice, query=query)
        self.assertEqual(["late"] if stored else [], section(told, self.room_id))
        self.settle(2)
        self.bury()
        self.assertEqual([] if stored else ["late"], self.told(told["next_batch"]))
        self.assertEqual(["late"], self.told())
        self.assertEqual((2, ["task failed, will restart"]), (next(looks), self.app.log.events("error")))
        self.app.log.entries.clear()


@on_each_database
class Sent(NetCase):
    """Bob's server comes into the room where alice has stuck something."""

    def stick(self, server: NetServer, token: str, room_id: str, body: str, duration_ms: int) -> None:
        path = f"/rooms/{room_id}/send/m.rtc.member/{body}"
        self.ok(server, token, "PUT", path, {"msgtype": "m.text", "body": body}, {ARGUMENT: str(duration_ms)})

    def told_of(self, body: str, server: str) -> int:
        """How often a server was sent an event."""
        return sum(
            pdu["content"].get("body") == body
            for one in self.net.sent("/v1/send/")
            if one.request.destination == server
            for pdu in one.json["pdus"]
        )

    def test_who_was_away_and_has_it_already(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        third = self.server(C)
        self.assertEqual(200, self.join(third, third.register("carol"), room_id, A).status)
        self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
        self.net.settle()
        self.net.down(C)
        self.say(self.a, self.alice, room_id, "unheard")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.advance(20)
        self.net.up(C)
        for _ in range(5):
            self.net.advance(60)
        self.assertEqual([1, 1], [self.told_of("first", name) for name in (B, C)])
        self.assertGreater(self.told_of("unheard", C), 0)

    def test_who_was_away_while_much_else_was_said(self) -> None:
        """Of that they get the newest, and fetch a little of what is before it: what sticks is farther down."""
        self.patch(outgoing, "OWED_MOST", 5)
        room_id = self.create(self.a, self.alice, preset="public_chat")
        third = self.server(C)
        carol = third.register("carol")
        self.assertEqual(200, self.join(third, carol, room_id, A).status)
        self.net.settle()
        since = self.sync(third, carol)["next_batch"]
        self.net.down(C)
        # The transaction that is under way is repeated as it is, whatever comes after it.
        self.say(self.a, self.alice, room_id, "under way")
        self.net.advance(1)
        self.stick(self.a, self.alice, room_id, "over", 1_000)
        for number in range(7):
            self.stick(self.a, self.alice, room_id, f"stuck {number}", HOUR_MS)
        for number in range(30):
            self.say(self.a, self.alice, room_id, str(number))
        self.net.advance(20)
        self.net.up(C)
        for _ in range(10):
            self.net.advance(60)
        stuck = [f"stuck {number}" for number in range(7)]
        self.assertEqual([0, *[1] * 7, 0, 1], [self.told_of(body, C) for body in ("over", *stuck, "3", "29")])
        told = self.sync(third, carol, since=since, filter=FILTER)
        self.assertEqual(stuck, section(told, room_id))

    def test_what_is_older_than_a_join_that_is_not_complete(self) -> None:
        """What stuck before comes while the keys of somebody's server are awaited: bob stays in the room."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        third = self.server(C)
        self.assertEqual(200, self.join(third, third.register("carol"), room_id, A).status)
        self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
        self.net.settle()
        self.net.down(C)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.advance(20)
        self.net.up(C)
        self.say(self.a, self.alice, room_id, "newest")
        for _ in range(5):
            self.net.advance(60)
        told = self.sync(self.b, self.bob)
        events = told["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertIn("newest", [event["content"].get("body") for event in events])
        self.assertEqual(["first"], section(told, room_id))
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))

    def let_bob_in(self, room_id: str) -> dict[str, Any]:
        """He comes when what is sticky is far below the newest events; his first sync after that."""
        for number in range(25):
            self.say(self.a, self.alice, room_id, str(number))
        self.net.advance(2)
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        for _ in range(20):
            self.net.advance(1)
        self.say(self.a, self.alice, room_id, "newest")
        self.net.advance(1)
        return self.sync(self.b, self.bob, filter=FILTER)

    def test_whoever_comes_is_told(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        third = self.server(C)
        self.assertEqual(200, self.join(third, third.register("carol"), room_id, A).status)
        self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
        self.stick(self.a, self.alice, room_id, "over", 1_000)
        self.stick(self.a, self.alice, room_id, "second", HOUR_MS)
        told = self.let_bob_in(room_id)
        self.assertEqual(["first", "second"], section(told, room_id))
        # Those who were there have it already.
        self.assertEqual(1, self.told_of("first", C))
        # And what comes later goes its usual way.
        self.stick(self.a, self.alice, room_id, "third", HOUR_MS)
        self.say(self.a, self.alice, room_id, "newer")
        self.net.advance(1)
        told = self.sync(self.b, self.bob, since=told["next_batch"], filter=FILTER)
        self.assertEqual(["third"], section(told, room_id))

    def test_whoever_comes_while_the_database_is_away_is_told(self) -> None:
        self.patch(keeping, "relay_sticky", failing_once(relay_sticky))
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
        self.assertEqual(["first"], section(self.let_bob_in(room_id), room_id))
        self.assertEqual(1, self.told_of("first", B))
        self.assertEqual(["task failed, will restart"], self.a.log.events("error"))
        self.a.log.entries.clear()

    def test_the_past_does_not_come_back(self) -> None:
        """Carol came in while the room was open. What stuck before that says nothing of who is in it now."""
        for version in ("11", "12"):
            room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version)
            self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
            carol = self.a.register(f"carol{version}")
            self.ok(self.a, carol, "POST", f"/join/{room_id}", {})
            self.net.advance(1)
            rule = f"/rooms/{room_id}/state/m.room.join_rules"
            self.ok(self.a, self.alice, "PUT", rule, {"join_rule": "invite"})
            self.ok(self.a, self.alice, "POST", f"/rooms/{room_id}/invite", {"user_id": "@bob:b.example"})
            told = self.let_bob_in(room_id)
            self.assertEqual(["first"], section(told, room_id))
            self.say(self.b, self.bob, room_id, "heard")
            self.net.settle()
            joined = self.ok(self.b, self.bob, "GET", f"/rooms/{room_id}/joined_members")["joined"]
            self.assertIn(f"@carol{version}:a.example", joined)
            self.assertEqual("invite", self.ok(self.b, self.bob, "GET", rule)["join_rule"])
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))

    def test_what_stands_aside_is_an_event_like_others(self) -> None:
        """It can be asked for, be related to and redacted; and is found where it was said, when that is read."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.stick(self.a, self.alice, room_id, "first", HOUR_MS)
        told = self.let_bob_in(room_id)
        (event,) = told["rooms"]["join"][room_id][STICKY]["events"]
        path = f"/rooms/{room_id}/event/{event['event_id']}"
        self.assertEqual("first", self.ok(self.b, self.bob, "GET", path)["content"]["body"])
        relates = {"m.relates_to": {"rel_type": "m.reference", "event_id": event["event_id"]}}
        self.ok(self.b, self.bob, "PUT", f"/rooms/{room_id}/send/m.hand/x", relates)
        related = f"/_matrix/client/v1/rooms/{room_id}/relations/{event['event_id']}"
        answer = self.net.wait(self.b.start("GET", related, None, self.bob))
        self.assertEqual(["m.hand"], [one["type"] for one in answer.json["chunk"]])
        self.assertEqual([], section(self.sync(self.b, self.bob, since=told["next_batch"]), room_id))
        said, start = [], None
        while start != "":
            query = {"dir": "b", "limit": "20", **({"from": start} if start else {})}
            page = self.ok(self.b, self.bob, "GET", f"/rooms/{room_id}/messages", query=query)
            said += [one["content"].get("body") for one in page["chunk"]]
            start = page.get("end", "")
        self.assertEqual(1, said.count("first"))
        self.assertEqual(said.index("0") + 1, said.index("first"))
        # It is not told anew because it has its place now.
        told = self.sync(self.b, self.bob, since=told["next_batch"], filter=FILTER)
        self.assertEqual([], section(told, room_id))
        self.assertEqual(["first"], section(self.sync(self.b, self.bob, filter=FILTER), room_id))
        self.ok(self.a, self.alice, "PUT", f"/rooms/{room_id}/redact/{event['event_id']}/x", {})
        self.net.settle()
        self.assertEqual([], section(self.sync(self.b, self.bob, filter=FILTER), room_id))

    def test_who_may_not_speak_now_is_not_heard(self) -> None:
        """What stands aside is asked about the state of now, like everything that comes late."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        erin = self.a.register("erin")
        self.ok(self.a, erin, "POST", f"/join/{room_id}", {})
        self.stick(self.a, erin, room_id, "first", HOUR_MS)
        self.ok(self.a, self.alice, "POST", f"/rooms/{room_id}/kick", {"user_id": "@erin:a.example"})
        told = self.let_bob_in(room_id)
        self.assertEqual([], section(told, room_id))
        self.ok(self.a, erin, "POST", f"/join/{room_id}", {})
        self.net.settle()
        self.say(self.a, self.alice, room_id, "newer")
        self.net.settle()
        told = self.sync(self.b, self.bob, since=told["next_batch"], filter=FILTER)
        self.assertEqual(["first"], section(told, room_id))

    def test_what_was_taken_back_is_not_told(self) -> None:
        """Not after a restart either, and nothing of somebody who was erased."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        bob = self.a.register("erased")
        self.ok(self.a, bob, "POST", f"/join/{room_id}", {})
        self.stick(self.a, self.alice, room_id, "slip", HOUR_MS)
        self.stick(self.a, bob, room_id, "secret", HOUR_MS)
        self.stick(self.a, self.alice, room_id, "stays", HOUR_MS)
        events = self.ok(self.a, self.alice, "GET", f"/rooms/{room_id}/messages", query={"dir": "b"})["chunk"]
        (slip,) = [one["event_id"] for one in events if one["content"].get("body") == "slip"]
        self.ok(self.a, self.alice, "PUT", f"/rooms/{room_id}/redact/{slip}/x", {})
        auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "erased"}}
        body = {"auth": {**auth, "password": "correct horse"}, "erase": True}
        self.ok(self.a, bob, "POST", "/account/deactivate", body)
        self.net.settle()
        self.a.restart()
        told = self.let_bob_in(room_id)
        self.assertEqual(["stays"], section(told, room_id))
        sent = [one.request.body or b"" for one in self.net.sent("/send/", destination="b.example")]
        self.assertFalse([body for body in sent if b'"slip"' in body or b'"secret"' in body])
