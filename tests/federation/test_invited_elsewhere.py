"""What is told of rooms that the server of an invited user is not in, by more than ``/sync``, or comes into later."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.ids import ServerName
from homeserver.http.transport import Unreachable
from homeserver.rooms.federated import signed_invites
from homeserver.store.signed_invites import load_signed
from tests.federation.people import A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.failing import failing_once
from tests.support.federation import NetServer

BOB = f"@bob:{B}"
CAROL = f"@carol:{C}"
ERIN = f"@erin:{B}"


@on_each_database
class RemoteInvites(NetCase):
    """alice of a invites bob of b."""

    def test_what_clients_asked_before_sync(self) -> None:
        room_id = self.create(self.a, self.alice)
        invite_path = f"/rooms/{quote(room_id)}/invite"
        self.ok(self.a, self.alice, "POST", invite_path, {"user_id": BOB})

        def shown() -> list[Any]:
            rooms: list[Any] = self.ok(self.b, self.bob, "GET", "/initialSync")["rooms"]
            return rooms

        (room,) = shown()
        self.assertEqual((room_id, "invite"), (room["room_id"], room["membership"]))
        invite = room["invite"]
        self.assertEqual(
            (f"@alice:{A}", BOB, room_id), (invite["sender"], invite["state_key"], invite["room_id"])
        )
        for kind, content in (
            ("m.ignored_user_list", {"ignored_users": {f"@alice:{A}": {}}}),
            ("m.invite_permission_config", {"default_action": "block"}),
        ):
            path = f"/user/{BOB}/account_data/{kind}"
            self.ok(self.b, self.bob, "PUT", path, content)
            self.assertEqual([], shown())
            self.ok(self.b, self.bob, "PUT", path, {})

    def test_shown_as_before_when_somebody_else_joins(self) -> None:
        """The room is here then, but not what it was when the invite was made."""
        room_id = self.create(self.a, self.alice, name="Room", preset="public_chat")
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        before = self.sync(self.b, self.bob)
        told = _contents(before["rooms"]["invite"][room_id])
        self.assertEqual({"name": "Room"}, told["m.room.name", ""])
        carol = self.b.register("carol")
        self.assertEqual(200, self.join(self.b, carol, room_id, A).status)
        self.assertEqual(told, _contents(self.sync(self.b, self.bob)["rooms"]["invite"][room_id]))
        more = self.sync(self.b, self.bob, before["next_batch"]).get("rooms", {}).get("invite", {})
        self.assertEqual(told, _contents(more.get(room_id, before["rooms"]["invite"][room_id])))

    def test_an_invite_that_was_taken_back_while_the_server_of_the_invited_was_away(self) -> None:
        shared = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.b, self.bob, shared, A).status)
        for how in ("kick", "ban"):
            room_id = self.create(self.a, self.alice)
            path = f"/rooms/{quote(room_id)}"
            self.ok(self.a, self.alice, "POST", f"{path}/invite", {"user_id": BOB})
            since = self.sync(self.b, self.bob)["next_batch"]
            self.net.down(B)
            self.say(self.a, self.alice, shared, f"Is anybody there? {how}")
            self.net.advance(5)
            self.ok(self.a, self.alice, "POST", f"{path}/{how}", {"user_id": BOB})
            self.net.advance(5)
            if how == "ban":
                self.a.restart()
            self.net.up(B)
            self.net.advance(3600)
            told = self.sync(self.b, self.bob, since)["rooms"]["leave"][room_id]["timeline"]["events"]
            self.assertEqual(f"@alice:{A}", told[-1]["sender"])
            self.assertNotIn("invite", self.sync(self.b, self.bob)["rooms"])

    def test_an_invite_that_its_room_does_not_know_of_counts_for_nothing_there(self) -> None:
        """The answer to it got lost, so it is not an event of the room, and bob has it all the same."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.net.tamper_answers(
            lambda _, request, __: Unreachable("lost") if "/invite/" in request.uri else None
        )
        invite = self.call(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        self.assertEqual(502, invite.status)
        carol = self.b.register("carol")
        self.assertEqual(200, self.join(self.b, carol, room_id, A).status)
        self.assertIn(room_id, self.sync(self.b, self.bob)["rooms"]["invite"])
        summary = self.sync(self.b, carol)["rooms"]["join"][room_id]["summary"]
        self.assertEqual((2, 0), (summary["m.joined_member_count"], summary["m.invited_member_count"]))
        self.assertEqual([f"@alice:{A}"], summary["m.heroes"])

    def test_a_search_finds_what_was_read_there_before(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.say(self.a, self.alice, room_id, "fish")
        self.net.settle()
        leave = f"/rooms/{quote(room_id)}/leave"
        self.ok(self.b, self.bob, "POST", leave, {})
        self.say(self.a, self.alice, room_id, "fish that bob has not seen")
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        self.assertIn(room_id, self.sync(self.b, self.bob)["rooms"]["invite"])
        for _ in range(2):
            body = {"search_categories": {"room_events": {"search_term": "fish"}}}
            found = self.ok(self.b, self.bob, "POST", "/search", body)["search_categories"]["room_events"]
            self.assertEqual(["fish"], [one["result"]["content"]["body"] for one in found["results"]])
            # And where the invite was declined.
            self.ok(self.b, self.bob, "POST", leave, {})


@on_each_database
class LeftBehind(NetCase):
    """erin of b was invited (or knocked) while bob was in alice's room, which nobody of b is in any more."""

    def setUp(self) -> None:
        super().setUp()
        self.erin = self.b.register("erin")
        state = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        everybody = {"invite": 0}
        self.room_id = self.create(
            self.a, self.alice, initial_state=state, power_level_content_override=everybody
        )
        self.room(self.a, self.alice, "invite", {"user_id": BOB})
        self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
        self.net.settle()

    def room(self, server: NetServer, token: str, path: str, body: Any) -> None:
        self.ok(server, token, "POST", f"/rooms/{quote(self.room_id)}/{path}", body)

    def leave_waiting(self, *, invited: bool = True) -> str:
        """erin waits, bob goes; a token of erin's."""
        if invited:
            self.room(self.b, self.bob, "invite", {"user_id": ERIN})
        else:
            self.ok(self.b, self.erin, "POST", f"/knock/{quote(self.room_id)}", {})
        self.net.settle()
        self.room(self.b, self.bob, "leave", {})
        self.net.settle()
        self.assertEqual("invite" if invited else "knock", self.listed())
        token: str = self.sync(self.b, self.erin)["next_batch"]
        return token

    def listed(self, since: str | None = None) -> str:
        """As what erin's client lists the room."""
        rooms = self.sync(self.b, self.erin, since).get("rooms", {})
        return next((kind for kind, found in rooms.items() if self.room_id in found), "")

    def test_taken_back_refused_and_banned(self) -> None:
        for how in ("kick", "ban"):
            for invited in (True, False):
                since = self.leave_waiting(invited=invited)
                self.room(self.a, self.alice, how, {"user_id": ERIN})
                self.net.advance(5)
                self.assertEqual(("leave", ""), (self.listed(since), self.listed()))
                self.b.restart()
                self.assertEqual("", self.listed())
                if how == "ban":
                    self.room(self.a, self.alice, "unban", {"user_id": ERIN})
                self.room(self.a, self.alice, "invite", {"user_id": BOB})
                self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
                self.net.settle()
                self.assertEqual("", self.listed())
                self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.bob))

    def test_what_it_stands_on_does_not_end_it(self) -> None:
        """The end of an earlier one, which comes late."""
        self.room(self.b, self.bob, "invite", {"user_id": ERIN})
        self.net.settle()
        self.net.requests.clear()
        self.room(self.a, self.alice, "kick", {"user_id": ERIN})
        self.net.advance(5)
        (kick,) = [one for sent in self.net.sent("/send/", origin=A) for one in sent.json["pdus"]]
        self.say(self.b, self.bob, self.room_id, "Come again")
        self.leave_waiting()
        outsiders = self.b.app.services.rooms.strangers.outsiders
        heard = outsiders.heard(ServerName(A), [kick])
        self.assertEqual([], self.net.wait(Deferred.fromCoroutine(heard)))
        self.assertEqual("invite", self.listed())

    def invited_while_bob_is_put_out(self, *, restart: bool = False) -> str:
        """The invite goes its own way, and is there before b hears that bob is out; a token of erin's."""
        self.net.tamper(lambda _, request: Unreachable("late") if "/send/" in request.uri else None)
        self.room(self.a, self.alice, "kick", {"user_id": BOB})
        self.room(self.a, self.alice, "invite", {"user_id": ERIN})
        self.assertEqual("", self.listed())
        if restart:
            self.b.restart()
        token: str = self.sync(self.b, self.erin)["next_batch"]
        self.net.untamper()
        self.net.advance(3600)
        return token

    def test_invited_while_the_last_of_ours_is_put_out(self) -> None:
        for restart in (False, True):
            since = self.invited_while_bob_is_put_out(restart=restart)
            self.assertEqual(("invite", "invite"), (self.listed(since), self.listed()))
            self.b.restart()
            self.assertEqual("invite", self.listed())
            since = self.sync(self.b, self.erin)["next_batch"]
            self.room(self.a, self.alice, "kick", {"user_id": ERIN})
            self.net.advance(5)
            self.assertEqual(("leave", ""), (self.listed(since), self.listed()))
            self.room(self.a, self.alice, "invite", {"user_id": BOB})
            self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
            self.net.settle()

    def test_invited_while_the_last_of_ours_is_put_out_and_the_database_is_away(self) -> None:
        """For a moment: at the start, or when the invite is to be told."""
        for restart, name in ((True, "load_signed"), (False, "settle_signed")):
            self.patch(signed_invites, name, failing_once(getattr(signed_invites, name)))
            since = self.invited_while_bob_is_put_out(restart=restart)
            self.assertEqual(("invite", "invite"), (self.listed(since), self.listed()))
            self.assertEqual(["task failed, will restart"], self.b.log.events("error"))
            self.b.log.entries.clear()
            self.room(self.a, self.alice, "kick", {"user_id": ERIN})
            self.room(self.a, self.alice, "invite", {"user_id": BOB})
            self.assertEqual(200, self.join(self.b, self.bob, self.room_id, A).status)
            self.net.settle()

    def test_what_was_invited_while_the_last_of_ours_is_put_out_can_be_accepted(self) -> None:
        self.invited_while_bob_is_put_out()
        self.assertEqual(200, self.join(self.b, self.erin, self.room_id).status)
        self.net.settle()
        self.assert_same_state(self.room_id, (self.a, self.alice), (self.b, self.erin))

    def test_of_what_the_room_has_told_nothing_is_kept(self) -> None:
        self.room(self.a, self.alice, "invite", {"user_id": ERIN})
        self.net.advance(5)
        self.assertEqual(("invite", []), (self.listed(), self.net.wait(self.b.database.read(load_signed))))
        self.room(self.a, self.alice, "kick", {"user_id": ERIN})
        self.net.advance(5)
        self.room(self.b, self.bob, "leave", {})
        self.net.advance(5)
        self.assertEqual("", self.listed())

    def test_not_of_a_server_that_was_not_there(self) -> None:
        """It has come in since, and for all that is known here it has not."""
        self.leave_waiting()
        c = self.server(C)
        carol = c.register("carol")
        self.room(self.a, self.alice, "invite", {"user_id": CAROL})
        self.assertEqual(200, self.join(c, carol, self.room_id, A).status)
        self.ok(
            self.a,
            self.alice,
            "PUT",
            f"/rooms/{quote(self.room_id)}/state/m.room.power_levels",
            {"invite": 0, "kick": 0, "users": {CAROL: 50}},
        )
        self.net.settle()
        self.room(c, carol, "kick", {"user_id": ERIN})
        self.net.advance(5)
        self.assertEqual("invite", self.listed())


