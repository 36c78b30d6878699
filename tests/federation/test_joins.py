"""Joins across servers. spec: server-server-api#joining-rooms"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from federation.event import parse_untrusted
from federation.hashes import compute_event_id
from federation.signing import hash_and_sign_event
from federation.versions import ROOM_VERSIONS
from homeserver.config.schema import Federation
from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.transport import PeerRequest, PeerResponse
from homeserver.rooms.federated import join_answers, remote_joins
from homeserver.store import room_answers
from tests.federation.people import V3, VERSIONS, A, B, C, NetCase
from tests.support.databases import on_each_database
from tests.support.keys import KeyDevice

ALICE, BOB, CAROL = f"@alice:{A}", f"@bob:{B}", f"@carol:{C}"


class JoinCase(NetCase):
    """A third server with carol, who is in nothing yet."""

    def setUp(self) -> None:
        super().setUp()
        # Keys of a server that is away are had from b.
        self.c = self.server(C, federation=Federation(trusted_key_servers=(B,)))
        self.carol = self.c.register("carol")

    def nothing_is_left(self, room_id: str) -> None:
        """carol's server knows of no such room, and says so to everybody."""
        self.assertNotIn("rooms", self.sync(self.c, self.carol))
        path = f"/rooms/{quote(room_id)}"
        self.refused(self.call(self.c, self.carol, "GET", path + "/state"), 403, "M_FORBIDDEN")
        self.refused(
            self.call(self.c, self.carol, "GET", path + "/messages", None, {"dir": "b"}), 403, "M_FORBIDDEN"
        )
        self.assertEqual([], self.ok(self.c, self.carol, "GET", "/joined_rooms")["joined_rooms"])


