"""Scenes of coming and going: joins of each kind, invites, knocks, leaves, third-party invites."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation.hashes import compute_event_id, unpadded
from federation.ids import ServerName
from federation.signing import SigningKey, hash_and_sign_event, sign_json
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, PeerResponse
from tests.conformance.stage import ALICE, BOB, StageCase, path
from tests.federation.people import A, B

_NO_EVENT: dict[str, Any] = {"type": "m.room.member", "content": {"membership": "join"}}


_HANDSHAKES = ("join", "knock", "leave")


def _v2(name: str, room_id: str, event_id: str = "$event") -> str:
    return f"/_matrix/federation/v2/{name}/{quote(room_id, safe='')}/{quote(event_id, safe='')}"


def joins(stage: StageCase) -> None:
    """By alias, in every room version."""
    versions = "&".join(f"ver={version}" for version in ROOM_VERSIONS)
    for version in ROOM_VERSIONS:
        room_id = stage.create(
            stage.a, stage.alice, preset="public_chat", room_version=version, room_alias_name=f"v{version}"
        )
        stage.ok(stage.b, stage.bob, "POST", f"/join/{quote(f'#v{version}:{A}')}", {})
        stage.say(stage.b, stage.bob, room_id, "here")
        stage.net.settle()
        stage.assert_same_state(room_id, (stage.a, stage.alice), (stage.b, stage.bob))
        make = path("make_join", room_id, BOB)
        status, refused = stage.ask("GET", f"{make}?ver=none")
        stage.assertEqual((400, "M_INCOMPATIBLE_ROOM_VERSION", version), (status, *_version(refused)))
        stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", _v2("send_join", room_id), _NO_EVENT))
        # A whole join once more, in small steps.
        template = stage.told("GET", f"{make}?{versions}")["event"]
        stage.assertEqual("join", template["content"]["membership"])
        # Who has a name of before there were rules for names.
        for name in ("Bob Ü\u0007", "", "bob/%2F"):
            template = stage.told("GET", path("make_join", room_id, f"@{name}:{B}") + f"?{versions}")["event"]
            stage.assertEqual(f"@{name}:{B}", template["sender"])
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path("make_join", f"!none:{A}", BOB) + "?ver=11"))
    private = stage.create(stage.a, stage.alice)
    stage.denied(403, "M_FORBIDDEN", stage.ask("GET", path("make_join", private, BOB) + f"?{versions}"))
    stage.refused(stage.join(stage.b, stage.bob, private, A), 403, "M_FORBIDDEN")
    stage.refused(stage.join(stage.b, stage.bob, f"!none:{A}", A), 404, "M_NOT_FOUND")
    there = f"/rooms/{quote(private)}"
    dave = stage.a.register("dave")
    stage.refused(stage.call(stage.a, dave, "POST", f"{there}/join", {}), 403, "M_FORBIDDEN")
    stage.ok(stage.a, stage.alice, "POST", f"{there}/invite", {"user_id": f"@dave:{A}"})
    stage.ok(stage.a, dave, "POST", f"{there}/join", {})
    answer = stage.call(stage.b, stage.bob, "GET", f"{there}/messages", None, {"dir": "b"})
    stage.refused(answer, 403, "M_FORBIDDEN")


def _version(refused: Any) -> tuple[Any, Any]:
    return refused["errcode"], refused.get("room_version")


def restricted_joins(stage: StageCase) -> None:
    """Let in by a condition, refused without it, and not to be judged."""
    for version in ("8", "10", "12"):
        club = stage.share(room_version=version)
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        state = [{"type": "m.room.join_rules", "content": rules}]
        room_id = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id, A).status)
        stage.b.register(f"eve{version}")
        make = path("make_join", room_id, f"@eve{version}:{B}") + f"?ver={version}"
        stage.denied(403, "M_FORBIDDEN", stage.ask("GET", make))
        # Conditions that are none are not met.
        for allow in (
            [],
            None,
            "all",
            [1, {}, {"type": "m.room_membership"}, {"type": "x", "room_id": club}],
        ):
            none = {"join_rule": "restricted", "allow": allow}
            state = [{"type": "m.room.join_rules", "content": none}]
            other = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
            make = path("make_join", other, BOB) + f"?ver={version}"
            stage.denied(403, "M_FORBIDDEN", stage.ask("GET", make))
        unknown = {"type": "m.room_membership", "room_id": "!elsewhere:nowhere.example"}
        state = [{"type": "m.room.join_rules", "content": {**rules, "allow": [unknown]}}]
        other = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
        make = path("make_join", other, BOB) + f"?ver={version}"
        stage.denied(400, "M_UNABLE_TO_AUTHORISE_JOIN", stage.ask("GET", make))


def knock_restricted_joins(stage: StageCase) -> None:
    """Whoever meets no condition may knock; and a room that is not for other servers at all."""
    for version in ("10", "12"):
        club = stage.create(stage.a, stage.alice, preset="public_chat", room_version=version)
        allow = [{"type": "m.room_membership", "room_id": club}]
        rules = {"join_rule": "knock_restricted", "allow": allow}
        state = [{"type": "m.room.join_rules", "content": rules}]
        room_id = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
        stage.refused(stage.join(stage.b, stage.bob, room_id, A), 403, "M_FORBIDDEN")
        stage.ok(stage.b, stage.bob, "POST", f"/knock/{quote(room_id)}", {}, {"via": [A]})
        stage.assertEqual(200, stage.join(stage.b, stage.bob, club, A).status)
        stage.net.settle()
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id, A).status)
        stage.net.settle()
        stage.assert_same_state(room_id, (stage.a, stage.alice), (stage.b, stage.bob))
        content = {"m.federate": False}
        ours = stage.create(
            stage.a, stage.alice, preset="public_chat", room_version=version, creation_content=content
        )
        stage.refused(stage.join(stage.b, stage.bob, ours, A), 403, "M_FORBIDDEN")
        answer = stage.call(stage.a, stage.alice, "POST", f"/rooms/{quote(ours)}/invite", {"user_id": BOB})
        stage.refused(answer, 403, "M_FORBIDDEN")


def additional_creators(stage: StageCase) -> None:
    """bob is a creator of alice's room, with all that comes with it, once he is in."""
    content = {"additional_creators": [BOB]}
    room_id = stage.share(room_version="12", creation_content=content)
    levels = f"/rooms/{quote(room_id)}/state/m.room.power_levels"
    changed = {**stage.ok(stage.b, stage.bob, "GET", levels), "users": {f"@dave:{B}": 100}}
    stage.ok(stage.b, stage.bob, "PUT", levels, changed)
    stage.net.settle()
    stage.assertEqual(changed, stage.ok(stage.a, stage.alice, "GET", levels))
    stage.assert_same_state(room_id, (stage.a, stage.alice), (stage.b, stage.bob))


