"""The judge judges: what breaks a schema is seen, through references and over files."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import ServerName
from homeserver.http.transport import PeerRequest
from tests.conformance.stage import StageCase
from tests.conformance.watch import Watch
from tests.federation.people import A, B
from tests.support.http import Answer

JSON = {"content-type": "application/json"}
SEND = "/_matrix/federation/v1/send/1"
PDU = {
    "type": "m.room.message",
    "room_id": f"!a:{A}",
    "sender": f"@alice:{A}",
    "content": {},
    "origin_server_ts": 1,
    "depth": 1,
    "hashes": {"sha256": "x"},
    "signatures": {A: {"ed25519:1": "x"}},
    "prev_events": ["$x"],
    "auth_events": ["$x"],
}


class Judging(StageCase):
    def setUp(self) -> None:
        super().setUp()
        self.watch = Watch(self.specification)
        self.watch.know_room(f"!a:{A}", "11")

    def sent(self, method: str, uri: str, body: object = None) -> list[str]:
        """What is wrong with a request."""
        self.watch.problems.clear()
        encoded = None if body is None else msgspec.json.encode(body)
        self.watch.request(ServerName(A), PeerRequest(ServerName(B), method, uri, None, encoded))
        return self.watch.problems

    def answered(self, method: str, uri: str, status: int, json: object) -> list[str]:
        """What is wrong with an answer."""
        self.watch.problems.clear()
        self.watch.answer(method, uri, Answer(status, JSON, msgspec.json.encode(json), json))
        return self.watch.problems

    def test_requests(self) -> None:
        body = {"origin": A, "origin_server_ts": 1, "pdus": [PDU]}
        self.assertEqual([], self.sent("PUT", SEND, body))
        mistakes: tuple[dict[str, Any], ...] = (
            {"pdus": []},
            {**body, "origin_server_ts": "1"},
            {**body, "edus": [{"edu_type": "m.presence", "content": {"push": [{"user_id": "@a:b"}]}}]},
            {**body, "edus": [{"edu_type": "m.unheard_of", "content": {}}]},
            {**body, "pdus": [{**PDU, "hashes": {}}]},
            {**body, "pdus": [{**PDU, "event_id": "$x"}]},
            {**body, "pdus": [{**PDU, "auth_events": [["$x", {"sha256": "x"}]]}]},
            {**body, "pdus": [{**PDU, "auth_events": ["$x"] * 11}]},
            {**body, "pdus": [{**PDU, "room_id": "!unknown"}]},
        )
        for wrong in mistakes:
            self.assertNotEqual([], self.sent("PUT", SEND, wrong), wrong)
        self.assertNotEqual([], self.sent("PUT", SEND))
        backfill = "/_matrix/federation/v1/backfill/%21a"
        self.assertEqual([], self.sent("GET", f"{backfill}?v=%24x&v=%24y&limit=5"))
        for query in ("", "?limit=5", "?v=x&limit=many", "?v=x&limit=1&limit=2", "?v=x&limit=1&more=1"):
            self.assertNotEqual([], self.sent("GET", backfill + query), query)
        self.assertNotEqual([], self.sent("GET", "/_matrix/federation/v1/weather"))

    def test_answers(self) -> None:
        version = "/_matrix/federation/v1/version"
        self.assertEqual([], self.answered("GET", version, 200, {"server": {"name": "x"}}))
        for status, wrong in ((200, {"server": {"name": 1}}), (201, {}), (404, {"error": "x"}), (500, {})):
            self.assertNotEqual([], self.answered("GET", version, status, wrong), (status, wrong))
        # Through two files.
        keys = "/_matrix/federation/v1/user/keys/query"
        self.assertEqual([], self.answered("POST", keys, 200, {"device_keys": {}}))
        self.assertNotEqual([], self.answered("POST", keys, 200, {"device_keys": {"@a:b": {"D": {}}}}))
        knock = "/_matrix/federation/v1/send_knock/%21a/%24x"
        create = {**PDU, "type": "m.room.create", "state_key": "", "content": {"room_version": "11"}}
        self.assertEqual([], self.answered("PUT", knock, 200, {"knock_room_state": [create]}))
        for state in ([], [PDU], [create, {"type": "m.room.name", "content": {}}]):
            self.assertNotEqual([], self.answered("PUT", knock, 200, {"knock_room_state": state}), state)
        join = "/_matrix/federation/v2/send_join/%21a/%24x"
        omitted = {"state": [], "auth_chain": [], "members_omitted": True}
        self.assertNotEqual([], self.answered("PUT", join, 200, omitted))
        self.assertEqual([], self.answered("PUT", join, 200, {**omitted, "servers_in_room": [A]}))