@on_each_database
class RemoteJoin(JoinCase):
    """Everybody is honest."""

    def test_every_room_version(self) -> None:
        for version in VERSIONS:
            room_id = self.create(self.a, self.alice, preset="public_chat", name="Room", room_version=version)
            self.say(self.a, self.alice, room_id, "before")
            self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status, version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))
            self.say(self.b, self.bob, room_id, "after")
            self.net.settle()
            for server, token in ((self.a, self.alice), (self.b, self.bob)):
                joined = self.sync(server, token)["rooms"]["join"][room_id]
                self.assertEqual("after", joined["timeline"]["events"][-1]["content"]["body"], version)
                self.assertEqual(2, joined["summary"]["m.joined_member_count"])

    def test_by_alias(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_alias_name="pub")
        answer = self.call(self.b, self.bob, "POST", f"/join/{quote('#pub:' + A)}", {"reason": "why not"})
        self.assertEqual((200, {"room_id": room_id}), (answer.status, answer.json))
        self.net.settle()
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        content = self.ok(self.a, self.alice, "GET", path)
        self.assertEqual({"membership": "join", "displayname": "bob", "reason": "why not"}, content)

    def test_the_others_hear_of_it(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        self.join(self.c, self.carol, room_id, A)
        self.net.settle()
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.c, self.carol))
        # Of the join the server tells that let them in, and nobody else.
        told = [
            (one.origin, one.request.destination) for one in self.net.sent("/v1/send/") if one.json["pdus"]
        ]
        self.assertEqual([(A, B)], told)

    def test_twice_and_two_at_once(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        dave = self.b.register("dave")
        path = f"/_matrix/client/v3/join/{quote(room_id)}"
        calls = [self.b.start("POST", path, {}, token, {"via": [A]}) for token in (self.bob, dave, self.bob)]
        self.assertEqual([200] * 3, [self.net.wait(call).status for call in calls])
        self.net.settle()
        self.assertEqual(1, len(self.net.sent("send_join")))
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob), (self.b, dave))
        self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status)
        self.assertEqual(1, len(self.net.sent("send_join")))

    def test_after_a_restart_it_is_all_there(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        before = self.state(self.b, self.bob, room_id)
        self.b.restart()
        self.assertEqual(before, self.state(self.b, self.bob, room_id))
        self.say(self.b, self.bob, room_id, "still here")
        self.net.settle()
        events = self.sync(self.a, self.alice)["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual("still here", events[-1]["content"]["body"])

    def test_left_and_rejoined(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
        self.net.settle()
        name = f"/rooms/{quote(room_id)}/state/m.room.name"
        self.ok(self.a, self.alice, "PUT", name, {"name": "What bob missed"})
        self.net.settle()
        since = self.sync(self.b, self.bob)["next_batch"]
        # No server named: those that were in it are known.
        self.assertEqual(200, self.join(self.b, self.bob, room_id).status)
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))
        told = self.sync(self.b, self.bob, since)["rooms"]["join"][room_id]
        events = [*told["state"]["events"], *told["timeline"]["events"]]
        names = [event["content"]["name"] for event in events if event["type"] == "m.room.name"]
        self.assertEqual(["What bob missed"], names)
        self.say(self.b, self.bob, room_id, "back")
        self.say(self.a, self.alice, room_id, "welcome")
        self.net.settle()
        for server, token in ((self.a, self.alice), (self.b, self.bob)):
            timeline = self.sync(server, token)["rooms"]["join"][room_id]["timeline"]["events"]
            self.assertEqual(["back", "welcome"], [one["content"].get("body") for one in timeline[-2:]])

    def test_left_and_rejoined_at_once(self) -> None:
        """While a leave is on its way to the disk, a join is made here on top of it: then nobody else can tell of it."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        self.net.settle()
        path = f"{V3}/rooms/{quote(room_id)}"
        leaving = self.b.start("POST", f"{path}/leave", {}, self.bob)
        joining = self.b.start("POST", f"{V3}/join/{quote(room_id)}", {}, self.bob, {"via": [A]})
        self.assertEqual([200, 200], [self.net.wait(leaving).status, self.net.wait(joining).status])
        self.net.settle()
        member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
        self.assertEqual("join", self.ok(self.a, self.alice, "GET", member)["membership"])
        self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))
        self.say(self.a, self.alice, room_id, "welcome")
        self.net.settle()
        events = self.sync(self.b, self.bob)["rooms"]["join"][room_id]["timeline"]["events"]
        self.assertEqual("welcome", events[-1]["content"].get("body"))

    def test_devices_and_what_sticks_where_one_left_and_rejoined_at_once(self) -> None:
        """Whoever left is followed no more: both servers say again, once, what the other let go of."""
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, room_id, A)
        device_id = self.ok(self.b, self.bob, "GET", "/account/whoami")["device_id"]
        keys = KeyDevice(BOB, device_id).keys()
        self.ok(self.b, self.bob, "POST", "/keys/upload", {"device_keys": keys})
        sent = f"/rooms/{quote(room_id)}/send/m.rtc.member/x"
        sticky = {"org.matrix.msc4354.sticky_duration_ms": "3600000"}
        self.ok(self.a, self.alice, "PUT", sent, {"msgtype": "m.text", "body": "stuck"}, sticky)
        self.net.settle()
        before = len(self.net.sent("/v1/send/"))
        path = f"{V3}/rooms/{quote(room_id)}"
        leaving = self.b.start("POST", f"{path}/leave", {}, self.bob)
        joining = self.b.start("POST", f"{V3}/join/{quote(room_id)}", {}, self.bob, {"via": [A]})
        self.assertEqual([200, 200], [self.net.wait(leaving).status, self.net.wait(joining).status])
        self.net.settle()
        told = [(one.origin, one.json) for one in self.net.sent("/v1/send/")[before:]]
        devices = [
            edu["content"]["device_id"]
            for origin, body in told
            for edu in body.get("edus", ())
            if origin == B and edu["edu_type"] == "m.device_list_update"
        ]
        self.assertEqual([device_id], devices)
        again = [pdu for origin, body in told for pdu in body["pdus"] if origin == A]
        self.assertEqual(["stuck"], [pdu["content"].get("body") for pdu in again])


@on_each_database
class Restricted(JoinCase):
    """Rooms that let members of other rooms in."""

    def setUp(self) -> None:
        super().setUp()
        self.club = self.create(self.a, self.alice, preset="public_chat")
        self.join(self.b, self.bob, self.club, A)
        self.room = self.make("11")

    def make(self, version: str, **fields: Any) -> str:
        """A room of alice's for the members of the club."""
        allow = [{"type": "m.room_membership", "room_id": self.club}]
        rules = {"join_rule": "restricted", "allow": allow}
        state = [{"type": "m.room.join_rules", "content": rules}]
        return self.create(self.a, self.alice, initial_state=state, room_version=version, **fields)

    def test_a_member_of_the_club(self) -> None:
        for version in ("8", "9", "10", "11", "12"):
            room_id = self.make(version)
            self.assertEqual(200, self.join(self.b, self.bob, room_id, A).status, version)
            path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(BOB)}"
            content = self.ok(self.b, self.bob, "GET", path)
            self.assertEqual(ALICE, content["join_authorised_via_users_server"])
            self.assert_same_state(room_id, (self.a, self.alice), (self.b, self.bob))

    def test_nobody_else(self) -> None:
        self.refused(self.join(self.c, self.carol, self.room, A), 403, "M_FORBIDDEN")
        self.nothing_is_left(self.room)

    def test_through_another_server_when_nobody_here_may(self) -> None:
        self.join(self.b, self.bob, self.room, A)
        levels = f"/rooms/{quote(self.room)}/state/m.room.power_levels"
        found = self.ok(self.a, self.alice, "GET", levels)
        self.ok(self.a, self.alice, "PUT", levels, {**found, "invite": 50})
        self.net.settle()
        dave = self.b.register("dave")
        self.ok(self.b, dave, "POST", f"/join/{quote(self.club)}", {})
        self.net.settle()
        self.assertEqual(200, self.join(self.b, dave, self.room).status)
        self.net.settle()
        self.assert_same_state(self.room, (self.a, self.alice), (self.b, self.bob), (self.b, dave))

    def test_a_server_that_cannot_tell_or_may_not_grant(self) -> None:
        """What b says to c, which asks it for a join of its carol."""
        self.join(self.b, self.bob, self.room, A)
        path = f"/_matrix/federation/v1/make_join/{quote(self.room)}/"
        evil = self.net.stranger("d.example")
        uri = path + quote("@eve:d.example") + "?ver=11"
        self.assertEqual("M_FORBIDDEN", evil.ask(B, "GET", uri)[1]["errcode"])
        self.ok(self.b, self.bob, "POST", f"/rooms/{quote(self.club)}/leave", {})
        self.net.settle()
        status, json = evil.ask(B, "GET", uri)
        self.assertEqual((400, "M_UNABLE_TO_AUTHORISE_JOIN"), (status, json["errcode"]))
        self.join(self.c, self.carol, self.club, A)
        self.assertEqual(200, self.join(self.c, self.carol, self.room, B, A).status)


