"""Joins of which the members come later. spec: server-server-api#put_matrixfederationv2send_joinroomideventid"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from federation.flows.join_events import Checked, Terms
from federation.hashes import compute_event_id
from federation.ids import ServerName
from federation.signing import hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.db.tx import Tx
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms import delayed
from homeserver.rooms.federated import check_processes, join_checks, lots
from homeserver.rooms.federated.check_processes import CheckProcess, CheckProcesses
from homeserver.runtime.clock import TwistedClock
from homeserver.store import room_answers
from homeserver.store.outliers import OutlierRows, write_outliers
from tests.federation.people import VERSIONS, A, B, C, NetCase
from tests.support.app import run_at_once
from tests.support.databases import on_each_database

BOB, CAROL = f"@bob:{B}", f"@carol:{C}"


class PartialCase(NetCase):
    """carol of c joins a room of a in which bob of b is, too. The state is held back until the test lets it go."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(room_answers, "FEW_MEMBERS", 0)
        self.c = self.server(C)
        self.carol = self.c.register("carol")
        self.held = True
        self.net.tamper(self.hold_back)

    def hold_back(self, origin: ServerName, request: PeerRequest) -> PeerResponse | None:
        """No state for c as long as the test says so."""
        if self.held and origin == C and "/state/" in request.uri:
            return PeerResponse(500, b'{"errcode":"M_UNKNOWN","error":"later"}')
        return None

    def make(self, **body: Any) -> str:
        """A room with alice, bob and carol; what c knows of it is not all."""
        room_id = self.found(**body)
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        return room_id

    def found(self, **body: Any) -> str:
        """A room with alice and bob, of which c is not to be told all."""
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Big", **body)
        self.held = False
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.net.advance(1)
        self.held = True
        return room_id

    def release(self) -> None:
        """Let the state come."""
        self.held = False
        self.net.advance(400)

    def progress(self, room_id: str) -> Any:
        path = f"/user/{CAROL}/rooms/{quote(room_id)}/account_data/im.chaos.join_progress"
        return self.ok(self.c, self.carol, "GET", path)

    def bodies(self, room_id: str) -> list[Any]:
        events = self.sync(self.c, self.carol)["rooms"]["join"][room_id]["timeline"]["events"]
        return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]


