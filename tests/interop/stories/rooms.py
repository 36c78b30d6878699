"""Rooms in every version: how people get in and out, and what they say and change there."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.interop.client import RefusedError, room_path
from tests.interop.pair import eventually
from tests.interop.stories.base import VERSIONS, Story, segment

NAME = "m.room.name"
TOPIC = "m.room.topic"


class Rooms(Story):
    """See the module."""

    versions: ClassVar[tuple[str, ...]] = VERSIONS

    def test_join_by_alias(self) -> None:
        """The other server finds the room by its alias, and both tell the same of it."""
        alias = f"meeting{self.alice.user_id[1:].partition(':')[0]}"
        room_id = self.create_room(name="Meeting", topic="Talk", room_alias_name=alias)
        before = self.alice.send(room_id, "Said before anybody came")
        self.assertEqual(self.bob.join(f"#{alias}:{self.here.server_name}"), room_id)
        self.bob.is_in(room_id, "join")
        self.bob.sees_state(room_id, NAME, {"name": "Meeting"})
        self.bob.sees_state(room_id, TOPIC, {"topic": "Talk"})
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.exchange(room_id, "Hello")
        self.assertIn(before, [event["event_id"] for event in self.bob.history(room_id)])
        self.agree(room_id)

    def test_join_by_invite(self) -> None:
        """The invite shows what the room is; it can be declined, and accepted the next time."""
        room_id = self.create_room(preset="private_chat", name="Private")
        self.bob.is_refused_to_join(room_id, self.here.server_name)
        self.alice.invite(room_id, self.bob.user_id)
        self.bob.is_in(room_id, "invite")
        shown = {event["type"]: event["content"] for event in self.bob.stripped[room_id]}
        self.assertEqual(shown[NAME]["name"], "Private")
        self.bob.leave(room_id)
        self.alice.sees_member(room_id, self.bob.user_id, "leave")
        self.alice.invite(room_id, self.bob.user_id)
        self.bob.is_in(room_id, "invite")
        self.bob.join(room_id)
        self.bob.is_in(room_id, "join")
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.exchange(room_id, "Among ourselves")
        self.agree(room_id, history=False)

    def test_what_is_said_and_taken_back(self) -> None:
        """Messages, an edit, a reaction, redactions, each from one side and seen on the other."""
        room_id = self.meet()
        self.exchange(room_id, "One")
        for writer, reader in self.both_ways():
            said = writer.send(room_id, "Frist")
            reader.sees(room_id, said)
            edit = writer.send_event(room_id, "m.room.message", _edit(said, "First"))
            reader.sees(room_id, edit)
            liked = reader.send_event(room_id, "m.reaction", _reaction(said))
            writer.sees(room_id, liked)
            shown = reader.ok("GET", f"{room_path(room_id)}/event/{segment(said)}")
            bundled = shown["unsigned"]["m.relations"]["m.replace"]
            self.assertEqual(bundled["content"]["m.new_content"]["body"], "First")
            regretted = writer.send(room_id, "Oh no")
            reader.sees(room_id, regretted)
            redaction = writer.redact(room_id, regretted)
            seen = reader.sees(room_id, redaction)
            target = seen.get("redacts") or seen["content"]["redacts"]
            self.assertEqual(target, regretted)
            gone = reader.ok("GET", f"{room_path(room_id)}/event/{segment(regretted)}")
            self.assertEqual(gone["content"], {})
            self.assertEqual(gone["unsigned"]["redacted_because"]["event_id"], redaction)
        self.agree(room_id)

    def test_leaving_and_being_sent_away(self) -> None:
        """Leave and rejoin, kick, ban, unban."""
        room_id = self.meet()
        self.bob.leave(room_id)
        self.alice.sees_member(room_id, self.bob.user_id, "leave")
        missed = self.alice.send(room_id, "While bob was away")
        self.bob.join(room_id, via=self.here.server_name)
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.bob.is_in(room_id, "join")
        self.assertIn(missed, [event["event_id"] for event in self.bob.history(room_id)])
        for action, membership in (("kick", "leave"), ("ban", "ban")):
            body = {"user_id": self.bob.user_id, "reason": "a test"}
            self.alice.ok("POST", f"{room_path(room_id)}/{action}", body)
            self.bob.is_in(room_id, "leave")
            self.alice.sees_member(room_id, self.bob.user_id, membership)
            if action == "kick":
                self.bob.join(room_id, via=self.here.server_name)
                self.bob.is_in(room_id, "join")
                self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.bob.is_refused_to_join(room_id, self.here.server_name)
        self.alice.ok("POST", f"{room_path(room_id)}/unban", {"user_id": self.bob.user_id})
        eventually(
            "the unbanned user can join",
            lambda: self.bob.may_join(room_id, self.here.server_name),
            self.bob,
        )
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.exchange(room_id, "Back again")
        self.agree(room_id)

    def test_power(self) -> None:
        """Who may change what is the same on both sides."""
        room_id = self.meet()
        path = f"{room_path(room_id)}/state/{TOPIC}/"
        self.bob.refused("M_FORBIDDEN", "PUT", path, {"topic": "bob's"})
        levels = self.alice.ok("GET", f"{room_path(room_id)}/state/m.room.power_levels/")
        levels["users"] = {**levels.get("users", {}), self.bob.user_id: 50}
        event_id = self.alice.put_state(room_id, "m.room.power_levels", levels)
        self.bob.sees(room_id, event_id)
        self.bob.put_state(room_id, TOPIC, {"topic": "bob's"})
        self.alice.sees_state(room_id, TOPIC, {"topic": "bob's"})
        levels["users"][self.bob.user_id] = 0
        self.bob.sees(room_id, self.alice.put_state(room_id, "m.room.power_levels", levels))
        self.bob.refused("M_FORBIDDEN", "PUT", path, {"topic": "bob's again"})
        self.agree(room_id)

    def test_restricted_join(self) -> None:
        """Who is in one room may join another, and nobody else; a server that cannot say so asks one that can."""
        hall = self.create_room(name="Hall")
        try:
            room_id = self._create_restricted(hall)
        except RefusedError as error:
            if int(self.version) >= 8 or error.status != 400:
                raise
            return
        if int(self.version) < 8:
            # The rule means nothing yet, so it lets nobody in.
            self.bob.join(hall, via=self.here.server_name)
            self.bob.is_refused_to_join(room_id, self.here.server_name)
            return
        self.bob.is_refused_to_join(room_id, self.here.server_name)
        self.bob.join(hall, via=self.here.server_name)
        self.alice.sees_member(hall, self.bob.user_id, "join")
        self.bob.join(room_id, via=self.here.server_name)
        self.bob.is_in(room_id, "join")
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        member = self.alice.whole_state(room_id)["m.room.member", self.bob.user_id]
        self.assertEqual(member["content"]["join_authorised_via_users_server"], self.alice.user_id)
        self.exchange(room_id, "Among members")
        # A neighbour of bob's joins by bob's own server, which cannot invite and has to ask.
        carol = self.register(self.there, "carol")
        carol.is_refused_to_join(room_id, self.here.server_name)
        carol.join(hall, via=self.here.server_name)
        self.alice.sees_member(hall, carol.user_id, "join")
        carol.join(room_id, via=self.here.server_name)
        self.alice.sees_member(room_id, carol.user_id, "join")
        self.agree(room_id, self.alice, carol)

    def _create_restricted(self, hall: str) -> str:
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": hall}]}
        state = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
        return self.create_room(preset="private_chat", initial_state=state)

    def test_knock(self) -> None:
        """Knock, take it back, knock again, be let in."""
        if int(self.version) < 7:
            room_id = self.create_room(preset="private_chat")
            status, _ = self.bob.knock(room_id, self.here.server_name)
            self.assertIn(status, (400, 403))
            return
        rule = [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]
        room_id = self.create_room(preset="private_chat", initial_state=rule, name="Door")
        status, answer = self.bob.knock(room_id, self.here.server_name)
        self.assertEqual(status, 200, answer)
        self.alice.sees_member(room_id, self.bob.user_id, "knock")
        self.bob.is_in(room_id, "knock")
        shown = {event["type"]: event["content"] for event in self.bob.stripped[room_id]}
        self.assertEqual(shown[NAME]["name"], "Door")
        if not self.there.is_synapse:
            # Synapse forgets the knock on its own side, and does not tell the room.
            self.bob.leave(room_id)
            self.alice.sees_member(room_id, self.bob.user_id, "leave")
            self.assertEqual(self.bob.knock(room_id, self.here.server_name)[0], 200)
            self.alice.sees_member(room_id, self.bob.user_id, "knock")
        self.alice.invite(room_id, self.bob.user_id)
        self.bob.is_in(room_id, "invite")
        self.bob.join(room_id)
        self.alice.sees_member(room_id, self.bob.user_id, "join")
        self.exchange(room_id, "Come in")
        self.agree(room_id, history=False)

    def test_upgrade(self) -> None:
        """A room that moved says where to, on both sides, and who moves along finds it."""
        room_id = self.meet(name="Old")
        body = {"new_version": self.version}
        successor = self.alice.ok("POST", f"{room_path(room_id)}/upgrade", body)["replacement_room"]
        self.bob.sees_state(room_id, "m.room.tombstone", {"replacement_room": successor})
        self.bob.join(successor, via=self.here.server_name)
        self.bob.sees_state(successor, NAME, {"name": "Old"})
        created = self.bob.whole_state(successor)["m.room.create", ""]
        self.assertEqual(created["content"]["predecessor"]["room_id"], room_id)
        self.alice.sees_member(successor, self.bob.user_id, "join")
        self.exchange(successor, "Here we are")
        self.agree(room_id)
        self.agree(successor)


def _edit(event_id: str, body: str) -> dict[str, Any]:
    return {
        "msgtype": "m.text",
        "body": f"* {body}",
        "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
    }


def _reaction(event_id: str) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}}