@on_each_database
class Refusals(JoinCase):
    """Joins that do not come about leave nothing behind."""

    def test_no_invite(self) -> None:
        room_id = self.create(self.a, self.alice)
        self.refused(self.join(self.c, self.carol, room_id, A), 403, "M_FORBIDDEN")
        self.nothing_is_left(room_id)

    def test_banned(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": CAROL})
        self.refused(self.join(self.c, self.carol, room_id, A), 403, "M_FORBIDDEN")
        self.nothing_is_left(room_id)

    def test_servers_that_are_not_wanted(self) -> None:
        acl = {"allow": ["*"], "deny": [C]}
        state = [{"type": "m.room.server_acl", "content": acl}]
        room_id = self.create(self.a, self.alice, preset="public_chat", initial_state=state)
        self.refused(self.join(self.c, self.carol, room_id, A), 403, "M_FORBIDDEN")
        self.nothing_is_left(room_id)

    def test_unfederated(self) -> None:
        content = {"m.federate": False}
        room_id = self.create(self.a, self.alice, preset="public_chat", creation_content=content)
        self.refused(self.join(self.c, self.carol, room_id, A), 403, "M_FORBIDDEN")
        self.nothing_is_left(room_id)

    def test_no_such_room(self) -> None:
        self.refused(self.join(self.c, self.carol, f"!nothing:{A}", B), 404, "M_NOT_FOUND")
        self.nothing_is_left(f"!nothing:{A}")

    def test_nobody_answers(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")
        self.net.down(A, B)
        self.refused(self.join(self.c, self.carol, room_id, A, B), 502, "M_UNKNOWN")
        self.nothing_is_left(room_id)

    def test_a_version_that_the_other_server_has_not(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        eve = self.net.stranger("d.example")
        uri = f"/_matrix/federation/v1/make_join/{quote(room_id)}/{quote('@eve:d.example')}"
        for query in ("", "?ver=1", "?ver=9&ver=x"):
            status, json = eve.ask(A, "GET", uri + query)
            self.assertEqual((400, "M_INCOMPATIBLE_ROOM_VERSION"), (status, json["errcode"]))
            self.assertEqual("11", json["room_version"])
        self.assertEqual(200, eve.ask(A, "GET", uri + "?ver=11")[0])
        self.assertEqual(
            403, eve.ask(A, "GET", uri.replace("eve", "carol").replace("d.ex", "c.ex") + "?ver=11")[0]
        )


@on_each_database
class Residents(JoinCase):
    """Several servers are in the room: some are away, some lie."""

    def setUp(self) -> None:
        super().setUp()
        self.room = self.create(self.a, self.alice, preset="public_chat", room_version="10")
        self.join(self.b, self.bob, self.room, A)
        self.net.settle()

    def lie(self, change: Any) -> None:
        """What a answers to send_join is changed on its way."""

        def tamper(_: Any, request: PeerRequest, response: PeerResponse) -> PeerResponse | None:
            if request.destination == A and "send_join" in request.uri:
                body = change(msgspec.json.decode(response.body))
                return PeerResponse(200, body if isinstance(body, bytes) else msgspec.json.encode(body))
            return None

        self.net.tamper_answers(tamper)

    def test_the_first_is_away(self) -> None:
        self.net.down(A)
        self.assertEqual(200, self.join(self.c, self.carol, self.room, "nowhere.example", A, B).status)
        self.assert_same_state(self.room, (self.b, self.bob), (self.c, self.carol))

    def test_the_first_knows_nothing(self) -> None:
        self.net.stranger("d.example")
        self.assertEqual(200, self.join(self.c, self.carol, self.room, "d.example", B).status)

    def test_one_refusal_is_not_believed(self) -> None:
        liar = self.net.stranger("d.example")
        liar.answers["GET", "/_matrix/federation/v1/make_join/"] = lambda _: (
            403,
            {"errcode": "M_FORBIDDEN", "error": "no"},
        )
        self.assertEqual(200, self.join(self.c, self.carol, self.room, "d.example", A).status)

    def test_two_refusals_are(self) -> None:
        for name in ("d.example", "e.example"):
            self.net.stranger(name).answers["GET", "/_matrix/federation/v1/make_join/"] = lambda _: (
                403,
                {"errcode": "M_FORBIDDEN", "error": "no"},
            )
        answer = self.join(self.c, self.carol, self.room, "d.example", "e.example", A)
        self.refused(answer, 403, "M_FORBIDDEN")
        self.assertEqual([], self.net.sent("make_join", origin=C, destination=A))

    def test_garbage(self) -> None:
        """Of each lie the client is told, where nobody else is asked; and the honest server makes up for it."""
        lies: list[Any] = [
            lambda _: b"",
            lambda _: b"nonsense",
            lambda _: b"[]",
            lambda _: b"{}",
            lambda _: b'{"state":[' + b"[" * 50_000,
            lambda _: {"state": {}, "auth_chain": []},
            lambda _: {"state": [], "auth_chain": []},
            lambda _: {"state": [1, None, "x", {}, []], "auth_chain": [{"a": {}}]},
            lambda body: {
                **body,
                "state": [one for one in body["state"] if one["type"] != "m.room.create"],
                "auth_chain": [],
            },
            lambda body: {**body, "state": [{**one, "room_id": "!other:a.example"} for one in body["state"]]},
            lambda body: {
                **body,
                "state": [{**one, "signatures": {}} for one in body["state"]],
                "auth_chain": [],
            },
        ]
        for number, lie in enumerate(lies):
            self.lie(lie)
            self.assertIn(self.join(self.c, self.carol, self.room, A).status, (502, 403), number)
            self.net.untamper()
        self.lie(lies[1])
        self.assertEqual(200, self.join(self.c, self.carol, self.room, A, B).status)
        self.assert_same_state(self.room, (self.b, self.bob), (self.c, self.carol))

    def test_what_is_told_twice_is_no_lie(self) -> None:
        self.lie(lambda body: {**body, "state": [*body["state"], *body["state"]][1:]})
        self.assertEqual(200, self.join(self.c, self.carol, self.room, A).status)
        self.assert_same_state(self.room, (self.b, self.bob), (self.c, self.carol))

    def test_the_order_does_not_matter(self) -> None:
        for version in ("2", "9", "12"):
            room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version)
            self.lie(
                lambda body: {"state": body["state"][::-1], "auth_chain": body["auth_chain"][::-1], "x": 1}
            )
            self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status, version)
            self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))

    def test_templates_that_are_for_something_else(self) -> None:
        honest = self.net.wait(
            self.a.start("GET", f"/_matrix/client/v3/rooms/{quote(self.room)}/state", None, self.alice)
        ).json
        event = {
            "room_id": self.room,
            "type": "m.room.member",
            "sender": CAROL,
            "state_key": CAROL,
            "content": {"membership": "join"},
            "prev_events": [honest[0]["event_id"]],
            "auth_events": [honest[0]["event_id"]],
            "depth": 5,
        }
        liar = self.net.stranger("d.example")
        lies: list[Any] = [
            {},
            {"event": []},
            {"event": event},  # no version: one of the first two, whose references have another form
            {"event": event, "room_version": "7777"},
            {"event": event, "room_version": 10},
            {"event": {**event, "type": "m.room.power_levels"}, "room_version": "10"},
            {"event": {**event, "room_id": "!a:b"}, "room_version": "10"},
            {"event": {**event, "sender": ALICE}, "room_version": "10"},
            {"event": {**event, "state_key": BOB}, "room_version": "10"},
            {"event": {**event, "content": {"membership": "leave"}}, "room_version": "10"},
            {"event": {**event, "content": []}, "room_version": "10"},
            {"event": {**event, "prev_events": []}, "room_version": "10"},
            {"event": {**event, "prev_events": ["x"] * 3}, "room_version": "10"},
            {"event": {**event, "prev_events": ["$x"] * 100_000}, "room_version": "10"},
            {"event": {**event, "auth_events": {}}, "room_version": "10"},
            {"event": {**event, "depth": 2**70}, "room_version": "10"},
            {"event": {**event, "depth": "x"}, "room_version": "10"},
            {"event": {**event, "depth": 1.5}, "room_version": "10"},
            {"event": event, "room_version": "12"},
        ]
        self.net.down(A)  # which would be asked, too: the room's id names it
        for lie in lies:
            liar.answers["GET", "/_matrix/federation/v1/make_join/"] = partial(_answer, lie)
            self.refused(self.join(self.c, self.carol, self.room, "d.example"), 502, "M_UNKNOWN")
        self.assertEqual([], self.net.sent("send_join", destination="d.example"))
        # What it adds to the content is not signed.
        content = {
            "membership": "join",
            "displayname": "evil",
            "im.evil": 1,
            "join_authorised_via_users_server": 7,
        }
        liar.answers["GET", "/_matrix/federation/v1/make_join/"] = lambda _: (
            200,
            {"event": {**event, "content": content, "unsigned": {}, "extra": 1}, "room_version": "7"},
        )
        self.refused(self.join(self.c, self.carol, self.room, "d.example"), 404, "M_NOT_FOUND")
        (sent,) = self.net.sent("send_join", destination="d.example")
        self.assertEqual({"membership": "join", "displayname": "carol"}, sent.json["content"])
        self.assertNotIn("extra", sent.json)
        self.nothing_is_left(self.room)


