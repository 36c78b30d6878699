"""Calls: relays, media servers, and signalling that goes through untouched. spec: client-server-api#voice-over-ip"""

from __future__ import annotations

import hmac
from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from homeserver.config.schema import Calls, Config, Turn
from tests.api.talk import TalkCase, user
from tests.support.app import TestApp, test_config

TURN = "/_matrix/client/v3/voip/turnServer"
TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
URIS = ("turn:turn.example.org?transport=udp", "turns:turn.example.org?transport=tcp")
SERVICE = "https://call.example.org/livekit/jwt"


class Configured(TestCase):
    """What the configuration says is what clients hear."""

    def make(self, **changes: Any) -> TestApp:
        return TestApp(self, config=self.config(**changes))

    def config(self, **changes: Any) -> Config:
        return test_config(data_dir=Path(self.mktemp()), **changes)

    def test_credentials(self) -> None:
        app = self.make(turn=Turn(URIS, "north", 600))
        token = app.register("alice")
        answer = app.ok("GET", TURN, token=token)
        ends = int(app.time.rightNow) + 600
        name = f"{ends}:{user('alice')}"
        # As coturn computes it with use-auth-secret.
        password = b64encode(hmac.new(b"north", name.encode(), "sha1").digest()).decode()
        self.assertEqual({"username": name, "password": password, "uris": list(URIS), "ttl": 600}, answer)
        app.advance(10)
        self.assertEqual(f"{ends + 10}:{user('alice')}", app.ok("GET", TURN, token=token)["username"])
        status, json = app.call("GET", TURN)
        self.assertEqual((401, "M_MISSING_TOKEN"), (status, json["errcode"]))

    def test_a_secret_that_changes(self) -> None:
        app = self.make(turn=Turn(URIS, "north", 600))
        token = app.register("alice")
        before = app.ok("GET", TURN, token=token)
        app.app.reload(self.config(turn=Turn(URIS[:1], "south", 60)))
        after = app.ok("GET", TURN, token=token)
        self.assertNotEqual(before["password"], after["password"])
        self.assertEqual((list(URIS[:1]), 60), (after["uris"], after["ttl"]))

    def test_no_relays(self) -> None:
        app = self.make()
        self.assertEqual({}, app.ok("GET", TURN, token=app.register("alice")))

    def test_media_servers(self) -> None:
        app = self.make(calls=Calls((SERVICE,)))
        focus = {"type": "livekit", "livekit_service_url": SERVICE}
        # With a token and without: not every client has one to send.
        for token in (None, app.register("alice")):
            self.assertEqual({"rtc_transports": [focus]}, app.ok("GET", TRANSPORTS, token=token))
        self.assertEqual(401, app.call("GET", TRANSPORTS, token="wrong")[0])
        known = app.ok("GET", "/.well-known/matrix/client")
        self.assertEqual([focus], known["org.matrix.msc4143.rtc_foci"])

    def test_no_media_servers(self) -> None:
        app = self.make()
        self.assertEqual({"rtc_transports": []}, app.ok("GET", TRANSPORTS))
        self.assertNotIn("org.matrix.msc4143.rtc_foci", app.ok("GET", "/.well-known/matrix/client"))


class Signalling(TalkCase):
    """What clients say to each other about calls is theirs."""

    def test_relayed_untouched(self) -> None:
        room_id = self.make_room(joined=("bob",))
        events = (
            (
                "m.call.invite",
                {"call_id": "1", "lifetime": 60000, "offer": {"sdp": "v=0\r\n", "type": "offer"}},
            ),
            ("m.call.candidates", {"call_id": "1", "candidates": [{"candidate": "", "sdpMid": "audio"}]}),
            ("m.call.answer", {"call_id": "1", "answer": {"sdp": "v=0\r\n", "type": "answer"}}),
            ("m.call.select_answer", {"call_id": "1", "selected_party_id": "X"}),
            ("m.call.negotiate", {"call_id": "1", "description": {"type": "offer", "sdp": "x"}}),
            ("m.call.sdp_stream_metadata_changed", {"call_id": "1", "sdp_stream_metadata": {"a": {}}}),
            ("m.call.reject", {"call_id": "1", "party_id": "X", "version": "1"}),
            ("m.call.hangup", {"call_id": "1", "reason": "user_hangup"}),
            ("org.matrix.msc4075.rtc.notification", {"lifetime": 30000, "notification_type": "ring"}),
        )
        since = self.ok("bob", "/_matrix/client/v3/sync")["next_batch"]
        for event_type, content in events:
            status, json = self.send("alice", room_id, content, event_type)
            self.assertEqual(200, status, json)
        sync = self.ok("bob", "/_matrix/client/v3/sync", since=since)
        told = sync["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual(list(events), [(event["type"], event["content"]) for event in told])

    def test_memberships_of_group_calls(self) -> None:
        room_id = self.make_room(levels={"events": {"org.matrix.msc3401.call.member": 0}}, joined=("bob",))
        key = f"_{user('bob')}_DEVICE_m.call"
        content = {"application": "m.call", "call_id": "", "expires": 14_400_000, "foci_preferred": []}
        self.set_state("bob", room_id, "org.matrix.msc3401.call.member", content, key)
        path = self.path(room_id, "state", "org.matrix.msc3401.call.member", key)
        self.assertEqual(content, self.ok("alice", path))
