"""History visibility against a naive model: every event that a page shows, and none that it does not."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.talk import TalkCase, user

VISIBILITIES = ("world_readable", "shared", "invited", "joined")
ACTIONS = st.lists(
    st.sampled_from(("say", "say", "say", "invite", "join", "join", "leave", "ban", "unban", *VISIBILITIES)),
    min_size=6,
    max_size=30,
)


@dataclass(slots=True)
class Remembered:
    """An event, and what was the case on either side of it."""

    event_id: str
    before: tuple[str, str]  # visibility, bob's membership
    after: tuple[str, str]


def allows(side: tuple[str, str], joined_later: bool) -> bool:
    """The five rules of the specification."""
    visibility, membership = side
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "shared" and joined_later:
        return True
    return membership == "invite" and visibility == "invited"


class AgainstModel(TalkCase):
    """See the module."""

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ACTIONS)
    def test_page_is_what_the_rules_allow(self, actions: list[str]) -> None:
        room_id = self.make_room()
        history = self.play(room_id, actions)
        expected = self.expected(history)
        answer = self.get("bob", self.path(room_id, "messages"), dir="b", limit=100)
        if expected is None:
            self.assert_refused(answer, 403, "M_FORBIDDEN")
            return
        made = {one.event_id for one in history}
        shown = {event["event_id"]: event for event in answer[1]["chunk"] if event["event_id"] in made}
        self.assertEqual(expected, set(shown))
        for one in history:
            if one.event_id in shown:
                self.assertEqual(one.after[1], shown[one.event_id]["unsigned"]["membership"])
            status, json = self.get("bob", self.path(room_id, "event", one.event_id))
            self.assertEqual(200 if one.event_id in shown else 404, status, json)

    def play(self, room_id: str, actions: list[str]) -> list[Remembered]:
        """Do it, as far as the room allows."""
        visibility, membership, history = "shared", "leave", list[Remembered]()
        for action in actions:
            before = (visibility, membership)
            if action == "say":
                event_id = self.say("alice", room_id, "x")
            elif action in VISIBILITIES:
                content = {"history_visibility": action}
                event_id = self.set_state("alice", room_id, "m.room.history_visibility", content)
                visibility = action
            else:
                name = "bob" if action == "join" else "alice"
                wanted = {"unban": "leave"}.get(action, action)
                if (action == "unban" and membership != "ban") or (action == "leave" and membership == "ban"):
                    continue
                status, json = self.put_state(
                    name, room_id, "m.room.member", {"membership": wanted}, user("bob")
                )
                if status != 200:
                    continue
                event_id, membership = json["event_id"], wanted
            if all(one.event_id != event_id for one in history):  # the same state again is no new event
                history.append(Remembered(event_id, before, (visibility, membership)))
        return history

    def expected(self, history: list[Remembered]) -> set[str] | None:
        """The events that bob may see; None where that is none at all."""
        end = history[-1].after if history else ("shared", "leave")
        joins = [place for place, one in enumerate(history) if one.after[1] == "join"]
        upto = len(history)
        if end[1] != "join" and end[0] != "world_readable":
            if not joins:
                return None
            upto = joins[-1] + 1
            while history[upto].after[1] == "join":
                upto += 1
            upto += 1
        seen = set()
        for place, one in enumerate(history[:upto]):
            later = any(join > place for join in joins)
            if allows(one.before, later) or allows(one.after, later):
                seen.add(one.event_id)
        return seen
