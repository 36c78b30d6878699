"""The fake peer tells the truth when it is not told to lie: its events pass every check of the core."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from federation.checks import AuthEvents, check_auth_events, check_state_before, lookup_in
from federation.event import parse_untrusted
from federation.hashes import check_content_hash
from federation.keyring import parse_key_response
from federation.signing import required_signers, verify_event_signatures
from federation.verdict import ACCEPT
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.support.peer import FEDERATION, FakePeer, FakePeers


class FakePeerTests(SynchronousTestCase):
    def ask(self, peer: FakePeer, uri: str, method: str = "GET", body: Any = None) -> Any:
        data = None if body is None else msgspec.json.encode(body)
        waiting = FakePeers(peer).send(PeerRequest(peer.server_name, method, uri, None, data))
        return msgspec.json.decode(self.successResultOf(waiting).body)

    def test_its_rooms_are_sound(self) -> None:
        for version, rules in ROOM_VERSIONS.items():
            peer = FakePeer()
            room = peer.create(version)
            room.say("one")
            fork = list(room.head)
            left = room.join(peer.user("bob"), prev=fork)
            right = room.add("m.room.topic", {"topic": "t"}, state_key="", prev=fork)
            self.assertEqual({left.event_id, right.event_id}, set(room.head))
            merged = room.say("both")
            self.assertEqual({left.event_id, right.event_id}, set(merged.prev_event_ids))
            self.assertIn(right.event_id, room.state.values())
            keys = {peer.server_name: {peer.key.key_id: peer.key.public_key}}
            create = next(event for event in room.events.values() if event.type == "m.room.create")
            for event in room.events.values():
                parsed = parse_untrusted(event.json, rules)
                self.assertEqual((event.event_id, room.room_id), (parsed.event_id, parsed.room_id))
                self.assertTrue(check_content_hash(event.json, rules))
                self.assertEqual(ACCEPT, verify_event_signatures(parsed, required_signers(parsed), keys))
                auth = [room.events[one] for one in parsed.auth_event_ids]
                implied = create if event is not create else None
                self.assertEqual(ACCEPT, check_auth_events(parsed, AuthEvents(auth, (), implied)), version)
                before = [room.events[one] for one in room.state_before(event.event_id)]
                self.assertEqual(ACCEPT, check_state_before(parsed, lookup_in(before, rules)), version)

    def test_it_answers(self) -> None:
        peer = FakePeer()
        room = peer.create("11")
        first, second, third = (room.say(text) for text in ("one", "two", "three"))
        keys = parse_key_response(
            self.ask(peer, "/_matrix/key/v2/server"), peer.server_name, 1_700_000_000_000
        )
        self.assertEqual([peer.key.key_id], list(keys.keys))
        found = self.ask(peer, f"{FEDERATION}/event/{first.event_id}")
        self.assertEqual([first.json], found["pdus"])
        body = {"earliest_events": [first.event_id], "latest_events": [third.event_id], "limit": 5}
        found = self.ask(peer, f"{FEDERATION}/get_missing_events/{room.room_id}", "POST", body)
        self.assertEqual([second.json], found["events"])
        ids = self.ask(peer, f"{FEDERATION}/state_ids/{room.room_id}?event_id={third.event_id}")
        self.assertEqual(4, len(ids["pdu_ids"]))
        self.assertEqual(3, len(ids["auth_chain_ids"]))
        state = self.ask(peer, f"{FEDERATION}/state/{room.room_id}?event_id={third.event_id}")
        self.assertEqual([4, 3], [len(state[key]) for key in ("pdus", "auth_chain")])
        chain = self.ask(peer, f"{FEDERATION}/event_auth/{room.room_id}/{third.event_id}")
        self.assertEqual(3, len(chain["auth_chain"]))
        page = self.ask(peer, f"{FEDERATION}/backfill/{room.room_id}?v={third.event_id}&limit=2")
        self.assertEqual([third.json, second.json], page["pdus"])

    def test_a_join(self) -> None:
        peer, other = FakePeer(), FakePeer("other.example")
        room = peer.create("11")
        made = self.ask(peer, f"{FEDERATION}/make_join/{room.room_id}/{other.user()}")
        event = other.sign(made["event"], made["room_version"])
        uri = f"/_matrix/federation/v2/send_join/{room.room_id}/x"
        answer = self.ask(peer, uri, "PUT", event)
        self.assertEqual(4, len(answer["state"]))
        self.assertEqual({"peer.example", "other.example"}, set(answer["event"]["signatures"]))
        self.assertEqual(event["sender"], other.user())

    def test_it_says_what_it_is_told(self) -> None:
        peer = FakePeer()
        peer.answers["GET", "/x"] = lambda request: PeerResponse(418, request.uri.encode())
        request = PeerRequest(peer.server_name, "GET", "/x/y")
        self.assertEqual(b"/x/y", self.successResultOf(peer.send(request)).body)
        pieces: list[bytes] = []
        peer.answers["GET", "/x"] = b"not json"
        self.assertEqual(b"", self.successResultOf(peer.send(request, pieces.append)).body)
        self.assertEqual([b"not json"], pieces)
        peer.reachable = False
        self.failureResultOf(peer.send(request), Unreachable)
        self.assertEqual(3, len(peer.asked))