@on_each_database
class Partial(PartialCase):
    def test_usable_at_once_and_whole_at_the_end(self) -> None:
        for version in VERSIONS:
            room_id = self.make(room_version=version)
            self.assertFalse(self.progress(room_id)["finished"], version)
            known = self.state(self.c, self.carol, room_id)
            self.assertNotIn(("m.room.member", BOB), known)
            self.assertIn(("m.room.power_levels", ""), known)
            self.say(self.c, self.carol, room_id, "hello")
            self.say(self.b, self.bob, room_id, "hi")
            self.say(self.a, self.alice, room_id, "welcome")
            self.net.settle()
            self.assertEqual(["hello", "hi", "welcome"], self.bodies(room_id), version)
            since = self.sync(self.c, self.carol)["next_batch"]
            self.release()
            self.assertTrue(self.progress(room_id)["finished"], version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))
            told = self.sync(self.c, self.carol, since)["rooms"]["join"][room_id]
            members = {one["state_key"] for one in told["state"]["events"] if one["type"] == "m.room.member"}
            self.assertIn(BOB, members)
            self.assertEqual(3, told["summary"]["m.joined_member_count"])
            self.say(self.c, self.carol, room_id, "all here")
            self.net.settle()
            self.assertEqual(["hello", "hi", "welcome", "all here"], self.bodies(room_id))

    def test_what_is_sent_goes_to_all_servers_in_the_room(self) -> None:
        room_id = self.make()
        self.say(self.c, self.carol, room_id, "hello")
        self.net.settle()
        events = self.sync(self.b, self.bob)["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual("hello", events[-1]["content"].get("body"))

    def test_a_restart_in_the_middle(self) -> None:
        room_id = self.make()
        self.say(self.c, self.carol, room_id, "before")
        self.c.restart()
        self.say(self.b, self.bob, room_id, "between")
        self.net.settle()
        self.assertFalse(self.progress(room_id)["finished"])
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.assertEqual(["before", "between"], self.bodies(room_id))
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_what_needs_every_member_waits(self) -> None:
        room_id = self.make()
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}"
        dave = self.c.register("dave")
        calls = [
            self.c.start("GET", path + "/joined_members", None, self.carol),
            self.c.start("GET", path + "/members", None, self.carol),
            self.c.start("POST", path + "/join", {}, dave),
        ]
        self.net.settle()
        self.assertEqual([False] * 3, [call.called for call in calls])
        self.release()
        answers = [self.net.wait(call) for call in calls]
        self.assertEqual([200] * 3, [one.status for one in answers])
        self.assertEqual({f"@alice:{A}", BOB, CAROL}, set(answers[0].json["joined"]))
        self.assertEqual(3, len(answers[1].json["chunk"]))

    def test_an_upgrade_waits_for_who_is_banned(self) -> None:
        levels = {"users": {f"@alice:{A}": 100, CAROL: 100}}
        room_id = self.create(
            self.a, self.alice, preset="public_chat", room_version="11", power_level_content_override=levels
        )
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": BOB})
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/upgrade"
        upgrade = self.c.start("POST", path, {"new_version": "11"}, self.carol)
        self.net.settle()
        self.assertFalse(upgrade.called)
        self.release()
        new_id = self.net.wait(upgrade).json["replacement_room"]
        member = f"/rooms/{quote(new_id)}/state/m.room.member/{quote(BOB)}"
        self.assertEqual("ban", self.ok(self.c, self.carol, "GET", member)["membership"])

    def test_history_waits_for_members(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Big")
        said = [f"m{number}" for number in range(3)]
        for text in said:
            self.say(self.a, self.alice, room_id, text)
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages"
        newest = self.net.wait(self.c.start("GET", path, None, self.carol, {"dir": "b", "limit": 1})).json
        query = {"dir": "b", "from": newest["end"], "limit": 10}
        before = self.c.start("GET", path, None, self.carol, query)
        self.net.settle()
        self.assertFalse(before.called)
        self.held = False
        told = self.net.wait(before).json["chunk"]
        self.assertTrue(self.progress(room_id)["finished"])
        bodies = [one["content"].get("body") for one in told if one["type"] == "m.room.message"]
        self.assertEqual(said[::-1], bodies)

    def test_delayed_events_of_others_do_not_wait(self) -> None:
        self.patch(delayed, "AT_ONCE", 4)
        self.patch(delayed, "OF_USER_AT_ONCE", 2)
        delay = "org.matrix.msc4140.delay"
        waiting = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
        room_id, dave = self.make(), self.c.register("dave")
        daves_id = self.create(self.c, dave)
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(CAROL)}"
        for number in range(6):
            content = {"membership": "join", "displayname": f"Carol {number}"}
            self.ok(self.c, self.carol, "PUT", member, content, {delay: "1000"})
        path = f"/rooms/{quote(daves_id)}/state/org.example.call/"
        self.ok(self.c, dave, "PUT", path, {"is_over": True}, {delay: "3000"})
        self.net.advance(10)
        self.assertEqual({"is_over": True}, self.ok(self.c, dave, "GET", path))
        listed = self.net.wait(self.c.start("GET", waiting, None, self.carol)).json["delayed_events"]
        self.assertEqual(6, len(listed))
        self.release()
        self.net.advance(400)
        listed = self.net.wait(self.c.start("GET", waiting, None, self.carol)).json["delayed_events"]
        self.assertEqual([], listed)
        self.assertTrue(self.ok(self.c, self.carol, "GET", member)["displayname"].startswith("Carol "))

    def test_who_waits_too_long_is_told(self) -> None:
        room_id = self.make()
        answer = self.call(self.c, self.carol, "GET", f"/rooms/{quote(room_id)}/joined_members")
        self.refused(answer, 503, "M_UNKNOWN")
        self.release()

    def test_who_is_in_it_already_does_not_wait(self) -> None:
        room_id = self.make()
        began_s = self.net.time.seconds()
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.assertLess(self.net.time.seconds() - began_s, 1)
        dave = self.c.register("dave")
        self.refused(self.join(self.c, dave, room_id, A), 503, "M_UNKNOWN")
        self.release()

    def test_other_servers_are_not_told_what_is_not_known(self) -> None:
        room_id = self.make()
        eve = self.net.stranger("evil.example")
        uri = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote('@eve:evil.example')}?ver=12"
        self.assertEqual(404, eve.ask(C, "GET", uri)[0])
        self.release()
        self.assertEqual(200, eve.ask(C, "GET", uri)[0])

    def test_changes_of_members_meanwhile(self) -> None:
        room_id = self.make()
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        self.ok(self.b, self.bob, "PUT", member, {"membership": "join", "displayname": "Bobby"})
        self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": "New"})
        self.net.settle()
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()
        self.release()
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        joined = self.ok(self.c, self.carol, "GET", f"/rooms/{quote(room_id)}/joined_members")["joined"]
        self.assertEqual({f"@alice:{A}", CAROL}, set(joined))

    def test_left_before_it_was_whole(self) -> None:
        room_id = self.make()
        self.ok(self.c, self.carol, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.release()
        self.assertEqual(200, self.join(self.c, self.carol, room_id).status)
        self.net.advance(5)
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_the_state_from_another_server(self) -> None:
        room_id = self.make()
        self.say(self.b, self.bob, room_id, "here")
        self.net.settle()
        self.net.part(A, C)
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.assert_same_state(room_id, (self.b, self.bob), (self.c, self.carol))

    def test_the_state_checked_in_other_processes(self) -> None:
        chunks: list[int] = []

        class Counted(CheckProcess):
            def check(self, texts: Sequence[bytes], terms: Terms) -> Checked:
                chunks.append(len(texts))
                return super().check(texts, terms)

        processes = CheckProcesses(run_at_once, TwistedClock(self.net.time), self.c.log, 2, Counted)
        self.addCleanup(processes.stop)
        self.patch(join_checks, "CHUNK", 1)
        self.c.processes = processes
        self.c.restart()
        room_id = self.make()
        self.net.advance(check_processes.IDLE_S + 1)  # while it is asked for, they end
        self.assertEqual(0, processes.running)
        self.release()
        self.assertTrue(self.progress(room_id)["finished"])
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))
        self.assertEqual({1}, set(chunks))
        self.assertGreater(len(chunks), 6)
        self.assertEqual([], [one for one in self.c.log.entries if "process" in one[1]])

    def test_a_state_that_is_refused_when_most_of_it_is_stored(self) -> None:
        self.patch(lots, "AT_ONCE", 1)
        self.patch(join_checks, "CHUNK", 2)
        earlier: list[Any] = []
        stored: list[int] = []
        lies = [0]

        def note(origin: ServerName, request: PeerRequest) -> PeerResponse | None:
            if origin == B and "/send_join/" in request.uri:
                earlier.append(msgspec.json.decode(request.body or b""))
            return None

        def lie(origin: ServerName, request: PeerRequest, response: PeerResponse) -> PeerResponse | None:
            if origin != C or "/state/" not in request.uri or not lies:
                return None
            lies.pop()
            told = msgspec.json.decode(response.body)
            # What bob was before is true as well, and no state says two things of him.
            return PeerResponse(200, msgspec.json.encode({**told, "pdus": [*told["pdus"], *earlier]}))

        def count(tx: Tx, new: OutlierRows) -> None:
            stored.append(len(lies))
            write_outliers(tx, new)

        self.net.tamper(note)
        self.net.tamper_answers(lie)
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Big")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        self.ok(self.b, self.bob, "PUT", member, {"membership": "join", "displayname": "Bobby"})
        self.net.advance(1)
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.net.settle()
        self.patch(lots, "write_outliers", count)
        self.held = False
        self.net.advance(3)
        self.assertEqual([], lies)
        self.assertIn("two events", str(self.c.log.entries))
        self.release()
        # Of the answer that was believed, what was stored before the other was refused was not stored again.
        self.assertEqual([], lies)
        self.assertTrue(stored)
        self.assertTrue(self.progress(room_id)["finished"])
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))

    def test_lies_about_the_state(self) -> None:
        room_id = self.make()
        lies: list[Any] = [
            b"",
            b"[]",
            {"pdus": [], "auth_chain": []},
            {"pdus": 1},
            {"pdus": [{}], "auth_chain": [1]},
        ]

        def lie(origin: ServerName, request: PeerRequest, _: PeerResponse) -> PeerResponse | None:
            if origin != C or "/state/" not in request.uri or not lies:
                return None
            body = lies.pop()
            return PeerResponse(200, body if isinstance(body, bytes) else msgspec.json.encode(body))

        self.net.tamper_answers(lie)
        self.release()
        self.assertEqual([], lies)
        self.assertTrue(self.progress(room_id)["finished"])
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))


