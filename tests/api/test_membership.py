"""Joining, inviting, knocking, leaving, kicking, banning, forgetting. spec: client-server-api#room-membership"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.builder import Draft
from federation.hashes import unpadded
from federation.ids import RoomId, ServerName, UserId
from federation.signing import SigningKey, sign_json
from homeserver.config.schema import RateLimit, RateLimits
from homeserver.http.errors import MatrixError
from tests.api.rooms import ALICE, BOB, CAROL, V3, RoomsCase
from tests.api.servers import set_membership
from tests.support.app import SERVER_NAME, TestApp, test_config
from tests.support.databases import on_each_database
from tests.support.http import Query


@on_each_database
class Limits(RoomsCase):
    def make_app(self) -> TestApp:
        config = test_config(rate_limits=RateLimits(enabled=True, invite=RateLimit(0.1, 2)))
        return TestApp(self, self.address(), config)

    def test_an_invite_counts_whichever_way_it_is_made(self) -> None:
        room_id = self.create()
        self.ok(self.alice, f"/rooms/{room_id}/invite", {"user_id": BOB})
        names = [f"@guest{number}:{SERVER_NAME}" for number in range(3)]
        answers = [self.set_member(room_id, name, "invite") for name in names]
        self.assertEqual([200, 429, 429], [status for status, _ in answers])
        later = {"org.matrix.msc4140.delay": 1}
        self.assert_refused(self.set_member(room_id, names[1], "invite", later), 429, "M_LIMIT_EXCEEDED")
        path = f"/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/m.room.member/1"
        body = {"delay_ms": 1, "state_key": names[1], "content": {"membership": "invite"}}
        self.assert_refused(self.app.call("PUT", path, body, self.alice), 429, "M_LIMIT_EXCEEDED")
        # What else is said of members is no invite.
        self.assertEqual(200, self.set_member(room_id, names[0], "leave")[0])
        self.app.advance(10)
        self.assertEqual(200, self.set_member(room_id, names[1], "invite")[0])
        self.assert_refused(
            self.post(self.alice, f"/rooms/{room_id}/invite", {"user_id": names[2]}), 429, "M_LIMIT_EXCEEDED"
        )

    def test_invites_that_come_with_a_new_room_count(self) -> None:
        names = [f"@guest{number}:{SERVER_NAME}" for number in range(4)]
        member = {"type": "m.room.member", "state_key": names[0], "content": {"membership": "invite"}}
        address = {
            "id_server": "id.example",
            "id_access_token": "token",
            "medium": "email",
            "address": "bob@x.example",
        }
        self.create(invite=[BOB, BOB])
        too_many: list[dict[str, Any]] = [
            {"invite": [BOB], "initial_state": [member]},
            {"invite": [BOB], "invite_3pid": [address]},
            {"invite": names[:2]},
        ]
        for body in too_many:
            self.assert_refused(self.post(self.alice, "/createRoom", body), 429, "M_LIMIT_EXCEEDED")
        self.assertEqual(1, len(self.app.ok("GET", f"{V3}/joined_rooms", None, self.alice)["joined_rooms"]))
        # What is no room for another reason costs none.
        wrong = {"invite": names[:1], "room_version": "none"}
        self.assert_refused(self.post(self.alice, "/createRoom", wrong), 400, "M_UNSUPPORTED_ROOM_VERSION")
        self.create(initial_state=[member])
        self.create()
        # Whoever has invited nobody lately may invite more at once than is possible one by one, and then waits for it.
        self.app.advance(20)
        room_id = self.create(invite=[BOB, *names])
        self.app.advance(30)
        self.assert_refused(self.post(self.alice, "/createRoom", {"invite": [BOB]}), 429, "M_LIMIT_EXCEEDED")
        self.assert_refused(self.set_member(room_id, CAROL, "invite"), 429, "M_LIMIT_EXCEEDED")
        self.app.advance(10)
        self.assertEqual(200, self.set_member(room_id, CAROL, "invite")[0])

    def set_member(
        self, room_id: str, user_id: str, membership: str, query: Query | None = None
    ) -> tuple[int, Any]:
        path = f"{V3}/rooms/{room_id}/state/m.room.member/{user_id}"
        return self.app.call("PUT", path, {"membership": membership}, self.alice, query)


@on_each_database
class Join(RoomsCase):
    def test_by_id_and_by_alias(self) -> None:
        room_id = self.create(preset="public_chat", room_alias_name="pub")
        for where in (f"/rooms/{room_id}/join", f"/join/{quote(room_id)}", f"/join/%23pub:{SERVER_NAME}"):
            self.assertEqual({"room_id": room_id}, self.ok(self.bob, where, {"reason": "hello"}))
        joins = [event for event in self.events(room_id) if event.state_key == BOB]
        self.assertEqual(1, len(joins), "joining again makes no event")
        expected = {"membership": "join", "displayname": "bob", "reason": "hello"}
        self.assertEqual(expected, joins[0].content)

    def test_a_private_room_needs_an_invite(self) -> None:
        room_id = self.create(preset="private_chat")
        self.assert_refused(self.post(self.bob, f"/rooms/{room_id}/join"), 403, "M_FORBIDDEN")
        self.ok(self.alice, f"/rooms/{room_id}/invite", {"user_id": BOB, "reason": "come"})
        self.assertEqual("come", self.member(room_id, BOB)["reason"])
        self.ok(self.bob, f"/rooms/{room_id}/join")
        self.assertEqual({"membership": "join", "displayname": "bob"}, self.member(room_id, BOB))

    def test_unknown_rooms(self) -> None:
        for where in (f"!nowhere:{SERVER_NAME}", "%23nowhere:" + SERVER_NAME):
            self.assert_refused(self.post(self.bob, f"/join/{where}"), 404, "M_NOT_FOUND")
            self.assert_refused(self.post(self.bob, f"/knock/{where}"), 404, "M_NOT_FOUND")
        for where in ("%23pub:else.example", "!a:else.example"):
            self.assert_refused(self.post(self.bob, f"/join/{where}"), 502, "M_UNKNOWN")
            self.assert_refused(self.post(self.bob, f"/knock/{where}"), 502, "M_UNKNOWN")

    def test_what_is_no_room(self) -> None:
        for where in ("room", "%23a", "@a:b"):
            self.assert_refused(self.post(self.bob, f"/join/{where}"), 400, "M_INVALID_PARAM")
        room_id = self.create(preset="public_chat")
        answer = self.app.call("POST", f"{V3}/join/{room_id}", {}, self.bob, {"via": "not a server"})
        self.assert_refused(answer, 400, "M_INVALID_PARAM")
        self.assert_refused(self.post(self.bob, f"/join/{room_id}", {"reason": 1}), 400, "M_BAD_JSON")

    def test_joining_beside_oneself(self) -> None:
        room_id = self.create(preset="public_chat")
        calls = [self.app.start("POST", f"{V3}/join/{room_id}", {}, self.bob) for _ in range(5)]
        self.assertEqual([200] * 5, [self.app.wait(call).status for call in calls])
        self.assertEqual(1, sum(event.state_key == BOB for event in self.events(room_id)))

    def test_hostile_predecessors(self) -> None:
        for predecessor in (
            1,
            {},
            {"room_id": 1},
            {"room_id": "!a\0:b"},
            {"room_id": "x"},
            {"room_id": "!a:b"},
        ):
            room_id = self.create(preset="public_chat", creation_content={"predecessor": predecessor})
            self.ok(self.bob, f"/join/{room_id}")

    def test_joined_rooms(self) -> None:
        first, second = self.create(preset="public_chat"), self.create(preset="public_chat")
        for room_id in (first, second):
            self.ok(self.bob, f"/join/{room_id}")
        self.ok(self.bob, f"/rooms/{first}/leave")
        self.assertEqual({"joined_rooms": [second]}, self.app.ok("GET", f"{V3}/joined_rooms", None, self.bob))
        self.app.restart()
        self.assertEqual({"joined_rooms": [second]}, self.app.ok("GET", f"{V3}/joined_rooms", None, self.bob))

    def test_joining_reads_little(self) -> None:
        rooms = [self.create(preset="public_chat") for _ in range(2)]
        self.ok(self.bob, f"/join/{rooms[0]}")
        seen: list[str] = []
        self.app.engine.hook = seen.append
        self.ok(self.bob, f"/join/{rooms[1]}")
        reads = [text for text in seen if text.lstrip().upper().startswith("SELECT")]
        self.assertLessEqual(len(reads), 2, reads)


@on_each_database
class Restricted(RoomsCase):
    def rules(self, room_id: str, join_rule: str = "restricted") -> list[dict[str, Any]]:
        allow = [{"type": "m.unknown"}, 1, {"type": "m.room_membership", "room_id": room_id}]
        content = {"join_rule": join_rule, "allow": allow}
        return [{"type": "m.room.join_rules", "content": content}]

    def test_members_of_the_other_room_may_join(self) -> None:
        for version in ("8", "9", "10", "11", "12"):
            club = self.create(preset="public_chat")
            room_id = self.create(room_version=version, initial_state=self.rules(club))
            self.assert_refused(self.post(self.bob, f"/join/{room_id}"), 403, "M_FORBIDDEN")
            self.ok(self.bob, f"/join/{club}")
            self.ok(self.bob, f"/join/{room_id}")
            self.assertEqual(ALICE, self.member(room_id, BOB)["join_authorised_via_users_server"])

    def test_who_was_there_once_is_no_member(self) -> None:
        club = self.create(preset="public_chat")
        room_id = self.create(initial_state=self.rules(club))
        self.ok(self.bob, f"/join/{club}")
        self.ok(self.bob, f"/rooms/{club}/leave")
        self.assert_refused(self.post(self.bob, f"/join/{room_id}"), 403, "M_FORBIDDEN")

    def test_an_invite_is_enough(self) -> None:
        room_id = self.create(initial_state=self.rules("!a:b"), invite=[BOB])
        self.ok(self.bob, f"/join/{room_id}")
        self.assertNotIn("join_authorised_via_users_server", self.member(room_id, BOB))

    def test_nobody_is_left_who_may_invite(self) -> None:
        club = self.create(preset="public_chat")
        room_id = self.create(
            initial_state=self.rules(club), invite=[CAROL], power_level_content_override={"invite": 50}
        )
        carol = self.app.register("carol")
        self.ok(carol, f"/join/{room_id}")
        self.ok(self.alice, f"/rooms/{room_id}/leave")
        self.ok(self.bob, f"/join/{club}")
        self.assert_refused(self.post(self.bob, f"/join/{room_id}"), 403, "M_FORBIDDEN")

    def test_an_ordinary_member_vouches_where_everybody_may_invite(self) -> None:
        club = self.create(preset="public_chat")
        room_id = self.create(initial_state=self.rules(club), invite=[CAROL])
        carol = self.app.register("carol")
        self.ok(carol, f"/join/{room_id}")
        self.ok(self.alice, f"/rooms/{room_id}/leave")
        self.ok(self.bob, f"/join/{club}")
        self.ok(self.bob, f"/join/{room_id}")
        self.assertEqual(CAROL, self.member(room_id, BOB)["join_authorised_via_users_server"])

    def test_the_banned_stay_out(self) -> None:
        club = self.create(preset="public_chat")
        room_id = self.create(initial_state=self.rules(club))
        self.ok(self.bob, f"/join/{club}")
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        self.assert_refused(self.post(self.bob, f"/join/{room_id}"), 403, "M_FORBIDDEN")

    def test_knock_restricted(self) -> None:
        club = self.create(preset="public_chat")
        room_id = self.create(room_version="10", initial_state=self.rules(club, "knock_restricted"))
        self.ok(self.bob, f"/knock/{room_id}")
        self.ok(self.bob, f"/join/{club}")
        self.ok(self.bob, f"/join/{room_id}")
        self.assertEqual("join", self.membership(room_id, BOB))


class Invite(RoomsCase):
    def setUp(self) -> None:
        super().setUp()
        self.room = self.create(preset="public_chat")

    def invite(self, token: str, user_id: str, **others: Any) -> tuple[int, Any]:
        return self.post(token, f"/rooms/{self.room}/invite", {"user_id": user_id, **others})

    def test_twice_makes_one_event(self) -> None:
        self.assertEqual((200, {}), self.invite(self.alice, BOB))
        self.assertEqual((200, {}), self.invite(self.alice, BOB))
        self.assertEqual(1, sum(event.state_key == BOB for event in self.events(self.room)))

    def test_refusals(self) -> None:
        self.assert_refused(self.invite(self.bob, CAROL), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{self.room}")
        self.assert_refused(self.invite(self.alice, BOB), 403, "M_FORBIDDEN")
        self.assert_refused(self.invite(self.bob, CAROL), 403, "M_FORBIDDEN")
        self.ok(self.alice, f"/rooms/{self.room}/ban", {"user_id": BOB})
        self.assert_refused(self.invite(self.alice, BOB), 403, "M_FORBIDDEN")
        self.assert_refused(self.invite(self.alice, "@x:else.example"), 502, "M_UNKNOWN")
        self.assert_refused(self.invite(self.alice, "bob"), 400, "M_INVALID_PARAM")
        self.assert_refused(self.post(self.alice, f"/rooms/{self.room}/invite"), 400, "M_MISSING_PARAM")
        elsewhere = self.post(self.alice, f"/rooms/!a:{SERVER_NAME}/invite", {"user_id": BOB})
        self.assert_refused(elsewhere, 403, "M_FORBIDDEN")
        third = {"id_server": "a", "id_access_token": "b", "medium": "email", "address": "c"}
        answer = self.post(self.alice, f"/rooms/{self.room}/invite", third)
        # It is asked only for who may invite.
        self.assert_refused(answer, 400, "M_SERVER_NOT_TRUSTED")

    def test_blocked(self) -> None:
        path = f"{V3}/user/{BOB}/account_data/m.invite_permission_config"
        self.app.ok("PUT", path, {"default_action": "block"}, self.bob)
        self.assert_refused(self.invite(self.alice, BOB), 403, "M_INVITE_BLOCKED")

    def test_a_rejected_and_a_withdrawn_invite(self) -> None:
        self.invite(self.alice, BOB)
        self.ok(self.bob, f"/rooms/{self.room}/leave", {"reason": "no"})
        self.assertEqual({"membership": "leave", "reason": "no"}, self.member(self.room, BOB))
        self.invite(self.alice, BOB)
        self.ok(self.alice, f"/rooms/{self.room}/kick", {"user_id": BOB})
        self.assertEqual("leave", self.membership(self.room, BOB))


class Knock(RoomsCase):
    def knockable(self, **others: Any) -> str:
        rules = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        return self.create(initial_state=rules, **others)

    def test_accepted(self) -> None:
        room_id = self.knockable(room_alias_name="door")
        answer = self.ok(self.bob, f"/knock/%23door:{SERVER_NAME}", {"reason": "please"})
        self.assertEqual({"room_id": room_id}, answer)
        self.assertEqual("please", self.member(room_id, BOB)["reason"])
        self.assert_refused(self.post(self.bob, f"/join/{room_id}"), 403, "M_FORBIDDEN")
        self.ok(self.alice, f"/rooms/{room_id}/invite", {"user_id": BOB})
        self.ok(self.bob, f"/join/{room_id}")

    def test_refused_and_taken_back(self) -> None:
        room_id = self.knockable()
        self.ok(self.bob, f"/knock/{room_id}")
        self.ok(self.alice, f"/rooms/{room_id}/kick", {"user_id": BOB})
        self.ok(self.bob, f"/knock/{room_id}")
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        self.assertEqual("leave", self.membership(room_id, BOB))

    def test_where_nobody_may_knock(self) -> None:
        room_id = self.create(preset="public_chat")
        self.assert_refused(self.post(self.bob, f"/knock/{room_id}"), 403, "M_FORBIDDEN")
        old = self.knockable(room_version="6")
        self.assert_refused(self.post(self.bob, f"/knock/{old}"), 403, "M_FORBIDDEN")

    def test_who_is_in_or_banned(self) -> None:
        room_id = self.knockable(invite=[BOB])
        self.assert_refused(self.post(self.bob, f"/knock/{room_id}"), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{room_id}")
        self.assert_refused(self.post(self.bob, f"/knock/{room_id}"), 403, "M_FORBIDDEN")
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        self.assert_refused(self.post(self.bob, f"/knock/{room_id}"), 403, "M_FORBIDDEN")


@on_each_database
class Leave(RoomsCase):
    def test_leaving_twice_and_never_having_been_there(self) -> None:
        room_id = self.create(preset="public_chat")
        self.assert_refused(self.post(self.bob, f"/rooms/{room_id}/leave"), 403, "M_FORBIDDEN")
        self.assert_refused(self.post(self.bob, f"/rooms/!a:{SERVER_NAME}/leave"), 404, "M_NOT_FOUND")
        self.ok(self.bob, f"/join/{room_id}")
        for _ in range(2):
            self.assertEqual({}, self.ok(self.bob, f"/rooms/{room_id}/leave"))
        self.assertEqual(2, sum(event.state_key == BOB for event in self.events(room_id)))

    def test_forgetting(self) -> None:
        room_id = self.create(preset="public_chat")
        self.assert_refused(self.post(self.bob, f"/rooms/{room_id}/forget"), 404, "M_NOT_FOUND")
        self.ok(self.bob, f"/join/{room_id}")
        self.assert_refused(self.post(self.bob, f"/rooms/{room_id}/forget"), 400, "M_UNKNOWN")
        self.ok(self.bob, f"/rooms/{room_id}/leave")
        for _ in range(2):
            self.assertEqual({}, self.ok(self.bob, f"/rooms/{room_id}/forget"))
        core = self.app.app.core
        user_nid, room_nid = core.interner.known_user(BOB), core.interner.known_room(room_id)
        assert user_nid is not None and room_nid is not None
        standing = core.index.standing(user_nid, room_nid)
        self.assertTrue(standing is not None and standing.forgotten)
        self.ok(self.bob, f"/join/{room_id}")
        standing = core.index.standing(user_nid, room_nid)
        self.assertFalse(standing is None or standing.forgotten)


class Moderation(RoomsCase):
    def setUp(self) -> None:
        super().setUp()
        self.room = self.create(preset="public_chat")
        self.ok(self.bob, f"/join/{self.room}")

    def act(self, token: str, action: str, user_id: str, **others: Any) -> tuple[int, Any]:
        return self.post(token, f"/rooms/{self.room}/{action}", {"user_id": user_id, **others})

    def test_kick(self) -> None:
        self.assertEqual((200, {}), self.act(self.alice, "kick", BOB, reason="noise"))
        self.assertEqual({"membership": "leave", "reason": "noise"}, self.member(self.room, BOB))
        self.assert_refused(self.act(self.alice, "kick", BOB), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{self.room}")

    def test_ban_and_unban(self) -> None:
        self.assertEqual((200, {}), self.act(self.alice, "ban", BOB, reason="spam"))
        self.assertEqual({"membership": "ban", "reason": "spam"}, self.member(self.room, BOB))
        self.assert_refused(self.post(self.bob, f"/join/{self.room}"), 403, "M_FORBIDDEN")
        self.assert_refused(self.act(self.alice, "kick", BOB), 403, "M_FORBIDDEN")
        self.assert_refused(self.post(self.bob, f"/rooms/{self.room}/leave"), 403, "M_FORBIDDEN")
        self.assertEqual((200, {}), self.act(self.alice, "unban", BOB))
        self.assert_refused(self.act(self.alice, "unban", BOB), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{self.room}")

    def test_the_same_ban_makes_one_event(self) -> None:
        # Bots that moderate ban once for each message of a flood.
        path = f"{V3}/rooms/{self.room}/state/m.room.member/{BOB}"
        spam = {"membership": "ban", "reason": "spam"}
        for _ in range(2):
            self.assertEqual((200, {}), self.act(self.alice, "ban", BOB, reason="spam"))
        banned = self.app.ok("PUT", path, spam, self.alice)["event_id"]
        self.assertEqual(2, sum(event.state_key == BOB for event in self.events(self.room)))
        self.assertEqual(banned, self.events(self.room)[-1].event_id)
        self.app.ok("PUT", path, {**spam, "reason": "abuse"}, self.alice)
        self.assertEqual((200, {}), self.act(self.alice, "ban", BOB, reason="spam"))
        self.assertEqual(4, sum(event.state_key == BOB for event in self.events(self.room)))

    def test_whatever_their_name(self) -> None:
        """Another server lets in users with names of before there were rules: they can be put out like others."""
        for name in ("é", "", "a b\u0007", "A/B"):
            user_id = f"@{name}:else.example"
            set_membership(self.app, self.room, user_id, "join")
            for action, membership in (("kick", "leave"), ("ban", "ban"), ("unban", "leave")):
                self.assertEqual((200, {}), self.act(self.alice, action, user_id), (user_id, action))
                self.assertEqual(membership, self.member(self.room, user_id)["membership"])
            path = f"{V3}/rooms/{self.room}/state/m.room.member/{quote(user_id, safe='')}"
            self.app.ok("PUT", path, {"membership": "ban"}, self.alice)
            self.assertEqual("ban", self.member(self.room, user_id)["membership"])
            if name in ("é", "", "a b\u0007"):
                self.assert_refused(self.act(self.alice, "invite", user_id), 400, "M_INVALID_PARAM")
        self.assert_refused(self.act(self.alice, "kick", "@a\0b:else.example"), 400, "M_INVALID_PARAM")

    def test_strangers_may_be_banned(self) -> None:
        self.assertEqual((200, {}), self.act(self.alice, "ban", "@spam:else.example"))

    def test_without_power_or_membership(self) -> None:
        carol = self.app.register("carol")
        for action in ("kick", "ban", "unban"):
            self.assert_refused(self.act(self.bob, action, ALICE), 403, "M_FORBIDDEN")
            self.assert_refused(self.act(carol, action, BOB), 403, "M_FORBIDDEN")
            self.assert_refused(self.act(self.alice, action, "bob"), 400, "M_INVALID_PARAM")
            self.assert_refused(self.act(self.alice, action, 1), 400, "M_BAD_JSON")  # type: ignore[arg-type]
            self.assert_refused(self.post(self.alice, f"/rooms/{self.room}/{action}"), 400, "M_MISSING_PARAM")
        self.act(self.alice, "ban", CAROL)
        self.assert_refused(self.act(self.bob, "unban", CAROL), 403, "M_FORBIDDEN")


@on_each_database
class ThirdParty(RoomsCase):
    """Joins with the proof of an identity server."""

    def setUp(self) -> None:
        super().setUp()
        self.key = SigningKey.from_seed(ServerName("id.example"), "0", b"\x07" * 32)
        self.public = unpadded(self.key.public_key)
        self.room = self.create(preset="private_chat")

    def offer(self, **others: Any) -> None:
        content = {"display_name": "b...", "public_key": self.public, **others}
        self.put_state(self.alice, self.room, "m.room.third_party_invite", content, "token")

    def proof(self, **others: Any) -> dict[str, Any]:
        signed: dict[str, Any] = {"sender": ALICE, "mxid": BOB, "token": "token", **others}
        return sign_json(signed, self.key)

    def join(self, token: str, signed: Any) -> tuple[int, Any]:
        return self.post(token, f"/rooms/{self.room}/join", {"third_party_signed": signed})

    def test_the_owner_of_the_address_comes_in(self) -> None:
        self.offer()
        self.assertEqual((200, {"room_id": self.room}), self.join(self.bob, self.proof()))
        memberships = [
            event.content["membership"] for event in self.events(self.room) if event.state_key == BOB
        ]
        self.assertEqual(["invite", "join"], memberships)

    def test_false_proofs(self) -> None:
        self.assert_refused(self.join(self.bob, self.proof()), 403, "M_FORBIDDEN")
        self.offer()
        carol = self.app.register("carol")
        self.assert_refused(self.join(carol, self.proof()), 403, "M_FORBIDDEN")
        for wrong in (
            {"token": "other"},
            {"token": "to\0ken"},
            {"sender": BOB},
            {"sender": "@x:else.example"},
            {"mxid": CAROL},
        ):
            self.assert_refused(self.join(self.bob, self.proof(**wrong)), 403, "M_FORBIDDEN")
        self.assert_refused(self.join(self.bob, {**self.proof(), "more": 1}), 403, "M_FORBIDDEN")
        self.assertIsNone(self.member(self.room, BOB))

    def test_an_offer_that_was_redacted(self) -> None:
        # spec: client-server-api#redactions (as though its properties were not specified)
        self.offer()
        state = f"{V3}/rooms/{self.room}/state/m.room.third_party_invite/token"
        event_id = self.app.ok("GET", state, None, self.alice, {"format": "event"})["event_id"]
        self.app.ok("PUT", f"{V3}/rooms/{self.room}/redact/{event_id}/t", {}, self.alice)
        self.assert_refused(self.join(self.bob, self.proof()), 403, "M_FORBIDDEN")
        self.assertIsNone(self.member(self.room, BOB))

    def test_malformed_proofs(self) -> None:
        self.offer()
        malformed: tuple[Any, ...] = (
            {},
            {**self.proof(), "token": 1},
            {**self.proof(), "signatures": []},
            [],
            "x",
        )
        for signed in malformed:
            self.assert_refused(self.join(self.bob, signed), 400, "M_BAD_JSON")

    def test_a_key_whose_validity_must_be_asked_for(self) -> None:
        self.offer(public_keys=[{"public_key": self.public, "key_validity_url": "https://a"}])
        self.assert_refused(self.join(self.bob, self.proof()), 403, "M_FORBIDDEN")


class ByHand(RoomsCase):
    """Without routes: guests cannot register yet, and member events are set by another module's endpoint."""

    def setUp(self) -> None:
        super().setUp()
        self.memberships = self.app.app.services.rooms.memberships

    def set_member(self, sender: str, room_id: str, target: str, **content: Any) -> None:
        draft = Draft(RoomId(room_id), "m.room.member", UserId(sender), content, target)
        self.app.wait(Deferred.fromCoroutine(self.memberships.set_member(draft)))

    def assert_set_refused(self, errcode: str, *args: str, **content: Any) -> None:
        with self.assertRaises(MatrixError) as caught:
            self.set_member(*args, **content)
        self.assertEqual(errcode, caught.exception.errcode)

    def test_guests_go_where_guests_may_go(self) -> None:
        closed, opened = self.create(preset="public_chat"), self.create(preset="private_chat", invite=[BOB])
        user_nid = self.app.app.core.interner.known_user(BOB)
        assert user_nid is not None
        requester = _Somebody(BOB, user_nid)
        joining = Deferred.fromCoroutine(self.memberships.join(requester, RoomId(closed), is_guest=True))
        failure = self.failureResultOf(joining, MatrixError)
        self.assertEqual("M_GUEST_ACCESS_FORBIDDEN", failure.value.errcode)
        joining = Deferred.fromCoroutine(self.memberships.join(requester, RoomId(opened), is_guest=True))
        self.assertEqual(opened, self.app.wait(joining))

    def test_what_is_no_membership_is_malformed(self) -> None:
        # spec: client-server-api#common-error-codes (M_BAD_JSON: missing keys, invalid values)
        path = f"{V3}/rooms/{self.create()}/state/m.room.member/{BOB}"
        for content in (
            {},
            {"membership": None},
            {"membership": 5},
            {"membership": ["join"]},
            {"membership": "x"},
        ):
            self.assert_refused(self.app.call("PUT", path, content, self.alice), 400, "M_BAD_JSON")

    def test_nobody_vouches_for_themselves(self) -> None:
        club = self.create(preset="public_chat")
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        room_id = self.create(initial_state=[{"type": "m.room.join_rules", "content": rules}])
        forged = {"membership": "join", "join_authorised_via_users_server": ALICE}
        self.assert_set_refused("M_FORBIDDEN", BOB, room_id, BOB, **forged)
        path = f"{V3}/rooms/{room_id}/state/m.room.member/{BOB}"
        self.assert_refused(self.app.call("PUT", path, forged, self.bob), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{club}")
        self.set_member(BOB, room_id, BOB, membership="join", displayname="B")
        expected = {"membership": "join", "displayname": "B", "join_authorised_via_users_server": ALICE}
        self.assertEqual(expected, self.member(room_id, BOB))
        self.set_member(BOB, room_id, BOB, **forged)
        self.assertEqual({"membership": "join"}, self.member(room_id, BOB))

    def test_an_invite_set_as_state_is_one(self) -> None:
        room_id = self.create()
        self.assert_set_refused("M_UNKNOWN", ALICE, room_id, "@x:else.example", membership="invite")
        path = f"{V3}/user/{BOB}/account_data/m.invite_permission_config"
        self.app.ok("PUT", path, {"default_action": "block"}, self.bob)
        self.assert_set_refused("M_INVITE_BLOCKED", ALICE, room_id, BOB, membership="invite")
        self.app.ok("PUT", path, {}, self.bob)
        self.set_member(ALICE, room_id, BOB, membership="invite")
        self.ok(self.bob, f"/join/{room_id}")

    def test_strangers_set_nothing(self) -> None:
        self.assert_set_refused("M_FORBIDDEN", BOB, f"!no:{SERVER_NAME}", BOB, membership="join")
        room_id = self.create()
        self.assert_set_refused("M_FORBIDDEN", BOB, room_id, BOB, membership="join")
        self.assert_set_refused("M_BAD_JSON", BOB, room_id, BOB, membership="odd")
        self.assert_set_refused("M_BAD_JSON", BOB, room_id, BOB)


class _Somebody:
    def __init__(self, user_id: str, user_nid: int) -> None:
        self.user_id, self.user_nid = user_id, user_nid
        self.device_id, self.device_nid = "D", 1
