"""POST /createRoom. spec: client-server-api#post_matrixclientv3createroom"""

from __future__ import annotations

from typing import Any

from federation.auth.power import CREATOR_LEVEL
from federation.versions import ROOM_VERSIONS
from tests.api.rooms import ALICE, BOB, CAROL, V3, RoomsCase
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database


def keys(events: list[Any]) -> list[tuple[str, Any]]:
    return [(event.type, event.state_key) for event in events]


@on_each_database
class Order(RoomsCase):
    def test_everything_in_the_order_of_the_specification(self) -> None:
        room_id = self.create(
            visibility="public",
            room_alias_name="pub",
            name="The Pub",
            topic="Hours",
            invite=[BOB],
            initial_state=[
                {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                {"type": "org.example", "state_key": "x", "content": {"a": 1}},
            ],
        )
        expected = [
            ("m.room.create", ""),
            ("m.room.member", ALICE),
            ("m.room.power_levels", ""),
            ("m.room.canonical_alias", ""),
            ("m.room.join_rules", ""),
            ("m.room.history_visibility", ""),
            ("m.room.guest_access", ""),
            ("m.room.encryption", ""),
            ("org.example", "x"),
            ("m.room.name", ""),
            ("m.room.topic", ""),
            ("m.room.member", BOB),
        ]
        self.assertEqual(expected, keys(self.events(room_id)))
        self.assertEqual({"alias": f"#pub:{SERVER_NAME}"}, self.state(room_id, "m.room.canonical_alias"))
        topic = {"topic": "Hours", "m.topic": {"m.text": [{"body": "Hours"}]}}
        self.assertEqual(topic, self.state(room_id, "m.room.topic"))
        found = self.app.ok("GET", f"{V3}/directory/room/%23pub:{SERVER_NAME}")
        self.assertEqual({"room_id": room_id, "servers": [SERVER_NAME]}, found)
        visibility = self.app.ok("GET", f"{V3}/directory/list/room/{room_id}")
        self.assertEqual({"visibility": "public"}, visibility)

    def test_initial_state_goes_before_the_preset_and_name_and_topic_before_it(self) -> None:
        room_id = self.create(
            preset="private_chat",
            name="Wins",
            initial_state=[
                {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
                {"type": "m.room.name", "content": {"name": "Loses"}},
            ],
        )
        self.assertEqual({"join_rule": "knock"}, self.state(room_id, "m.room.join_rules"))
        self.assertEqual({"name": "Wins"}, self.state(room_id, "m.room.name"))
        types = [event.type for event in self.events(room_id)]
        self.assertEqual(1, types.count("m.room.join_rules"))
        self.assertEqual(1, types.count("m.room.name"))

    def test_an_empty_request_makes_a_private_room_of_the_default_version(self) -> None:
        room_id = self.create()
        self.assertEqual("12", self.state(room_id, "m.room.create")["room_version"])
        self.assertEqual({"join_rule": "invite"}, self.state(room_id, "m.room.join_rules"))
        self.assertEqual({"guest_access": "can_join"}, self.state(room_id, "m.room.guest_access"))
        self.assertEqual({"history_visibility": "shared"}, self.state(room_id, "m.room.history_visibility"))
        self.assertEqual({"visibility": "private"}, self.app.ok("GET", f"{V3}/directory/list/room/{room_id}"))


@on_each_database
class Versions(RoomsCase):
    def test_each_version(self) -> None:
        for version, rules in ROOM_VERSIONS.items():
            room_id = self.create(
                room_version=version, creation_content={"creator": BOB, "room_version": "9"}
            )
            create = self.state(room_id, "m.room.create")
            self.assertEqual(version, create["room_version"])
            creator = ALICE if rules.creator_in_content_required else None
            self.assertEqual(creator, create.get("creator"), version)
            users = self.state(room_id, "m.room.power_levels")["users"]
            self.assertEqual({} if rules.privileged_creators else {ALICE: 100}, users)
            self.assertEqual(rules.room_id_is_create_hash, ":" not in room_id)

    def test_the_creator_of_version_12_stands_above_all_levels(self) -> None:
        room_id = self.create(room_version="12")
        levels = self.state(room_id, "m.room.power_levels")
        self.assertGreater(levels["events"]["m.room.tombstone"], levels["state_default"])
        self.assertEqual(self.events(room_id)[0].event_id[1:], room_id[1:])

    def test_a_tombstone_stays_above_state_default_in_version_12(self) -> None:
        for override, least in (
            ({"events": {}}, 150),
            ({"state_default": 200}, 201),
            ({"events": {"m.room.tombstone": 60}}, 60),
            ({"events": {"m.room.tombstone": 10}}, 150),
        ):
            room_id = self.create(power_level_content_override=override)
            levels = self.state(room_id, "m.room.power_levels")
            self.assertEqual(least, levels["events"]["m.room.tombstone"], override)

    def test_the_same_room_twice_in_one_millisecond(self) -> None:
        self.assertNotEqual(self.create(room_version="12"), self.create(room_version="12"))

    def test_the_same_room_again_after_a_restart(self) -> None:
        first = self.create(room_version="12")
        self.app.restart()
        self.assertNotEqual(first, self.create(room_version="12"))

    def test_an_unknown_version(self) -> None:
        for version in ("org.example.42", ""):
            answer = self.post(self.alice, "/createRoom", {"room_version": version})
            self.assert_refused(answer, 400, "M_UNSUPPORTED_ROOM_VERSION")


class Creators(RoomsCase):
    def test_a_trusted_private_chat_raises_the_invited(self) -> None:
        old = self.create(preset="trusted_private_chat", invite=[BOB], room_version="11")
        self.assertEqual({ALICE: 100, BOB: 100}, self.state(old, "m.room.power_levels")["users"])
        new = self.create(
            preset="trusted_private_chat",
            invite=[BOB],
            room_version="12",
            creation_content={"additional_creators": [CAROL, BOB]},
        )
        self.assertEqual([CAROL, BOB], self.state(new, "m.room.create")["additional_creators"])
        self.assertEqual({}, self.state(new, "m.room.power_levels")["users"])

    def test_additional_creators_are_checked_where_they_count(self) -> None:
        for wrong in ("x", [1], ["alice"], [f"@x:{SERVER_NAME}"] * 1000):
            body = {"room_version": "12", "creation_content": {"additional_creators": wrong}}
            self.assertEqual(400, self.post(self.alice, "/createRoom", body)[0], wrong)
        room_id = self.create(room_version="11", creation_content={"additional_creators": "x"})
        self.assertEqual("x", self.state(room_id, "m.room.create")["additional_creators"])

    def test_an_additional_creator_may_do_everything(self) -> None:
        room_id = self.create(creation_content={"additional_creators": [BOB]}, invite=[BOB])
        self.ok(self.bob, f"/rooms/{room_id}/join")

        async def level(turn: Any) -> int:
            return (await turn.power_levels()).user(BOB)

        actor = self.app.app.core.rooms.known(room_id)
        assert actor is not None
        self.assertEqual(CREATOR_LEVEL, self.app.wait(actor.run(level)))

    def test_space_and_no_federation(self) -> None:
        room_id = self.create(creation_content={"type": "m.space", "m.federate": False})
        create = self.state(room_id, "m.room.create")
        self.assertEqual(("m.space", False), (create["type"], create["m.federate"]))


class Invites(RoomsCase):
    def test_a_direct_chat(self) -> None:
        room_id = self.create(invite=[BOB, BOB], is_direct=True, preset="trusted_private_chat")
        self.assertEqual(
            {"membership": "invite", "displayname": "bob", "is_direct": True}, self.member(room_id, BOB)
        )
        self.ok(self.bob, f"/rooms/{room_id}/join")
        self.assertEqual({"membership": "join", "displayname": "bob"}, self.member(room_id, BOB))

    def test_profiles_are_in_the_member_events(self) -> None:
        for token, user_id, name in ((self.alice, ALICE, "Al"), (self.bob, BOB, "Bo")):
            self.app.ok("PUT", f"{V3}/profile/{user_id}/displayname", {"displayname": name}, token)
        room_id = self.create(invite=[BOB])
        self.assertEqual("Al", self.member(room_id, ALICE)["displayname"])
        self.assertEqual("Bo", self.member(room_id, BOB)["displayname"])

    def test_who_blocks_invites_is_not_invited(self) -> None:
        block = {"default_action": "block"}
        path = f"{V3}/user/{BOB}/account_data/m.invite_permission_config"
        self.app.ok("PUT", path, block, self.bob)
        invite = {"type": "m.room.member", "state_key": BOB, "content": {"membership": "invite"}}
        for body in ({"invite": [BOB]}, {"initial_state": [invite]}):
            self.assert_refused(self.post(self.alice, "/createRoom", body), 403, "M_INVITE_BLOCKED")
        self.app.ok("PUT", path, {}, self.bob)
        self.create(invite=[BOB])

    def test_who_is_invited_by_initial_state(self) -> None:
        invite = {"type": "m.room.member", "content": {"membership": "invite"}}
        room_id = self.create(initial_state=[{**invite, "state_key": BOB}])
        self.assertEqual("invite", self.membership(room_id, BOB))
        # What the other server has not signed is no invite there.
        elsewhere = {"initial_state": [{**invite, "state_key": "@x:else.example"}]}
        self.assert_refused(self.post(self.alice, "/createRoom", elsewhere), 400, "M_INVALID_ROOM_STATE")

    def test_third_party_and_remote_invites(self) -> None:
        third = {"id_server": "id.example", "id_access_token": "x", "medium": "email", "address": "a@b.c"}
        self.create(invite_3pid=[third])
        for wrong in (
            {"medium": "pigeon"},
            {"id_server": "a b"},
            {"address": "\0"},
            {"id_access_token": "\n"},
        ):
            answer = self.post(self.alice, "/createRoom", {"invite_3pid": [{**third, **wrong}]})
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        # A server that does not answer keeps nobody from a room of their own.
        room_id = self.create(invite=["@x:else.example", BOB])
        self.assertIsNone(self.member(room_id, "@x:else.example"))
        self.assertEqual("invite", (self.member(room_id, BOB) or {}).get("membership"))


@on_each_database
class Whole(RoomsCase):
    def test_nothing_is_left_of_a_room_that_cannot_be_made(self) -> None:
        body = {
            "visibility": "public",
            "room_alias_name": "pub",
            "name": "n",
            "room_version": "11",
            "power_level_content_override": {"users": {ALICE: 0}},
        }
        answer = self.post(self.alice, "/createRoom", body)
        self.assert_refused(answer, 400, "M_INVALID_ROOM_STATE")
        missing = self.app.call("GET", f"{V3}/directory/room/%23pub:{SERVER_NAME}")
        self.assert_refused(missing, 404, "M_NOT_FOUND")
        self.assertEqual([], self.app.ok("GET", f"{V3}/joined_rooms", None, self.alice)["joined_rooms"])
        self.assertEqual([], self.app.ok("GET", f"{V3}/publicRooms", None, self.alice)["chunk"])
        self.create(room_alias_name="pub")

    def test_a_taken_alias(self) -> None:
        self.create(room_alias_name="pub")
        answer = self.post(self.bob, "/createRoom", {"room_alias_name": "pub"})
        self.assert_refused(answer, 400, "M_ROOM_IN_USE")
        self.assertEqual([], self.app.ok("GET", f"{V3}/joined_rooms", None, self.bob)["joined_rooms"])

    def test_two_who_want_one_alias_at_once(self) -> None:
        body = {"room_alias_name": "pub"}
        calls = [self.app.start("POST", f"{V3}/createRoom", body, one) for one in (self.alice, self.bob)]
        answers = [self.app.wait(call) for call in calls]
        self.assertEqual([200, 400], sorted(answer.status for answer in answers))
        refused = next(answer for answer in answers if answer.status == 400)
        self.assertEqual("M_ROOM_IN_USE", refused.json["errcode"])

    def test_a_room_of_a_restart(self) -> None:
        room_id = self.create(name="n", invite=[BOB])
        self.app.restart()
        self.ok(self.bob, f"/rooms/{room_id}/join")
        self.assertEqual({"name": "n"}, self.state(room_id, "m.room.name"))


class Malformed(RoomsCase):
    def test_wrong_types(self) -> None:
        malformed: tuple[dict[str, Any], ...] = (
            {"visibility": "secret"},
            {"name": 1},
            {"invite": "x"},
            {"invite": [1]},
            {"preset": "party"},
            {"initial_state": [{"type": "m.x"}]},
            {"initial_state": [{"content": {}}]},
            {"creation_content": []},
            {"creation_content": {"m.federate": "no"}},
            {"power_level_content_override": 1},
            {"invite": [BOB] * 501},
        )
        for body in malformed:
            self.assert_refused(self.post(self.alice, "/createRoom", body), 400, "M_BAD_JSON")

    def test_ids_that_are_none(self) -> None:
        for body in ({"invite": ["bob"]}, {"room_alias_name": "a:b"}, {"room_alias_name": "x" * 256}):
            self.assert_refused(self.post(self.alice, "/createRoom", body), 400, "M_INVALID_PARAM")

    def test_state_that_the_rules_refuse(self) -> None:
        for item in (
            {"type": "m.room.create", "content": {}},
            {"type": "m.room.member", "state_key": BOB, "content": {"membership": "join"}},
            {"type": "m.room.power_levels", "content": {"users": {ALICE: "many"}}},
            {"type": "m.room.redaction", "content": {"redacts": "$x"}},
        ):
            answer = self.post(self.alice, "/createRoom", {"initial_state": [item]})
            self.assert_refused(answer, 400, "M_INVALID_ROOM_STATE")

    def test_levels_that_are_no_integers(self) -> None:
        """Old versions take them from other servers, and some of those cannot do with them."""
        malformed: tuple[dict[str, Any], ...] = ({"ban": "50"}, {"kick": None}, {"events": {"m.x": {}}})
        for version in ("1", "9", "10"):
            for wrong in malformed:
                item = {"type": "m.room.power_levels", "content": {"users": {ALICE: 100}, **wrong}}
                for fields in ({"power_level_content_override": wrong}, {"initial_state": [item]}):
                    answer = self.post(self.alice, "/createRoom", {"room_version": version, **fields})
                    self.assert_refused(answer, 400, "M_INVALID_ROOM_STATE")

    def test_too_large(self) -> None:
        body = {"initial_state": [{"type": "m.x", "content": {"a": "x" * 70_000}}]}
        self.assert_refused(self.post(self.alice, "/createRoom", body), 413, "M_TOO_LARGE")
        self.assert_refused(self.post(self.alice, "/createRoom", {"name": "x" * 70_000}), 413, "M_TOO_LARGE")

    def test_without_a_token(self) -> None:
        self.assert_refused(self.app.call("POST", f"{V3}/createRoom", {}), 401, "M_MISSING_TOKEN")


class Cost(RoomsCase):
    def test_creating_reads_little(self) -> None:
        self.create(preset="public_chat", name="n", topic="t")
        seen: list[str] = []
        self.app.engine.hook = seen.append
        self.create(preset="public_chat", name="n", topic="t")
        reads = [text for text in seen if text.lstrip().upper().startswith("SELECT")]
        # Profiles, the new id, and what the committer looks at.
        self.assertLessEqual(len(reads), 3, reads)