def _answer(content: Any, _: PeerRequest) -> tuple[int, Any]:
    return 200, content


@on_each_database
class Served(NetCase):
    """What a says to a stranger who joins."""

    def setUp(self) -> None:
        super().setUp()
        self.eve = self.net.stranger("evil.example")
        self.user = "@eve:evil.example"

    def make(self, where: str, version: str = "11", **changes: Any) -> tuple[dict[str, Any], str]:
        """A join event and its id."""
        path = f"/_matrix/federation/v1/make_join/{quote(where)}/{quote(self.user)}?ver={version}"
        template = self.eve.ask(A, "GET", path)[1]["event"]
        event = {**template, "origin_server_ts": self.net.now_ms, **changes}
        if version in ("1", "2"):
            event["event_id"] = f"$join{version}:evil.example"
        signed = hash_and_sign_event(event, ROOM_VERSIONS[version], self.eve.key)
        return signed, compute_event_id(signed, ROOM_VERSIONS[version])

    def send(self, room_id: str, event: Any, event_id: str, query: str = "") -> tuple[int, Any]:
        path = f"/_matrix/federation/v2/send_join/{quote(room_id)}/{quote(event_id, safe='')}{query}"
        return self.eve.ask(A, "PUT", path, event)

    def test_the_whole_state_in_pieces(self) -> None:
        self.patch(join_answers, "CHUNK", 2)
        for version in VERSIONS:
            room_id = self.create(self.a, self.alice, preset="public_chat", room_version=version, name="x")
            expected = set(self.state(self.a, self.alice, room_id).values())
            event, event_id = self.make(room_id, version)
            status, json = self.send(room_id, event, event_id)
            self.assertEqual(200, status, json)
            rules = ROOM_VERSIONS[version]
            self.assertEqual(expected, {compute_event_id(one, rules) for one in json["state"]})
            chain = {compute_event_id(one, rules) for one in json["auth_chain"]}
            cited = {
                one for pdu in [*json["state"], event] for one in parse_untrusted(pdu, rules).auth_event_ids
            }
            self.assertLessEqual(cited, chain)
            self.assertIs(False, json["members_omitted"])
            self.assertEqual(A, json["origin"])
            # The same again, for a server that did not hear the answer.
            self.assertEqual(json, self.send(room_id, event, event_id)[1])

    def test_without_members(self) -> None:
        self.patch(room_answers, "FEW_MEMBERS", 0)
        for name in ("Named", None):
            room_id = self.create(self.a, self.alice, preset="public_chat", name=name, room_version="11")
            self.join(self.b, self.bob, room_id, A)
            event, event_id = self.make(room_id)
            status, json = self.send(room_id, event, event_id, "?omit_members=true")
            self.assertEqual((200, True), (status, json["members_omitted"]))
            self.assertEqual([A, B], json["servers_in_room"])
            members = {one["state_key"] for one in json["state"] if one["type"] == "m.room.member"}
            self.assertEqual(set() if name else {ALICE, BOB}, members)
            told = {
                compute_event_id(one, ROOM_VERSIONS["11"]) for one in [*json["state"], *json["auth_chain"]]
            }
            self.assertEqual(len(told), len(json["state"]) + len(json["auth_chain"]))
            for one in [*json["state"], *json["auth_chain"], event]:
                self.assertLessEqual(set(one["auth_events"]), told)

    def test_a_redacted_name_stays_redacted(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", name="Secret", room_version="11")
        name_id = self.state(self.a, self.alice, room_id)["m.room.name", ""]
        self.ok(self.a, self.alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(name_id)}/1", {})
        event, event_id = self.make(room_id)
        (name,) = [
            one for one in self.send(room_id, event, event_id)[1]["state"] if one["type"] == "m.room.name"
        ]
        self.assertEqual({}, name["content"])

    def test_events_that_are_no_joins(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        changes: tuple[dict[str, Any], ...] = (
            {"type": "m.room.message"},
            {"content": {"membership": "leave"}},
            {"content": {}},
            {"room_id": "!other:a.example"},
            {"sender": ALICE},
            {"state_key": ALICE},
            {"prev_events": ["$" + "x" * 43]},
            {"depth": -1},
        )
        for change in changes:
            event, event_id = self.make(room_id, **change)
            status, json = self.send(room_id, event, event_id)
            self.assertEqual((400, "M_INVALID_PARAM"), (status, json["errcode"]), change)
        # spec: rooms/v6#canonical-json
        event, event_id = self.make(room_id)
        for content in ({"bad": 1.5}, {"bad": 2**60}):
            event["content"] = {**event["content"], **content}
            status, json = self.send(room_id, event, event_id)
            self.assertEqual((400, "M_BAD_JSON"), (status, json["errcode"]), content)
        event, event_id = self.make(room_id, prev_events=[])
        self.assertEqual(403, self.send(room_id, event, event_id)[0])
        event, event_id = self.make(room_id)
        for wrong in (
            {**event, "signatures": {}},
            {**event, "content": {"membership": "join", "x": 1}},
            {},
            {"a": 1},
        ):
            self.assertEqual(400, self.send(room_id, wrong, event_id)[0], wrong)
        self.assertEqual(400, self.send(room_id, event, "$" + "x" * 43)[0])
        self.assertEqual(404, self.send("!other:a.example", event, event_id)[0])
        self.assertNotIn(("m.room.member", self.user), self.state(self.a, self.alice, room_id))
        self.assertEqual(200, self.send(room_id, event, event_id)[0])

    def test_the_id_of_an_event_of_another_room(self) -> None:
        """In old rooms ids are free: one of another room opens neither."""
        rooms = [self.create(self.a, self.alice, preset="public_chat", room_version="2") for _ in range(2)]
        event, event_id = self.make(rooms[0], "2")
        self.assertEqual(200, self.send(rooms[0], event, event_id)[0])
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(rooms[1])}/ban", {"user_id": self.user})
        event = {**event, "room_id": rooms[1]}
        signed = hash_and_sign_event(event, ROOM_VERSIONS["2"], self.eve.key)
        status, json = self.send(rooms[1], signed, event_id)
        self.assertEqual((400, "M_INVALID_PARAM"), (status, json["errcode"]))

    def test_a_join_that_the_rules_refuse(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat", room_version="11")
        event, event_id = self.make(room_id)
        self.ok(self.a, self.alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": self.user})
        status, json = self.send(room_id, event, event_id)
        self.assertEqual((403, "M_FORBIDDEN"), (status, json["errcode"]))


@on_each_database
class Broken(JoinCase):
    def test_the_database_goes_away_in_the_middle(self) -> None:
        room_id = self.create(self.a, self.alice, preset="public_chat")

        async def fail(*_: Any, **__: Any) -> None:
            raise DatabaseUnavailable("gone")

        for name in ("adopt_room", "store_lot"):
            with monkey_patched(remote_joins, name, fail):
                self.assertEqual(503, self.join(self.c, self.carol, room_id, A).status)
            self.nothing_is_left(room_id)
            self.c.log.entries.clear()
            self.c.restart()
            self.nothing_is_left(room_id)
        self.assertEqual(200, self.join(self.c, self.carol, room_id, A).status)
        self.assert_same_state(room_id, (self.a, self.alice), (self.c, self.carol))


@contextmanager
def monkey_patched(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another function for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
