"""What other servers read of our states: the state before an event, its ids, and auth chains."""

from __future__ import annotations

from functools import partial
from typing import Any

from federation.event import Event, parse_untrusted
from federation.ids import EventId
from federation.versions import ROOM_VERSIONS
from homeserver.rooms.federated import peer_state
from tests.api.peers import PeerCase
from tests.api.rooms import ALICE
from tests.api.test_peer_history import path_of
from tests.support.databases import on_each_database
from tests.support.peer import random_id


@on_each_database
class States(PeerCase):
    """``/state`` and ``/state_ids``."""

    def parse(self, found: list[Any], version: str = "11") -> list[Event]:
        return [parse_untrusted(one, ROOM_VERSIONS[version]) for one in found]

    def expected(self, room_id: str, before: str) -> tuple[set[EventId], set[EventId]]:
        """The state before an event and its auth chain, by replaying the room."""
        known = {one.event_id: one for one in self.events(room_id)}
        state: dict[tuple[str, str], EventId] = {}
        for event in known.values():
            if event.event_id == before:
                break
            if event.state_key is not None:
                state[event.key()] = event.event_id
        return set(state.values()), self.closure(known, list(state.values()))

    def closure(self, known: dict[EventId, Event], todo: list[EventId]) -> set[EventId]:
        chain: set[EventId] = set()
        while todo:
            for parent in known[todo.pop()].auth_event_ids:
                if parent not in chain:
                    chain.add(parent)
                    todo.append(parent)
        return chain

    def test_the_state_is_that_before_the_event(self) -> None:
        for version in ("1", "6", "11", "12"):
            room_id = self.shared_room(room_version=version)
            self.say(room_id, "hi")
            self.come(room_id, self.peer.user("friend"))
            name = self.place(room_id, ALICE, "m.room.name", {"name": "after"}, "")
            message = self.say(room_id, "hi")
            for event_id in (name, message):
                state, chain = self.expected(room_id, event_id)
                ids = self.answer_of(path_of("state_ids", room_id), event_id=event_id)
                self.assertEqual({"pdu_ids", "auth_chain_ids"}, set(ids))
                self.assertEqual((state, chain), (set(ids["pdu_ids"]), set(ids["auth_chain_ids"])))
                full = self.answer_of(path_of("state", room_id), event_id=event_id)
                self.assertEqual({"pdus", "auth_chain"}, set(full))
                for name_of, want in (("pdus", state), ("auth_chain", chain)):
                    found = [one.event_id for one in self.parse(full[name_of], version)]
                    self.assertEqual(want, set(found))
                    self.assertEqual(len(want), len(found), "each of them once")

    def test_auth_chains_come_parents_first(self) -> None:
        room_id = self.shared_room(room_version="11")
        message = self.say(room_id, "hi")
        chain = self.parse(self.answer_of(path_of("event_auth", room_id, message))["auth_chain"])
        known = {one.event_id: one for one in self.events(room_id)}
        wanted = self.closure(known, [EventId(message)])
        self.assertEqual(wanted, {one.event_id for one in chain})
        seen: set[EventId] = set()
        for event in chain:
            self.assertLessEqual(set(event.auth_event_ids), seen)
            seen.add(event.event_id)

    def test_auth_chain_of_a_state_event(self) -> None:
        for version in ("1", "11", "12"):
            room_id = self.shared_room(room_version=version)
            name = self.place(room_id, ALICE, "m.room.name", {"name": "x"}, "")
            chain = self.parse(self.answer_of(path_of("event_auth", room_id, name))["auth_chain"], version)
            known = {one.event_id: one for one in self.events(room_id)}
            self.assertEqual(self.closure(known, [EventId(name)]), {one.event_id for one in chain})

    def test_refused(self) -> None:
        room_id, other = self.shared_room(), self.shared_room()
        event_id = self.say(room_id, "hi")
        elsewhere = self.say(other, "hi")
        for kind in ("state", "state_ids"):
            path = path_of(kind, room_id)
            self.assert_refused(self.ask(path), 400, "M_MISSING_PARAM")
            self.assert_refused(self.ask(path, event_id="no id"), 400, "M_INVALID_PARAM")
            self.assert_refused(self.ask(path, event_id=random_id("none")), 404, "M_NOT_FOUND")
            self.assert_refused(self.ask(path, event_id=elsewhere), 404, "M_NOT_FOUND")
            self.assert_refused(self.ask(path, self.stranger, event_id=event_id), 403, "M_FORBIDDEN")
            unknown = path_of(kind, "!none:test.example")
            self.assert_refused(self.ask(unknown, event_id=event_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.ask(path_of("event_auth", room_id, elsewhere)), 404, "M_NOT_FOUND")
        self.assert_refused(
            self.ask(path_of("event_auth", room_id, event_id), self.stranger), 403, "M_FORBIDDEN"
        )
        self.place(room_id, ALICE, "m.room.server_acl", {"allow": ["*"], "deny": ["peer.example"]}, "")
        for path in (path_of("state", room_id), path_of("state_ids", room_id)):
            self.assert_refused(self.ask(path, event_id=event_id), 403, "M_FORBIDDEN")
        self.assert_refused(self.ask(path_of("event_auth", room_id, event_id)), 403, "M_FORBIDDEN")

    def test_a_large_state_is_sent_in_slices(self) -> None:
        self.patch(peer_state, "_AT_ONCE", 7)
        room_id = self.shared_room(room_version="11")
        for number in range(10):
            self.come(room_id, self.peer.user(f"u{number}"))
        message = self.say(room_id, "hi")
        state, chain = self.expected(room_id, message)
        ids = self.answer_of(path_of("state_ids", room_id), event_id=message)
        self.assertEqual((state, chain), (set(ids["pdu_ids"]), set(ids["auth_chain_ids"])))
        full = self.answer_of(path_of("state", room_id), event_id=message)
        self.assertEqual(state, {one.event_id for one in self.parse(full["pdus"])})
        self.assertEqual(chain, {one.event_id for one in self.parse(full["auth_chain"])})
        auth = self.answer_of(path_of("event_auth", room_id, message))
        self.assertLessEqual({one.event_id for one in self.parse(auth["auth_chain"])}, chain | state)
        counted = self.count(lambda: self.answer_of(path_of("state", room_id), event_id=message))
        self.assertLessEqual(max(number for _, number in counted.units[1:]), 1, str(counted))

    def test_statements(self) -> None:
        room_id = self.shared_room(room_version="11")
        for number in range(20):
            self.come(room_id, self.peer.user(f"u{number}"))
        message = self.say(room_id, "hi")
        for kind in ("state", "state_ids"):
            self.answer_of(path_of(kind, room_id), event_id=message)
            path = path_of(kind, room_id)
            counted = self.count(partial(self.answer_of, path, event_id=message))
            # The room, the event, its state, the chain, and what is in either; who is in the room is known.
            self.assertEqual([6], [number for _, number in counted.units], str(counted))
