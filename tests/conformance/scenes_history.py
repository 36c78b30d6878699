"""Scenes of events: transactions with every EDU, what is missing, the state of rooms, moments."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from federation.hashes import unpadded
from federation.ids import ServerName
from federation.signing import SigningKey, hash_and_sign_event, sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.store import room_answers
from tests.api.servers import place_event
from tests.conformance.stage import ALICE, BOB, EVIL, StageCase, path
from tests.federation.people import A, B, C
from tests.support.keys import CrossKeys, KeyDevice

EVE = f"@eve:{EVIL}"


def talk(stage: StageCase) -> None:
    """Messages, a redaction, and every EDU that a client can bring about."""
    for version in ("1", "3", "10", "11", "12"):
        room = quote(room_id := stage.share(room_version=version))
        event = quote(stage.say(stage.a, stage.alice, room_id, "hello"), safe="")
        stage.net.settle()
        stage.ok(stage.b, stage.bob, "PUT", f"/rooms/{room}/typing/{BOB}", {"typing": True, "timeout": 5000})
        stage.ok(stage.b, stage.bob, "POST", f"/rooms/{room}/receipt/m.read/{event}", {})
        thread = {"thread_id": "main"}
        stage.ok(stage.b, stage.bob, "POST", f"/rooms/{room}/receipt/m.read/{event}", thread)
        stage.ok(stage.a, stage.alice, "PUT", f"/rooms/{room}/redact/{event}/r", {"reason": "oh"})
        stage.net.advance(30)
    status = {"presence": "unavailable", "status_msg": "busy"}
    stage.ok(stage.b, stage.bob, "PUT", f"/presence/{BOB}/status", status)
    stage.net.advance(60)
    told = {edu["edu_type"] for one in stage.net.sent("/send/") for edu in one.json.get("edus", ())}
    stage.assertLessEqual({"m.typing", "m.receipt", "m.presence"}, told)
    # And before it stops it says who is gone.
    stage.b.app.release_waiters()
    stage.net.settle()


def secrets(stage: StageCase) -> None:
    """Keys of devices and users, asked for and told, and messages to devices."""
    stage.share()
    device = KeyDevice(BOB, stage.ok(stage.b, stage.bob, "GET", "/account/whoami")["device_id"])
    keys = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("x")}
    stage.ok(stage.b, stage.bob, "POST", "/keys/upload", {**keys, "fallback_keys": device.fallback_key("f")})
    stage.net.advance(10)
    cross = CrossKeys(BOB)
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "bob"},
        "password": "correct horse",
    }
    stage.ok(stage.b, stage.bob, "POST", "/keys/device_signing/upload", {**cross.body(), "auth": auth})
    stage.net.advance(10)
    stage.ok(stage.a, stage.alice, "POST", "/keys/query", {"device_keys": {BOB: []}})
    claim = {"one_time_keys": {BOB: {device.device_id: "signed_curve25519"}}}
    for _ in range(3):
        stage.ok(stage.a, stage.alice, "POST", "/keys/claim", claim)
    messages = {"messages": {BOB: {device.device_id: {"a": 1}, "*": {"b": 2}}}}
    stage.ok(stage.a, stage.alice, "PUT", "/sendToDevice/m.dummy/t", messages)
    body = {"display_name": "new"}
    stage.ok(stage.b, stage.bob, "PUT", f"/devices/{device.device_id}", body)
    stage.net.advance(10)
    stage.ok(stage.b, stage.bob, "POST", "/logout", {})
    stage.net.advance(30)
    told = {edu["edu_type"] for one in stage.net.sent("/send/") for edu in one.json.get("edus", ())}
    stage.assertLessEqual({"m.device_list_update", "m.signing_key_update", "m.direct_to_device"}, told)
    # The other way round, at length.
    stage.told("GET", path("user", "devices", ALICE))
    stage.told("POST", path("user", "keys", "query"), {"device_keys": {ALICE: []}})
    stage.told(
        "POST", path("user", "keys", "claim"), {"one_time_keys": {ALICE: {"NONE": "signed_curve25519"}}}
    )
    stage.told("GET", path("user", "devices", f"@nobody:{A}"))
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path("user", "devices", f"@nobody:{C}")))
    for name in ("query", "claim"):
        stage.denied(400, "M_BAD_JSON", stage.ask("POST", path("user", "keys", name), {}))


def transactions(stage: StageCase) -> None:
    """Too much at once, what is no transaction, and events that are refused one by one."""
    body: dict[str, Any] = {"origin": "b.example", "origin_server_ts": 1, "pdus": [], "edus": []}
    pdu = {"room_id": f"!none:{A}", "type": "m.room.message"}
    stage.denied(413, "M_TOO_LARGE", stage.ask("PUT", path("send", "1"), {**body, "pdus": [pdu] * 51}))
    stage.denied(400, "M_BAD_JSON", stage.ask("PUT", path("send", "2"), {**body, "pdus": {}}))
    stage.told("PUT", path("send", "3"), {**body, "pdus": [pdu, {}]})


def gaps(stage: StageCase) -> None:
    """Events get lost and are found again; bob pages back to before he came."""
    for version in ("2", "11", "12"):
        room_id = stage.create(stage.a, stage.alice, preset="public_chat", room_version=version)
        for number in range(30):
            stage.say(stage.a, stage.alice, room_id, f"before {number}")
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id, A).status)
        moment = f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event"
        answer = stage.net.wait(stage.b.start("GET", moment, None, stage.bob, {"ts": 0, "dir": "f"}))
        stage.assertEqual(200, answer.status, answer.json)
        answer = stage.net.wait(stage.b.start("GET", moment, None, stage.bob, {"ts": 0, "dir": "b"}))
        stage.refused(answer, 404, "M_NOT_FOUND")
        page = f"/rooms/{quote(room_id)}/messages"
        stage.ok(stage.b, stage.bob, "GET", page, None, {"dir": "b", "limit": 100})

        def lose(origin: ServerName, request: PeerRequest) -> PeerResponse | None:
            return PeerResponse(200, b'{"pdus":{}}') if origin == A and "/send/" in request.uri else None

        stage.net.tamper(lose)
        for number in range(5):
            stage.say(stage.a, stage.alice, room_id, f"lost {number}")
        stage.net.settle()
        stage.net.untamper()
        stage.say(stage.a, stage.alice, room_id, "found")
        stage.net.advance(30)
        stage.assertTrue(stage.net.sent("/backfill/"))
        stage.assertTrue(stage.net.sent("/get_missing_events/"))


def what_was(stage: StageCase) -> None:
    """Single events, states, what authorises: in rooms of every event format."""
    for version in ("1", "3", "11", "12"):
        room_id = stage.share(room_version=version)
        event_id = stage.say(stage.a, stage.alice, room_id, "hello")
        event = f"?event_id={quote(event_id, safe='')}"
        for name in ("state", "state_ids"):
            stage.told("GET", path(name, room_id) + event)
            stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path(name, room_id) + "?event_id=%24none%3Ax"))
        stage.told("GET", path("event", event_id))
        stage.told("GET", path("event_auth", room_id, event_id))
        stage.told("GET", path("timestamp_to_event", room_id) + f"?ts={stage.net.now_ms}&dir=b")
        since = path("backfill", room_id) + f"?v={quote(event_id, safe='')}&limit="
        stage.told("GET", since + "10")
        missing = {"latest_events": [event_id], "earliest_events": [], "limit": 5, "min_depth": 0}
        stage.told("POST", path("get_missing_events", room_id), missing)
        stage.denied(
            404, "M_NOT_FOUND", stage.ask("GET", path("timestamp_to_event", room_id) + "?ts=0&dir=b")
        )
        hidden = stage.create(stage.a, stage.alice, room_version=version)
        secret = stage.say(stage.a, stage.alice, hidden, "secret")
        event = f"?event_id={quote(secret, safe='')}"
        stage.denied(403, "M_FORBIDDEN", stage.ask("GET", path("state_ids", hidden) + event))
        for refused in (
            stage.ask("GET", path("state", hidden) + event),
            stage.ask("GET", path("event_auth", hidden, secret)),
            stage.ask("GET", path("backfill", hidden) + f"?v={quote(secret, safe='')}&limit=1"),
            stage.ask("POST", path("get_missing_events", hidden), missing),
        ):
            stage.denied(403, "M_FORBIDDEN", refused)
        stage.assertIn(stage.ask("GET", path("event", secret))[0], (403, 404))


def unknown_authority(stage: StageCase) -> None:
    """eve cites an event that nobody has."""
    room_id = stage.share(room_version="11")
    place_event(stage.a, room_id, "m.room.member", {"membership": "join"}, EVE, EVE)
    state = stage.state(stage.a, stage.alice, room_id)
    keys = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", EVE))
    pdu = {
        "type": "m.room.message",
        "room_id": room_id,
        "sender": EVE,
        "content": {"body": "believe me", "msgtype": "m.text"},
        "origin_server_ts": stage.net.now_ms,
        "depth": 20,
        "prev_events": [state[keys[2]]],
        "auth_events": [*(state[key] for key in keys), "$" + "x" * 43],
    }
    pdu = hash_and_sign_event(pdu, ROOM_VERSIONS["11"], stage.eve.key)
    stage.eve.answers["GET", path("event_auth")] = lambda _: (200, {"auth_chain": []})
    body = {"origin": EVIL, "origin_server_ts": 1, "pdus": [pdu], "edus": []}
    stage.assertEqual(200, stage.eve.ask(A, "PUT", path("send", "1"), body)[0])
    stage.net.advance(10)


def a_member_of_many(stage: StageCase) -> None:
    """A join whose members come later, from a server whose own keys are had from another."""
    stage.patch(room_answers, "FEW_MEMBERS", 0)
    carol_server = stage.server(C, federation=Federation(trusted_key_servers=(B,)))
    carol = carol_server.register("carol")
    room_id = stage.share(room_version="11")
    stage.net.down(A)
    stage.assertEqual(200, stage.join(carol_server, carol, room_id, B).status)
    stage.net.advance(30)
    stage.assertTrue(stage.net.sent("/state/", origin=C))
    stage.net.up(A)


def policy_servers(stage: StageCase) -> None:
    """alice's server asks before it sends; what it is asked itself."""
    key = SigningKey.from_seed(ServerName(EVIL), "policy_server", b"\x07" * 32)
    room_id = stage.share(room_version="11")

    def sign(request: PeerRequest) -> tuple[int, Any]:
        assert request.body is not None
        signed = sign_event(msgspec.json.decode(request.body), ROOM_VERSIONS["11"], key)
        return 200, {EVIL: {"ed25519:policy_server": signed["signatures"][EVIL]["ed25519:policy_server"]}}

    stage.eve.answers["POST", "/_matrix/policy/v1/sign"] = sign
    place_event(stage.a, room_id, "m.room.member", {"membership": "join"}, EVE, EVE)
    content = {"via": EVIL, "public_keys": {"ed25519": unpadded(key.public_key)}}
    stage.ok(stage.a, stage.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.policy", content)
    stage.say(stage.a, stage.alice, room_id, "may I?")
    stage.assertEqual(1, len(stage.net.sent("/policy/v1/sign")))
    stage.denied(404, "M_UNRECOGNIZED", stage.ask("POST", "/_matrix/policy/v1/sign", {}))