@on_each_database
class Forgotten(NetCase):
    """carol's server forgets rooms for those who are out of them; it is not in alice's room.

    # spec: client-server-api#mforget_forced_upon_leave-capability
    """

    def setUp(self) -> None:
        super().setUp()
        self.c = self.server(C, forget_rooms_on_leave=True)
        self.carol = self.c.register("carol")
        state = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        self.room_id = self.create(self.a, self.alice, initial_state=state)

    def room(self, path: str, *, mine: bool = False) -> None:
        server, token, body = (self.c, self.carol, {}) if mine else (self.a, self.alice, {"user_id": CAROL})
        self.ok(server, token, "POST", f"/rooms/{quote(self.room_id)}/{path}", body)

    def assert_over_and_forgotten(self, since: str) -> None:
        self.net.advance(5)
        told = self.sync(self.c, self.carol, since)
        self.assertEqual([self.room_id], list(told["rooms"]["leave"]))
        self.assertNotIn("rooms", self.sync(self.c, self.carol, told["next_batch"]))
        wanted = {"filter": '{"room":{"include_leave":true}}'}
        self.assertNotIn("rooms", self.sync(self.c, self.carol, **wanted))

    def test_an_invite_that_ends(self) -> None:
        for how in ("leave", "kick", "ban"):
            self.room("invite")
            since = self.sync(self.c, self.carol)["next_batch"]
            self.room(how, mine=how == "leave")
            self.assert_over_and_forgotten(since)

    def test_an_invite_that_is_declined_while_its_server_is_away(self) -> None:
        self.room("invite")
        since = self.sync(self.c, self.carol)["next_batch"]
        self.net.down(A)
        self.room("leave", mine=True)
        self.assert_over_and_forgotten(since)
        self.net.up(A)
        self.net.advance(3600)
        path = f"/rooms/{quote(self.room_id)}/state/m.room.member/{quote(CAROL)}"
        self.assertEqual("leave", self.ok(self.a, self.alice, "GET", path)["membership"])

    def test_a_knock_that_is_taken_back(self) -> None:
        self.ok(self.c, self.carol, "POST", f"/knock/{quote(self.room_id)}", {}, {"via": [A]})
        since = self.sync(self.c, self.carol)["next_batch"]
        self.room("leave", mine=True)
        self.assert_over_and_forgotten(since)


def _contents(room: Any) -> dict[tuple[str, str], Any]:
    return {(event["type"], event["state_key"]): event["content"] for event in room["invite_state"]["events"]}
