"""Invites, knocks and leaves across servers. spec: server-server-api#inviting-to-a-room"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from federation.event import parse_untrusted
from federation.hashes import compute_event_id
from federation.signing import hash_and_sign_event, sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.http.transport import PeerRequest, Unreachable
from homeserver.rooms.federated import outsiders
from tests.federation.people import VERSIONS, A, B, NetCase
from tests.support.databases import on_each_database

BOB = f"@bob:{B}"


@on_each_database
class RemoteInvite(NetCase):
    """alice of a invites bob of b."""

    def invite(self, room_id: str, user_id: str = BOB) -> Any:
        return self.call(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": user_id})

    def membership(self, room_id: str, user_id: str = BOB) -> str | None:
        """What alice's server says that somebody is."""
        answer = self.call(
            self.a, self.alice, "GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
        )
        found: str | None = (answer.json or {}).get("membership")
        return found

    def test_every_room_version(self) -> None:
        for version in VERSIONS:
            room_id = self.create(self.a, self.alice, name=f"Room {version}", room_version=version)
            since = self.sync(self.b, self.bob)["next_batch"]
            self.assertEqual(200, self.invite(room_id).status, version)
            self.assertEqual("invite", self.membership(room_id))
            told = self.sync(self.b, self.bob, since)["rooms"]
            events = {
                (one["type"], one["state_key"]): one
                for one in told["invite"][room_id]["invite_state"]["events"]
            }
            self.assertEqual(f"Room {version}", events["m.room.name", ""]["content"]["name"])
            self.assertIn(("m.room.create", ""), events)
            self.assertEqual("join", events["m.room.member", f"@alice:{A}"]["content"]["membership"])
            self.assertEqual("invite", events["m.room.member", BOB]["content"]["membership"])
            self.assertEqual({"content", "sender", "state_key", "type"}, set(events["m.room.create", ""]))
            whole = {"content", "event_id", "origin_server_ts", "sender", "state_key", "type"}
            self.assertEqual(whole, set(events["m.room.member", BOB]))
            self.assertEqual({"events": [events["m.room.member", BOB]]}, told["invite"][room_id]["state"])
            initial = self.sync(self.b, self.bob)["rooms"]
            self.assertEqual(told["invite"][room_id], initial["invite"][room_id])
            # Without a server named: the inviter's is known.
            self.assertEqual(200, self.join(self.b, self.bob, room_id).status, version)
            self.assertEqual("join", self.membership(room_id))
            after = self.sync(self.b, self.bob)["rooms"]
            self.assertNotIn(room_id, after.get("invite", {}))
            self.assertIn(room_id, after["join"])

    def test_a_restart_forgets_nothing(self) -> None:
        room_id = self.create(self.a, self.alice, name="Room")
        self.invite(room_id)
        before = self.sync(self.b, self.bob)["rooms"]["invite"]
        self.b.restart()
        self.assertEqual(before, self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_rejected(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.assertEqual("leave", self.membership(room_id))
        told = self.sync(self.b, self.bob, since)["rooms"]
        (event,) = told["leave"][room_id]["timeline"]["events"]
        self.assertEqual(("m.room.member", "leave"), (event["type"], event["content"]["membership"]))
        after = self.sync(self.b, self.bob, since, use_state_after="true")["rooms"]["leave"][room_id]
        self.assertEqual([event], after["state_after"]["events"])
        self.assertNotIn("rooms", self.sync(self.b, self.bob))
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/forget", {})
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})

    def test_rejected_while_the_other_server_is_away(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        self.net.down(A)
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        (event,) = self.sync(self.b, self.bob, since)["rooms"]["leave"][room_id]["timeline"]["events"]
        self.assertEqual((BOB, "leave"), (event["sender"], event["content"]["membership"]))
        self.net.up(A)
        self.assertEqual("invite", self.membership(room_id))
        # And again: the room was not let in by that.
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.assertEqual("join", self.membership(room_id))

    def test_who_waits_hears_of_it(self) -> None:
        since = self.sync(self.b, self.bob)["next_batch"]
        poll = self.b.start(
            "GET", "/_matrix/client/v3/sync", None, self.bob, {"since": since, "timeout": 30_000}
        )
        self.net.settle()
        self.assertFalse(poll.called)
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        self.net.settle()
        self.assertTrue(poll.called)
        self.assertIn(room_id, self.net.wait(poll).json["rooms"]["invite"])

    def test_left_rooms_are_told_to_who_wants_them(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        path = f"/rooms/{quote(room_id)}"
        self.ok(self.b, self.bob, "POST", path + "/leave", {})
        wanted = {"filter": '{"room":{"include_leave":true}}'}
        told = self.sync(self.b, self.bob, **wanted)["rooms"]["leave"][room_id]
        self.assertEqual("leave", told["timeline"]["events"][0]["content"]["membership"])
        for what in ("/state", "/members", "/messages?dir=b", "/joined_members"):
            self.refused(self.call(self.b, self.bob, "GET", path + what), 403, "M_FORBIDDEN")
        self.refused(
            self.call(
                self.b, self.bob, "PUT", path + "/send/m.room.message/1", {"msgtype": "m.text", "body": "x"}
            ),
            403,
            "M_FORBIDDEN",
        )
        self.ok(self.b, self.bob, "POST", path + "/forget", {})
        self.assertNotIn("rooms", self.sync(self.b, self.bob, **wanted))

    def test_taken_back(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        since = self.sync(self.b, self.bob)["next_batch"]
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/kick", {"user_id": BOB})
        self.net.settle()
        (event,) = self.sync(self.b, self.bob, since)["rooms"]["leave"][room_id]["timeline"]["events"]
        self.assertEqual((f"@alice:{A}", "leave"), (event["sender"], event["content"]["membership"]))
        self.refused(self.join(self.b, self.bob, room_id, A), 403, "M_FORBIDDEN")

    def test_no_other_server_takes_an_invite_back(self) -> None:
        room_id = self.create(self.a, self.alice, room_version="11")
        self.invite(room_id)
        stranger = self.net.stranger("evil.example")
        for fields in ({}, {"sender": f"@alice:{A}"}):
            leave = {
                "type": "m.room.member",
                "room_id": room_id,
                "sender": "@eve:evil.example",
                "state_key": BOB,
                "content": {"membership": "leave"},
                "origin_server_ts": 1,
                "depth": 5,
                "prev_events": [],
                "auth_events": [],
                **fields,
            }
            pdu = hash_and_sign_event(leave, ROOM_VERSIONS["11"], stranger.key)
            body = {"origin": "evil.example", "origin_server_ts": 1, "pdus": [pdu], "edus": []}
            status, json = stranger.ask(B, "PUT", f"/_matrix/federation/v1/send/{len(fields)}", body)
            self.assertEqual(200, status)
            self.assertTrue(all("error" in one for one in json["pdus"].values()))
        self.assertIn(room_id, self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_in_a_room_that_was_left(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()
        since = self.sync(self.b, self.bob)["next_batch"]
        self.assertEqual(200, self.invite(room_id).status)
        self.assertIn(room_id, self.sync(self.b, self.bob, since)["rooms"]["invite"])
        self.b.restart()
        self.assertIn(room_id, self.sync(self.b, self.bob, since)["rooms"]["invite"])
        self.assertEqual(200, self.join(self.b, self.bob, room_id).status)
        self.net.settle()
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))

    def test_of_a_member_and_of_nobody(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.refused(self.invite(room_id, f"@nobody:{B}"), 403, "M_FORBIDDEN")
        self.assertIsNone(self.membership(room_id, f"@nobody:{B}"))
        self.join(self.b, self.bob, room_id, A)
        self.refused(self.invite(room_id), 403, "M_FORBIDDEN")
        dave = self.b.register("dave")
        self.assertEqual(200, self.invite(room_id, f"@dave:{B}").status)
        self.net.settle()
        self.assertIn(room_id, self.sync(self.b, dave)["rooms"]["invite"])
        self.assertEqual(200, self.join(self.b, dave, room_id).status)

    def test_blocked(self) -> None:
        path = f"/user/{BOB}/account_data/m.invite_permission_config"
        self.ok(self.b, self.bob, "PUT", path, {"default_action": "block"})
        room_id = self.create(self.a, self.alice)
        self.refused(self.invite(room_id), 403, "M_INVITE_BLOCKED")
        self.assertIsNone(self.membership(room_id))
        self.assertNotIn("rooms", self.sync(self.b, self.bob))

    def test_filtered(self) -> None:
        # spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4155
        path = f"/user/{BOB}/account_data/org.matrix.msc4155.invite_permission_config"
        self.ok(self.b, self.bob, "PUT", path, {"blocked_servers": [A]})
        room_id = self.create(self.a, self.alice)
        self.refused(self.invite(room_id), 403, "M_INVITE_BLOCKED")
        self.assertIsNone(self.membership(room_id))
        # Who is ignored hears nothing of it, and neither does the invited user.
        self.ok(self.b, self.bob, "PUT", path, {"ignored_servers": ["a.*"]})
        since = self.sync(self.b, self.bob)["next_batch"]
        self.assertEqual(200, self.invite(room_id).status)
        self.assertEqual("invite", self.membership(room_id))
        self.assertNotIn("rooms", self.sync(self.b, self.bob, since))
        self.assertNotIn("rooms", self.sync(self.b, self.bob))
        self.ok(self.b, self.bob, "PUT", path, {"enabled": False, "ignored_servers": ["*"]})
        self.assertEqual([room_id], list(self.sync(self.b, self.bob)["rooms"]["invite"]))

    def test_to_a_room_that_is_not_for_others(self) -> None:
        room_id = self.create(self.a, self.alice, creation_content={"m.federate": False})
        self.refused(self.invite(room_id), 403, "M_FORBIDDEN")
        self.assertIsNone(self.membership(room_id))
        # With the room as it is made: who cannot be invited is left out, as always.
        room_id = self.create(self.a, self.alice, creation_content={"m.federate": False}, invite=[BOB])
        self.assertIsNone(self.membership(room_id))
        self.assertEqual([], self.net.sent("/invite/"))
        self.a.register("carol")
        self.assertEqual(200, self.invite(room_id, f"@carol:{A}").status)

    def test_the_origin_is_named(self) -> None:
        """Of invites, and of what others make of our templates."""
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        self.assertEqual(200, self.join(self.b, self.bob, room_id).status)
        (invite,) = self.net.sent("/v2/invite/")
        self.assertEqual(A, invite.json["event"]["origin"])
        (join,) = self.net.sent("/send_join/")
        self.assertEqual(B, join.json["origin"])

    def test_nobody_answers(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.net.down(B)
        self.refused(self.invite(room_id), 502, "M_UNKNOWN")
        self.assertIsNone(self.membership(room_id))

    def test_answers_that_are_none(self) -> None:
        room_id = self.create(self.a, self.alice, room_version="10")
        liar = self.net.stranger("d.example")
        path = "/_matrix/federation/v2/invite/"

        def answer(change: Any) -> None:
            def say(request: PeerRequest) -> tuple[int, Any]:
                assert request.body is not None
                event = msgspec.json.decode(request.body)["event"]
                return 200, change(event)

            liar.answers["PUT", path] = say

        def sign(event: dict[str, Any]) -> dict[str, Any]:
            return sign_event(event, ROOM_VERSIONS["10"], liar.key)

        for change in (
            lambda _: b"nonsense",
            lambda _: {},
            lambda _: {"event": 1},
            lambda event: {"event": event},
            lambda event: {"event": {**event, "signatures": {"d.example": {"ed25519:x": "AAAA"}}}},
            lambda event: {"event": sign({**event, "depth": 99})},
            lambda event: {"event": sign({**event, "content": {"membership": "join"}})},
        ):
            answer(change)
            self.refused(self.invite(room_id, "@eve:d.example"), 502, "M_UNKNOWN")
        self.assertIsNone(self.membership(room_id, "@eve:d.example"))
        # Nothing of the answer but the signature is taken.
        answer(lambda event: {"event": {**sign(event), "unsigned": {"age": 1}}})
        self.assertEqual(200, self.invite(room_id, "@eve:d.example").status)
        self.assertEqual("invite", self.membership(room_id, "@eve:d.example"))

    def test_the_first_version_of_the_endpoint(self) -> None:
        liar = self.net.stranger("d.example")

        def first(request: PeerRequest) -> tuple[int, Any]:
            assert request.body is not None
            event = msgspec.json.decode(request.body)
            self.assertIn("invite_room_state", event.pop("unsigned"))
            return 200, [200, {"event": sign_event(event, ROOM_VERSIONS["1"], liar.key)}]

        liar.answers["PUT", "/_matrix/federation/v1/invite/"] = first
        old, new = (self.create(self.a, self.alice, room_version=version) for version in ("2", "6"))
        self.assertEqual(200, self.invite(old, "@eve:d.example").status)
        self.assertEqual("invite", self.membership(old, "@eve:d.example"))
        self.assertEqual(403, self.invite(new, "@eve:d.example").status)

    def test_an_account_that_ends(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.invite(room_id)
        body = {
            "auth": {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": "bob"},
                "password": "correct horse",
            }
        }
        self.ok(self.b, self.bob, "POST", "/account/deactivate", body)
        self.net.settle()
        self.assertEqual("leave", self.membership(room_id))


@on_each_database
class ServedInvites(NetCase):
    """What b says to a stranger who invites bob."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = self.net.stranger("evil.example")

    def build(self, version: str = "11", **changes: Any) -> tuple[dict[str, Any], str, list[Any]]:
        """An invite, its id, and the state that goes with it."""
        rules = ROOM_VERSIONS[version]
        sender = "@eve:evil.example"
        common = {"sender": sender, "origin_server_ts": 1, "prev_events": [], "auth_events": [], "depth": 1}
        content = {"room_version": version, "creator": sender}
        create = {"type": "m.room.create", "state_key": "", "content": content, **common}
        if not rules.room_id_is_create_hash:
            create["room_id"] = "!room:evil.example"
        if not rules.event_ids_are_hashes:
            create["event_id"] = "$create:evil.example"
        create = hash_and_sign_event(create, rules, self.eve.key)
        created = parse_untrusted(create, rules)
        event: dict[str, Any] = {
            "type": "m.room.member",
            "room_id": created.room_id,
            "state_key": BOB,
            "content": {"membership": "invite"},
            **common,
            **changes,
        }
        if not rules.event_ids_are_hashes:
            event["event_id"] = "$invite:evil.example"
        event = hash_and_sign_event(event, rules, self.eve.key)
        return event, compute_event_id(event, rules), [create]

    def send(
        self,
        event: dict[str, Any],
        event_id: str,
        state: Any,
        version: str = "11",
        room_id: str | None = None,
    ) -> tuple[int, Any]:
        """Ask b."""
        path = (
            f"/_matrix/federation/v2/invite/{quote(room_id or event['room_id'])}/{quote(event_id, safe='')}"
        )
        body = {"event": event, "invite_room_state": state, "room_version": version}
        return self.eve.ask(B, "PUT", path, body)

    def test_taken_and_signed(self) -> None:
        for version in VERSIONS:
            event, event_id, state = self.build(version)
            status, json = self.send(event, event_id, state, version)
            self.assertEqual(200, status, (version, json))
            signed = json["event"]
            self.assertEqual({"evil.example", B}, set(signed["signatures"]))
            self.assertEqual(event_id, compute_event_id(signed, ROOM_VERSIONS[version]))
            self.assertIn(event["room_id"], self.sync(self.b, self.bob)["rooms"]["invite"])

    def test_refused(self) -> None:
        event, event_id, state = self.build()
        wrong: list[tuple[str, Any]] = [
            ("another id in the path", lambda: self.send(event, "$" + "x" * 43, state)),
            (
                "another room in the path",
                lambda: self.send(event, event_id, state, room_id="!other:evil.example"),
            ),
            ("unsigned", lambda: self.send({**event, "signatures": {}}, event_id, state)),
            (
                "changed",
                lambda: self.send({**event, "content": {"membership": "invite", "x": 1}}, event_id, state),
            ),
            ("no event", lambda: self.send({"room_id": "!a:b"}, event_id, state)),
        ]
        kinds: tuple[dict[str, Any], ...] = (
            {"type": "m.room.message"},
            {"content": {"membership": "join"}},
            {"content": {}},
            {"sender": f"@alice:{A}"},
            {"state_key": f"@alice:{A}"},
            {"state_key": "bob"},
        )
        for changes in kinds:
            other, other_id, _ = self.build(**changes)
            wrong.append((str(changes), partial(self.send, other, other_id, state)))
        for what, send in wrong:
            status, json = send()
            self.assertEqual((400, "M_INVALID_PARAM"), (status, json["errcode"]), what)
        other, other_id, _ = self.build(state_key=f"@nobody:{B}")
        self.assertEqual("M_FORBIDDEN", self.send(other, other_id, state)[1]["errcode"])
        status, json = self.send(event, event_id, state, "unheard of")
        self.assertEqual(
            (400, "M_INCOMPATIBLE_ROOM_VERSION", "unheard of"),
            (status, json["errcode"], json["room_version"]),
        )
        self.assertNotIn("rooms", self.sync(self.b, self.bob))

    def test_a_flood(self) -> None:
        self.patch(outsiders, "INVITES_MOST", 3)
        statuses = []
        for number in range(5):
            event, event_id, state = self.build("12", origin_server_ts=number)
            statuses.append(self.send(event, event_id, state, "12")[0])
        self.assertEqual([200] * 5, statuses)  # five times into one room
        statuses = []
        for number in range(5):
            room_id = f"!room{number}:evil.example"
            event, event_id, state = self.build("6", room_id=room_id)
            statuses.append(self.send(event, event_id, [], "6")[0])
        self.assertEqual([200, 200, 429, 429, 429], statuses)

    def test_bodies_that_are_none(self) -> None:
        path = f"/_matrix/federation/v2/invite/{quote('!a:b')}/{quote('$' + 'x' * 43)}"
        for body in (
            b"[]",
            b"{}",
            b'{"event":1,"room_version":"11"}',
            b'{"event":{},"room_version":11}',
        ):
            self.assertEqual(400, self.eve.ask(B, "PUT", path, body)[0], body)

    def test_the_create_event_of_new_versions(self) -> None:
        event, event_id, state = self.build("12")
        stripped = [{key: state[0][key] for key in ("content", "sender", "state_key", "type")}]
        false = [{**state[0], "depth": 7}]
        for bad in ([{**state[0], "signatures": {}}], false, [*stripped, *false]):
            status, json = self.send(event, event_id, bad, "12")
            self.assertEqual((400, "M_INVALID_PARAM"), (status, json.get("errcode")), bad)
        # Dendrite, and Synapse until July 2026, send no whole one.
        for unproved, kinds in ((None, 0), ([], 0), ("x", 0), (stripped, 1), ([*stripped, *stripped], 1)):
            self.assertEqual(200, self.send(event, event_id, unproved, "12")[0], unproved)
            told = self.sync(self.b, self.bob)["rooms"]["invite"][event["room_id"]]["invite_state"]["events"]
            self.assertEqual(kinds, [one["type"] for one in told].count("m.room.create"), unproved)
        self.assertEqual(200, self.send(event, event_id, [*stripped, *state, *false], "12")[0])
        told = self.sync(self.b, self.bob)["rooms"]["invite"][event["room_id"]]["invite_state"]["events"]
        self.assertEqual(["m.room.create", "m.room.member"], [one["type"] for one in told])
        old, old_id, _ = self.build("11")
        self.assertEqual(200, self.send(old, old_id, None, "11")[0])

    def test_state_of_every_kind_and_size(self) -> None:
        event, event_id, state = self.build("11")
        name = {
            "type": "m.room.name",
            "state_key": "",
            "sender": "@eve:evil.example",
            "content": {"name": "a\0b"},
        }
        more: list[Any] = [
            name,
            1,
            None,
            {"type": 1},
            {**name, "content": []},
            {**name, "state_key": "x" * 300},
        ]
        more += [{**name, "content": {"name": "x" * 5_000}}] * 45
        self.assertEqual(200, self.send(event, event_id, [*state, *more], "11")[0])
        room = self.sync(self.b, self.bob)["rooms"]["invite"][event["room_id"]]
        events = room["invite_state"]["events"]
        self.assertEqual(["m.room.create", "m.room.name"], [one["type"] for one in events[:2]])
        self.assertEqual("a\0b", events[1]["content"]["name"])
        self.assertEqual(("m.room.member", BOB), (events[-1]["type"], events[-1]["state_key"]))
        self.assertLess(len(events), 60)


@on_each_database
class RemoteKnock(NetCase):
    """bob of b knocks on alice's rooms on a."""

    def knock(self, room_id: str, *via: str) -> Any:
        return self.call(
            self.b, self.bob, "POST", f"/knock/{quote(room_id)}", {"reason": "please"}, {"via": list(via)}
        )

    def make(self, version: str, join_rule: str = "knock") -> str:
        state = [{"type": "m.room.join_rules", "content": {"join_rule": join_rule}}]
        return self.create(self.a, self.alice, initial_state=state, name="Closed", room_version=version)

    def member(self, room_id: str) -> Any:
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        return self.call(self.a, self.alice, "GET", path).json

    def test_every_version_that_has_it(self) -> None:
        for version in ("7", "8", "9", "10", "11", "12"):
            room_id = self.make(version)
            since = self.sync(self.b, self.bob)["next_batch"]
            self.assertEqual(200, self.knock(room_id, A).status, version)
            self.assertEqual(
                {"membership": "knock", "displayname": "bob", "reason": "please"}, self.member(room_id)
            )
            told = self.sync(self.b, self.bob, since)["rooms"]["knock"][room_id]["knock_state"]["events"]
            found = {(one["type"], one["state_key"]): one["content"] for one in told}
            self.assertEqual("Closed", found["m.room.name", ""]["name"])
            self.assertEqual("knock", found["m.room.member", BOB]["membership"])
            self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": BOB})
            rooms = self.sync(self.b, self.bob)["rooms"]
            self.assertNotIn(room_id, rooms.get("knock", {}))
            self.assertIn(room_id, rooms["invite"])
            self.assertEqual(200, self.join(self.b, self.bob, room_id).status)

    def test_taken_back_and_refused(self) -> None:
        room_id = self.make("11")
        for path, server, token, body in (
            ("leave", self.b, self.bob, {}),
            ("kick", self.a, self.alice, {"user_id": BOB}),
        ):
            self.knock(room_id, A)
            since = self.sync(self.b, self.bob)["next_batch"]
            self.ok(server, token, "POST", f"/rooms/{quote(room_id)}/{path}", body)
            self.net.settle()
            self.assertEqual("leave", self.member(room_id)["membership"])
            self.assertIn(room_id, self.sync(self.b, self.bob, since)["rooms"]["leave"])

    def test_a_refusal_that_comes_after_the_next_knock(self) -> None:
        """The knock stands on it, so it ends nothing."""
        room_id = self.make("11")
        self.knock(room_id, A)
        self.net.settle()
        self.net.tamper(lambda sender, _: Unreachable("cut") if sender == A else None)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/kick", {"user_id": BOB})
        self.net.settle()
        self.assertEqual(200, self.knock(room_id, A).status)
        self.net.untamper()
        self.net.advance(120)
        self.assertEqual("knock", self.member(room_id)["membership"])
        rooms = self.sync(self.b, self.bob)["rooms"]
        self.assertEqual([room_id], list(rooms["knock"]))

    def test_not_allowed(self) -> None:
        for room_id in (self.make("11", "invite"), self.make("11", "public"), self.make("6", "invite")):
            answer = self.knock(room_id, A)
            self.refused(answer, 403, "M_FORBIDDEN")
            self.assertNotIn("rooms", self.sync(self.b, self.bob))

    def test_servers_that_know_of_no_knocking(self) -> None:
        """As those do that are older than it. The next one is asked; where there is none, the user may not knock."""
        old = ["d.example", "e.example", "f.example"]
        for name, status in zip(old, (404, 400, 405), strict=True):
            told = (status, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"})
            self.net.stranger(name).answers["GET", "/_matrix/federation/v1/make_knock/"] = partial(_say, told)
        room_id = self.make("11")
        self.assertEqual(200, self.knock(room_id, *old, A).status)
        for names in (old, old[:1], old[1:2], old[2:], [*old, "nowhere.example"]):
            answer = self.knock("!room:nowhere.example", *names)
            self.refused(answer, 403, "M_FORBIDDEN")
            self.assertIn("knock", answer.json["error"])
        # Who knows the room says more.
        self.assertIn("join rule", self.knock(self.make("11", "invite"), *old, A).json["error"])
        self.refused(self.knock("!room:nowhere.example"), 502, "M_UNKNOWN")
        self.refused(self.knock("!room:nowhere.example", A), 404, "M_NOT_FOUND")

    def test_a_room_of_a_version_that_this_server_does_not_have(self) -> None:
        told = {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "org.example.99"}
        self.net.stranger("d.example").answers["GET", "/_matrix/federation/"] = lambda _: (400, told)
        answer = self.knock("!room:d.example")
        self.refused(answer, 400, "M_INCOMPATIBLE_ROOM_VERSION")
        self.assertEqual("org.example.99", answer.json["room_version"])


def _say(told: tuple[int, Any], _: PeerRequest) -> tuple[int, Any]:
    return told