@on_each_database
class Judged(PartialCase):
    """eve was banned before carol joined, and c, which does not know that yet, hears from her server."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = self.net.stranger("evil.example")
        self.user = "@eve:evil.example"
        self.rules = ROOM_VERSIONS["10"]
        levels = {"redact": 0}
        self.room = self.create(
            self.a,
            self.alice,
            preset="public_chat",
            room_version="10",
            power_level_content_override=levels,
        )
        self.old = self.say(self.a, self.alice, self.room, "old")
        self.known = self.come_in()
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(self.room)}/ban", {"user_id": self.user})
        self.assertEqual(200, self.join(self.c, self.carol, self.room, A).status)
        self.net.settle()
        self.eve.answers["GET", "/_matrix/federation/v1/event/"] = self.tell
        self.eve.answers["GET", "/_matrix/federation/v1/event_auth/"] = lambda _: (
            200,
            {"auth_chain": list(self.known.values())},
        )

    def come_in(self) -> dict[str, Any]:
        """eve's own join; every event that her server knows then, by id."""
        path = f"/_matrix/federation/v1/make_join/{quote(self.room)}/{quote(self.user)}?ver=10"
        template = self.eve.ask(A, "GET", path)[1]["event"]
        join = hash_and_sign_event(
            {**template, "origin_server_ts": self.net.now_ms}, self.rules, self.eve.key
        )
        self.join_id = compute_event_id(join, self.rules)
        path = f"/_matrix/federation/v2/send_join/{quote(self.room)}/{quote(self.join_id)}"
        answer = self.eve.ask(A, "PUT", path, join)[1]
        events = [*answer["state"], *answer["auth_chain"], join]
        return {compute_event_id(event, self.rules): event for event in events}

    def tell(self, request: PeerRequest) -> tuple[int, Any]:
        event = self.known.get(unquote(request.uri.rpartition("/")[2]))
        return (200, {"pdus": [event]}) if event is not None else (404, {"errcode": "M_NOT_FOUND"})

    def id_of(self, event_type: str) -> str:
        (found,) = [one for one, event in self.known.items() if event["type"] == event_type]
        return found

    def send(self, *events: dict[str, Any]) -> None:
        body = {
            "origin": "evil.example",
            "origin_server_ts": self.net.now_ms,
            "pdus": list(events),
            "edus": [],
        }
        self.assertEqual(
            200, self.eve.ask(C, "PUT", f"/_matrix/federation/v1/send/{len(self.net.requests)}", body)[0]
        )
        self.net.advance(5)

    def build(self, event_type: str, content: Any, prev: list[str], **fields: Any) -> dict[str, Any]:
        auth = [self.id_of("m.room.create"), self.id_of("m.room.power_levels"), self.join_id]
        if event_type == "m.room.member":
            auth.append(self.id_of("m.room.join_rules"))
        event = {
            "type": event_type,
            "room_id": self.room,
            "sender": self.user,
            "content": content,
            "prev_events": prev,
            "auth_events": auth,
            "depth": 100,
            "origin_server_ts": self.net.now_ms,
            **fields,
        }
        return hash_and_sign_event(event, self.rules, self.eve.key)

    def newest(self) -> str:
        """What carol's server has at the end of the room."""
        events = self.sync(self.c, self.carol)["rooms"]["join"][self.room]["timeline"]["events"]
        event_id: str = events[-1]["event_id"]
        return event_id

    def test_what_the_whole_state_forbids_is_withdrawn(self) -> None:
        lie = self.build("m.room.message", {"body": "I am not banned"}, [self.newest()])
        self.send(lie)
        self.assertEqual(["I am not banned"], self.bodies(self.room))
        renamed = {"membership": "join", "displayname": "Eve"}
        self.send(self.build("m.room.member", renamed, [self.newest()], state_key=self.user))
        self.assertIn(("m.room.member", self.user), self.state(self.c, self.carol, self.room))
        self.say(self.c, self.carol, self.room, "after the lie")
        self.net.settle()
        since = self.sync(self.c, self.carol)["next_batch"]
        self.release()
        self.assertTrue(self.progress(self.room)["finished"])
        self.assertEqual(["after the lie"], self.bodies(self.room))
        self.assert_same_state(self.room, (self.a, self.alice), (self.c, self.carol))
        path = f"/rooms/{quote(self.room)}/event/{quote(compute_event_id(lie, self.rules))}"
        self.refused(self.call(self.c, self.carol, "GET", path), 404, "M_NOT_FOUND")
        told = self.sync(self.c, self.carol, since)["rooms"]["join"][self.room]["state"]["events"]
        members = {
            one["state_key"]: one["content"]["membership"] for one in told if one["type"] == "m.room.member"
        }
        self.assertEqual("ban", members[self.user])
        # It goes on from what is left.
        self.say(self.a, self.alice, self.room, "and on")
        self.say(self.c, self.carol, self.room, "and on and on")
        self.net.settle()
        self.assertEqual(["after the lie", "and on", "and on and on"], self.bodies(self.room))
        self.assert_same_state(self.room, (self.a, self.alice), (self.c, self.carol))

    def test_the_newest_event_is_withdrawn(self) -> None:
        self.say(self.c, self.carol, self.room, "first")
        self.send(self.build("m.room.message", {"body": "last"}, [self.newest()]))
        self.assertEqual(["first", "last"], self.bodies(self.room))
        self.release()
        self.assertEqual(["first"], self.bodies(self.room))
        self.say(self.c, self.carol, self.room, "second")
        self.net.settle()
        self.assertEqual(["first", "second"], self.bodies(self.room))
        self.assert_same_state(self.room, (self.a, self.alice), (self.c, self.carol))

    def test_what_relates_and_redacts(self) -> None:
        said = self.say(self.c, self.carol, self.room, "mine")
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "x"}}
        self.send(self.build("m.reaction", content, [said]))
        redaction = self.build("m.room.redaction", {}, [said], redacts=said)
        self.send(redaction, self.build("m.room.redaction", {}, [said], redacts=self.old))
        self.assertEqual(compute_event_id(redaction, self.rules), self.newest())
        self.release()
        self.assertEqual(["mine"], self.bodies(self.room))
        path = f"/rooms/{quote(self.room)}/relations/{quote(said)}"
        answer = self.net.wait(self.c.start("GET", "/_matrix/client/v1" + path, None, self.carol))
        self.assertEqual([], answer.json["chunk"])
        # Nor does it to what was not here then, and is read back now.
        answer = self.ok(
            self.c, self.carol, "GET", f"/rooms/{quote(self.room)}/messages", None, {"dir": "b", "limit": 50}
        )
        contents = {one["event_id"]: one["content"] for one in answer["chunk"]}
        self.assertEqual("old", contents[self.old].get("body"))
