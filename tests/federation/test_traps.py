"""Traps in joins and invites: each was sprung once, when somebody read the parts as a whole."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from homeserver.http.transport import AnswerTooLarge
from homeserver.rooms.federated.large_answers import LargeAnswers
from homeserver.store.placement import Bundle
from tests.api.receiving import ReceiveCase
from tests.api.rooms import V3
from tests.support.databases import on_each_database
from tests.support.peer_rooms import PeerRoom


@on_each_database
class Invites(ReceiveCase):
    """Invites from outside, while others of ours join the room."""

    def start_invite(self, room: PeerRoom, name: str) -> Any:
        event = room.make("m.room.member", {"membership": "invite"}, state_key=f"@{name}:test.example")
        path = f"/_matrix/federation/v2/invite/{quote(room.room_id)}/{quote(event.event_id)}"
        stripped = [room.events[room.state["m.room.create", ""]].json]
        body = {"event": event.json, "invite_room_state": stripped, "room_version": room.rules.version}
        return self.peer.start(self.app, "PUT", path, body)

    def test_an_invite_outlives_the_join_of_another(self) -> None:
        bob = self.app.register("bob")
        room = self.peer.create("11")
        self.assertEqual(200, self.app.wait(self.start_invite(room, "bob")).status)
        before = self.app.ok("GET", f"{V3}/sync", None, bob)["rooms"]["invite"]
        self.app.ok("POST", f"{V3}/join/{quote(room.room_id)}", {}, self.alice, {"via": "peer.example"})
        self.assertEqual(before, self.app.ok("GET", f"{V3}/sync", None, bob)["rooms"]["invite"])
        self.app.restart()
        self.assertEqual(before, self.app.ok("GET", f"{V3}/sync", None, bob)["rooms"]["invite"])
        self.app.ok("POST", f"{V3}/rooms/{quote(room.room_id)}/leave", {}, bob)
        self.assertNotIn("rooms", self.app.ok("GET", f"{V3}/sync", None, bob))

    def test_an_invite_while_a_join_is_on_its_way_to_the_disk(self) -> None:
        room = self.peer.create("11")
        committer = self.app.app.core.committer
        submit, invites = committer.submit, list[Any]()

        def submit_and_invite(bundle: Bundle) -> Any:
            stored = submit(bundle)
            if any(one.event.type == "m.room.member" and one.moves for one in bundle.placements):
                invites.append(self.start_invite(room, "alice"))
            return stored

        self.patch(committer, "submit", submit_and_invite)
        self.app.ok("POST", f"{V3}/join/{quote(room.room_id)}", {}, self.alice, {"via": "peer.example"})
        (invite,) = invites
        self.assertEqual(200, self.app.wait(invite).status)
        rooms = self.app.ok("GET", f"{V3}/sync", None, self.alice)["rooms"]
        self.assertIn(room.room_id, rooms["join"])
        self.assertNotIn("invite", rooms)


@on_each_database
class Large(ReceiveCase):
    """Joining takes no more memory than there is."""

    def test_answers_for_which_there_is_no_room(self) -> None:
        room = self.peer.create("11")
        answers = self.app.app.services.rooms.strangers.partial.answers
        self.patch(answers, "_budget", 1_000)
        path = f"{V3}/join/{quote(room.room_id)}"
        status, answer = self.app.call("POST", path, {}, self.alice, {"via": "peer.example"})
        self.assertEqual((502, 0), (status, answers.bytes), answer)
        self.assertNotIn(
            room.room_id, self.app.ok("GET", f"{V3}/joined_rooms", None, self.alice)["joined_rooms"]
        )
        self.patch(answers, "_budget", 1_000_000)
        self.app.ok("POST", path, {}, self.alice, {"via": "peer.example"})
        self.assertEqual(0, answers.bytes)

    def test_the_server_stops_while_another_has_not_answered(self) -> None:
        for method, part in (("GET", "/v1/make_join/"), ("PUT", "/v2/send_join/")):
            room = self.peer.create("12", part=part)
            self.peer.answers = {(method, f"/_matrix/federation{part}"): Deferred()}
            path = f"{V3}/join/{quote(room.room_id)}"
            self.app.start("POST", path, {}, self.alice, {"via": "peer.example"})
            self.settle()
            self.assertIn(part, self.peer.asked[-1].uri)
            self.app.restart()
            self.peer.answers = {}
            self.app.ok("POST", path, {}, self.alice, {"via": "peer.example"})

    def test_large_ones_leave_room_for_others(self) -> None:
        answers = LargeAnswers(1_000, 100)
        large, usual = answers.begin("large"), answers.begin("usual")
        for _ in range(5):
            large.receive(b"x" * 100)
        self.assertRaises(AnswerTooLarge, large.receive, b"x")
        usual.receive(b"y" * 100)
        self.assertRaises(AnswerTooLarge, usual.receive, b"y")
        self.assertEqual((600, b"x" * 500, b""), (answers.bytes, large.whole(), large.whole()))
        again = answers.begin("large")
        again.receive(b"z" * 400)
        self.assertEqual(500, answers.bytes)
        for purpose in ("large", "usual", "usual"):
            answers.release(purpose)
        self.assertEqual(0, answers.bytes)


@on_each_database
class OldRooms(ReceiveCase):
    """In rooms of the first versions whoever makes an event chooses its id."""

    version = "2"

    def test_the_id_of_an_event_of_another_room(self) -> None:
        joined = self.enter()
        secret_id = self.create(preset="private_chat", name="secret")
        secret = self.peer.follow(self.app, secret_id)
        forged = secret.make_json(
            "m.room.member", {"membership": "join"}, state_key=self.peer.user(), event_id=joined.event_id
        )
        path = f"/_matrix/federation/v2/send_join/{quote(secret_id)}/{quote(joined.event_id, safe='')}"
        status, answer = self.peer.call(self.app, "PUT", path, forged)
        self.assertEqual((400, "M_INVALID_PARAM"), (status, answer.get("errcode")))