def invites(stage: StageCase) -> None:
    """Accepted and rejected, by both versions of the endpoint, and what is no invite."""
    for version in ("1", "6", "11", "12"):
        room_id = stage.create(stage.a, stage.alice, room_version=version, name="Room")
        stage.ok(stage.a, stage.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        stage.sync(stage.b, stage.bob)
        stage.ok(stage.b, stage.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        stage.ok(stage.a, stage.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id).status)
    body = {"room_version": "11", "event": _NO_EVENT, "invite_room_state": []}
    room_id = stage.create(stage.a, stage.alice)
    stage.denied(400, "M_BAD_JSON", stage.ask("PUT", _v2("invite", room_id), {}))
    stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", _v2("invite", room_id), body))
    stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", path("invite", room_id, "$event"), _NO_EVENT))
    unknown = {**body, "room_version": "none"}
    stage.denied(400, "M_INCOMPATIBLE_ROOM_VERSION", stage.ask("PUT", _v2("invite", room_id), unknown))
    config = f"/user/{BOB}/account_data/m.invite_permission_config"
    stage.ok(stage.b, stage.bob, "PUT", config, {"default_action": "block"})
    answer = stage.call(stage.a, stage.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
    stage.refused(answer, 403, "M_INVITE_BLOCKED")


def invites_of_old(stage: StageCase) -> None:
    """A server that has only the first version of the endpoint."""

    def forget(_: ServerName, request: PeerRequest) -> PeerResponse | None:
        unknown = b'{"errcode":"M_UNRECOGNIZED","error":"not here"}'
        return PeerResponse(404, unknown) if "/v2/invite/" in request.uri else None

    stage.net.tamper(forget)
    room_id = stage.create(stage.a, stage.alice, room_version="1")
    stage.ok(stage.a, stage.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
    stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id).status)


def knocks(stage: StageCase) -> None:
    """Let in, taken back, and where nobody can knock."""
    for version in ("7", "10", "12"):
        state = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        room_id = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
        knock = f"/knock/{quote(room_id)}"
        stage.ok(stage.b, stage.bob, "POST", knock, {"reason": "please"}, {"via": [A]})
        stage.sync(stage.b, stage.bob)
        stage.ok(stage.b, stage.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        stage.ok(stage.b, stage.bob, "POST", knock, {}, {"via": [A]})
        stage.ok(stage.a, stage.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id).status)
        event = path("send_knock", room_id, "$event")
        stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", event, _NO_EVENT))
        stage.denied(404, "M_NOT_FOUND", stage.ask("PUT", path("send_knock", f"!x:{A}", "$e"), _NO_EVENT))
        make = path("make_knock", room_id, BOB)
        stage.denied(400, "M_INCOMPATIBLE_ROOM_VERSION", stage.ask("GET", f"{make}?ver=1"))
    public = stage.create(stage.a, stage.alice, preset="public_chat", room_version="10")
    stage.denied(403, "M_FORBIDDEN", stage.ask("GET", path("make_knock", public, BOB) + "?ver=10"))
    stage.denied(404, "M_NOT_FOUND", stage.ask("GET", path("make_knock", f"!none:{A}", BOB) + "?ver=10"))
    answer = stage.call(stage.b, stage.bob, "POST", f"/knock/{quote(public)}", {}, {"via": [A]})
    stage.refused(answer, 403, "M_FORBIDDEN")


def access_lists(stage: StageCase) -> None:
    """A server that the room does not want gets nothing of it, by any of the endpoints that must be protected."""
    for version in ("10", "12"):
        room_id = stage.share(room_version=version)
        acl = {"allow": ["*"], "deny": [B.upper()]}
        event_id = stage.ok(
            stage.a, stage.alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.server_acl", acl
        )["event_id"]
        wanted = f"?event_id={quote(event_id, safe='')}"
        invite = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": BOB,
            "state_key": ALICE,
            "content": {"membership": "invite"},
            "origin_server_ts": 1,
            "depth": 9,
            "prev_events": [event_id],
            "auth_events": [],
        }
        rules = ROOM_VERSIONS[version]
        invite = hash_and_sign_event(invite, rules, stage.b.signing_keys[0])
        body: dict[str, Any] = {"room_version": version, "event": invite, "invite_room_state": []}
        missing = {"latest_events": [event_id], "earliest_events": []}
        for answer in (
            *(
                stage.ask("GET", path(f"make_{name}", room_id, BOB) + f"?ver={version}")
                for name in _HANDSHAKES
            ),
            stage.ask("PUT", _v2("send_join", room_id), _NO_EVENT),
            stage.ask("PUT", _v2("send_leave", room_id), _NO_EVENT),
            stage.ask("PUT", path("send_knock", room_id, "$event"), _NO_EVENT),
            stage.ask("PUT", _v2("invite", room_id, compute_event_id(invite, rules)), body),
            stage.ask("GET", path("state", room_id) + wanted),
            stage.ask("GET", path("state_ids", room_id) + wanted),
            stage.ask("GET", path("backfill", room_id) + f"?v={quote(event_id, safe='')}&limit=1"),
            stage.ask("GET", path("event_auth", room_id, event_id)),
            stage.ask("POST", path("get_missing_events", room_id), missing),
        ):
            stage.denied(403, "M_FORBIDDEN", answer)
        refused = stage.told(
            "PUT",
            path("send", f"acl{version}"),
            {"origin": B, "origin_server_ts": 1, "pdus": [invite], "edus": []},
        )
        stage.assertEqual([["error"]], [list(one) for one in refused["pdus"].values()])


def leaves(stage: StageCase) -> None:
    """What is no leave."""
    room_id = stage.create(stage.a, stage.alice, preset="public_chat")
    stage.denied(403, "M_FORBIDDEN", stage.ask("GET", path("make_leave", room_id, BOB)))
    stage.denied(403, "M_FORBIDDEN", stage.ask("GET", path("make_leave", room_id, ALICE)))
    stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", _v2("send_leave", room_id), _NO_EVENT))


def third_party_invites(stage: StageCase) -> None:
    """An address that turns out to be bob's; and both endpoints with what is none."""
    key = SigningKey.from_seed(ServerName("id.example"), "0", b"\x07" * 32)
    offer = {"display_name": "b...", "public_key": unpadded(key.public_key), "key_validity_url": ""}
    state = [{"type": "m.room.third_party_invite", "state_key": "token", "content": offer}]
    for version in ("6", "11", "12"):
        room_id = stage.create(stage.a, stage.alice, room_version=version, initial_state=state)
        signed = sign_json({"sender": ALICE, "mxid": BOB, "token": "token"}, key)
        invite = {
            "medium": "email",
            "address": "b@b.example",
            "mxid": BOB,
            "room_id": room_id,
            "sender": ALICE,
            "signed": signed,
        }
        body = {"medium": "email", "address": "b@b.example", "mxid": BOB, "invites": [invite]}
        answer = stage.open_call(stage.b, "PUT", path("3pid", "onbind"), body)
        stage.assertEqual(200, answer.status, answer.json)
        stage.net.settle()
        stage.assertIn(room_id, stage.sync(stage.b, stage.bob)["rooms"]["invite"])
        stage.assertEqual(200, stage.join(stage.b, stage.bob, room_id).status)
        exchange = path("exchange_third_party_invite", room_id)
        stage.denied(400, "M_INVALID_PARAM", stage.ask("PUT", exchange, {"type": "m.room.name"}))
    stage.refused(stage.open_call(stage.b, "PUT", path("3pid", "onbind"), {}), 400, "M_BAD_JSON")
