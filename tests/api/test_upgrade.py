"""POST /rooms/{roomId}/upgrade. spec: client-server-api#room-upgrades"""

from __future__ import annotations

from typing import Any
from unittest import mock
from urllib.parse import quote

from twisted.internet.defer import Deferred

from federation.ids import EventId, RoomId, UserId
from homeserver.db.errors import DatabaseUnavailable
from homeserver.rooms.send import redaction
from tests.api.rooms import ALICE, BOB, CAROL, V3, RoomsCase
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database

POWER_LEVELS = "m.room.power_levels"


class UpgradeCase(RoomsCase):
    def upgrade(self, room_id: str, version: str, token: str | None = None, **others: Any) -> str:
        body = {"new_version": version, **others}
        new_id: str = self.ok(token or self.alice, f"/rooms/{room_id}/upgrade", body)["replacement_room"]
        return new_id

    def resolve(self, name: str) -> str:
        found: str = self.app.ok("GET", f"{V3}/directory/room/{quote(f'#{name}:{SERVER_NAME}')}")["room_id"]
        return found


@on_each_database
class Copying(UpgradeCase):
    def test_between_many_versions(self) -> None:
        for old, new in (
            ("1", "11"),
            ("6", "10"),
            ("10", "12"),
            ("11", "12"),
            ("12", "12"),
            ("12", "11"),
            ("12", "1"),
        ):
            room_id = self.create(
                preset="public_chat",
                room_version=old,
                name="Pub",
                topic="Beer",
                initial_state=[
                    {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                    {"type": "m.room.server_acl", "content": {"allow": ["*"], "deny": ["bad.example"]}},
                    {"type": "m.room.avatar", "content": {"url": "mxc://a/b"}},
                    {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}},
                    {"type": "m.room.pinned_events", "content": {"pinned": ["$a"]}},
                ],
            )
            new_id = self.upgrade(room_id, new)
            self.assertEqual(new, self.state(new_id, "m.room.create")["room_version"])
            for event_type in (
                "m.room.encryption",
                "m.room.server_acl",
                "m.room.avatar",
                "m.room.history_visibility",
                "m.room.name",
                "m.room.topic",
                "m.room.join_rules",
                "m.room.guest_access",
            ):
                self.assertEqual(self.state(room_id, event_type), self.state(new_id, event_type), (old, new))
            self.assertIsNone(self.state(new_id, "m.room.pinned_events"))
            tombstone = self.state(room_id, "m.room.tombstone")
            self.assertEqual(new_id, tombstone["replacement_room"])
            predecessor = self.state(new_id, "m.room.create")["predecessor"]
            self.assertEqual(room_id, predecessor["room_id"])
            self.assertIn(predecessor["event_id"], [event.event_id for event in self.events(room_id)])

    def test_the_predecessor_names_the_tombstone_where_it_can(self) -> None:
        room_id = self.create(room_version="10")
        new_id = self.upgrade(room_id, "11")
        tombstone = next(event for event in self.events(room_id) if event.type == "m.room.tombstone")
        predecessor = {"room_id": room_id, "event_id": tombstone.event_id}
        self.assertEqual(predecessor, self.state(new_id, "m.room.create")["predecessor"])

    def test_a_space_keeps_its_kind_and_its_children(self) -> None:
        children = {f"!child{number}:{SERVER_NAME}": {"via": [SERVER_NAME]} for number in range(3)}
        state = [
            {"type": "m.space.child", "state_key": key, "content": content}
            for key, content in children.items()
        ]
        gone = {"type": "m.space.child", "state_key": "!gone:a", "content": {}}
        content = {"type": "m.space", "m.federate": False, "org.example": 1}
        room_id = self.create(room_version="11", creation_content=content, initial_state=[*state, gone])
        new_id = self.upgrade(room_id, "12")
        create = self.state(new_id, "m.room.create")
        self.assertEqual(("m.space", False), (create["type"], create["m.federate"]))
        self.assertNotIn("org.example", create)
        for key, via in children.items():
            self.assertEqual(via, self.state(new_id, "m.space.child", key))
        self.assertIsNone(self.state(new_id, "m.space.child", "!gone:a"))

    def test_the_children_of_a_space_keep_their_order(self) -> None:
        """Where nothing else orders them, it is when they were added that does."""
        room_id = self.create(room_version="11", creation_content={"type": "m.space"})
        keys = [f"!{name}:{SERVER_NAME}" for name in "ecadb"]
        for key in keys:
            self.app.advance(1)
            self.app.ok(
                "PUT", f"{V3}/rooms/{room_id}/state/m.space.child/{key}", {"via": [SERVER_NAME]}, self.alice
            )
        new_id = self.upgrade(room_id, "12")
        self.assertEqual(keys, self.in_space(new_id))
        # Nor does the order need the clock to go on.
        now_ms = int(self.app.time.rightNow * 1_000)
        times = [event.origin_server_ts for event in self.events(new_id) if event.type == "m.space.child"]
        self.assertLessEqual(max(times), now_ms)
        self.assertEqual(keys, self.in_space(self.upgrade(new_id, "12")))

    def in_space(self, room_id: str) -> list[str]:
        """The children of a space as the specification orders those without an order of their own."""
        children = [event for event in self.events(room_id) if event.type == "m.space.child"]
        children.sort(key=lambda event: (event.origin_server_ts, event.state_key))
        return [event.state_key or "" for event in children]

    def test_the_banned_stay_banned(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        for number in range(150):
            user_id = f"@spam{number}:else.example"
            self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": user_id, "reason": "spam"})
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        self.ok(self.alice, f"/rooms/{room_id}/unban", {"user_id": BOB})
        new_id = self.upgrade(room_id, "12")
        self.assertEqual(
            {"membership": "ban", "reason": "spam"}, self.member(new_id, "@spam149:else.example")
        )
        self.assertIsNone(self.member(new_id, BOB))

    def test_the_banned_who_had_all_the_power(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        self.put_state(self.alice, room_id, POWER_LEVELS, {"users": {ALICE: 100, BOB: 100, CAROL: 100}})
        for version in ("11", "12"):
            new_id = self.upgrade(room_id, version)
            self.assertEqual({"membership": "ban"}, self.member(new_id, BOB))
            users = self.state(new_id, POWER_LEVELS)["users"]
            self.assertEqual((100, 100), (users[BOB], users[CAROL]))

    def test_what_was_redacted_stays_behind(self) -> None:
        room_id = self.create(
            preset="public_chat",
            name="Pub",
            topic="Offensive",
            initial_state=[
                {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                {"type": "m.room.server_acl", "content": {"allow": ["*"], "deny": ["bad.example"]}},
            ],
        )
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": CAROL, "reason": "Offensive"})
        for event_type, key in (
            ("m.room.topic", ""),
            ("m.room.encryption", ""),
            ("m.room.guest_access", ""),
            ("m.room.member", CAROL),
        ):
            path = f"{V3}/rooms/{room_id}/state/{event_type}/{quote(key)}?format=event"
            event_id = self.app.ok("GET", path, token=self.alice)["event_id"]
            self.app.ok("PUT", f"{V3}/rooms/{room_id}/redact/{event_id}/t{event_type}", {}, self.alice)
        self.redact_acls(room_id)
        new_id = self.upgrade(room_id, "12")
        self.assertEqual({"name": "Pub"}, self.state(new_id, "m.room.name"))
        for event_type in ("m.room.topic", "m.room.guest_access"):
            self.assertIsNone(self.state(new_id, event_type))
        # These keep others out: nobody opens a room by taking them away.
        self.assertEqual(["bad.example"], self.state(new_id, "m.room.server_acl")["deny"])
        self.assertIn("algorithm", self.state(new_id, "m.room.encryption"))
        self.assertEqual({"membership": "ban"}, self.member(new_id, CAROL))

    def redact_acls(self, room_id: str) -> None:
        """As another server might: here nobody can."""
        path = f"{V3}/rooms/{room_id}/state/m.room.server_acl"
        event_id = self.app.ok("GET", f"{path}?format=event", token=self.alice)["event_id"]
        actor = self.app.app.core.rooms.known(RoomId(room_id))
        assert actor is not None
        draft = redaction(RoomId(room_id), UserId(ALICE), EventId(event_id), {})
        self.app.wait(actor.run(lambda turn: turn.place(draft, redacts_target=EventId(event_id))))
        self.assertEqual({}, self.app.ok("GET", path, token=self.alice))

    def test_join_rules_that_the_new_version_does_not_know(self) -> None:
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!a:b"}]}
        state = [{"type": "m.room.join_rules", "content": rules}]
        room_id = self.create(room_version="11", initial_state=state)
        self.assertEqual({"join_rule": "invite"}, self.state(self.upgrade(room_id, "7"), "m.room.join_rules"))
        room_id = self.create(room_version="11", initial_state=state)
        self.assertEqual(rules, self.state(self.upgrade(room_id, "12"), "m.room.join_rules"))

    def test_floats_do_not_stop_an_upgrade(self) -> None:
        state = [{"type": "m.room.avatar", "content": {"url": "mxc://a/b", "info": {"w": 1.5}}}]
        room_id = self.create(room_version="5", initial_state=state, name="n")
        new_id = self.upgrade(room_id, "12")
        self.assertIsNone(self.state(new_id, "m.room.avatar"))
        self.assertEqual({"name": "n"}, self.state(new_id, "m.room.name"))


class Power(UpgradeCase):
    def test_to_privileged_creators(self) -> None:
        room_id = self.create(
            room_version="11", power_level_content_override={"users": {ALICE: 100, BOB: 50}, "ban": 60}
        )
        new_id = self.upgrade(room_id, "12", additional_creators=[CAROL])
        levels = self.state(new_id, POWER_LEVELS)
        self.assertEqual(({BOB: 50}, 60), (levels["users"], levels["ban"]))
        self.assertGreater(levels["events"]["m.room.tombstone"], levels["state_default"])
        self.assertEqual([CAROL], self.state(new_id, "m.room.create")["additional_creators"])

    def test_additional_creators_are_not_handed_on_nor_known_to_old_versions(self) -> None:
        room_id = self.create(creation_content={"additional_creators": [BOB]})
        new_id = self.upgrade(room_id, "12")
        self.assertNotIn("additional_creators", self.state(new_id, "m.room.create"))
        self.assertNotIn(
            "additional_creators",
            self.state(self.upgrade(new_id, "11", additional_creators=[BOB]), "m.room.create"),
        )

    def test_from_privileged_creators_the_upgrader_can_do_everything(self) -> None:
        room_id = self.create(power_level_content_override={"users": {BOB: 200}})
        levels = self.state(self.upgrade(room_id, "11"), POWER_LEVELS)
        self.assertEqual({ALICE: 200, BOB: 200}, levels["users"])

    def test_a_moderator_who_upgrades_is_a_moderator_again(self) -> None:
        override = {"users": {ALICE: 100, BOB: 50}, "events": {"m.room.tombstone": 50}}
        room_id = self.create(preset="public_chat", room_version="10", power_level_content_override=override)
        self.ok(self.bob, f"/join/{room_id}")
        new_id = self.upgrade(room_id, "11", self.bob)
        self.assertEqual({ALICE: 100, BOB: 50}, self.state(new_id, POWER_LEVELS)["users"])

    def test_levels_as_strings_become_integers(self) -> None:
        room_id = self.create(room_version="5")
        odd = {"users": {ALICE: "100"}, "ban": "70", "kick": "junk", "events": {"m.room.name": " 30 "}}
        self.put_state(self.alice, room_id, POWER_LEVELS, odd)
        levels = self.state(self.upgrade(room_id, "11"), POWER_LEVELS)
        self.assertEqual(
            (100, 70, 30), (levels["users"][ALICE], levels["ban"], levels["events"]["m.room.name"])
        )
        self.assertNotIn("kick", levels)

    def test_the_old_room_falls_silent(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.upgrade(room_id, "12")
        levels = self.state(room_id, POWER_LEVELS)
        self.assertEqual((50, 50), (levels["events_default"], levels["invite"]))


@on_each_database
class Names(UpgradeCase):
    def test_aliases_and_the_directory_follow(self) -> None:
        room_id = self.create(visibility="public", room_alias_name="one", room_version="11")
        path = f"{V3}/directory/room/{quote(f'#two:{SERVER_NAME}')}"
        self.app.ok("PUT", path, {"room_id": room_id}, self.alice)
        content = {"alias": f"#one:{SERVER_NAME}", "alt_aliases": [f"#two:{SERVER_NAME}", "#x:else.example"]}
        self.put_state(self.alice, room_id, "m.room.canonical_alias", content)
        new_id = self.upgrade(room_id, "12")
        self.assertEqual([new_id, new_id], [self.resolve("one"), self.resolve("two")])
        moved = {"alias": f"#one:{SERVER_NAME}", "alt_aliases": [f"#two:{SERVER_NAME}"]}
        self.assertEqual(moved, self.state(new_id, "m.room.canonical_alias"))
        self.assertEqual({"alt_aliases": ["#x:else.example"]}, self.state(room_id, "m.room.canonical_alias"))
        listed = self.app.ok("GET", f"{V3}/publicRooms", None, self.alice)["chunk"]
        self.assertEqual([new_id], [one["room_id"] for one in listed])

    def test_who_asks_twice_is_given_the_same_room(self) -> None:
        room_id = self.create(visibility="public", room_alias_name="one", room_version="11")
        path, body = f"{V3}/rooms/{room_id}/upgrade", {"new_version": "12"}
        asked = [self.app.start("POST", path, body, self.alice) for _ in range(2)]
        new_ids = {self.app.wait(one).json["replacement_room"] for one in asked}
        # A proxy may have given up on the answer.
        self.app.advance(60)
        new_ids.add(self.upgrade(room_id, "12"))
        new_id = self.state(room_id, "m.room.tombstone")["replacement_room"]
        self.assertEqual(({new_id}, new_id), (new_ids, self.resolve("one")))
        listed = self.app.ok("GET", f"{V3}/publicRooms", None, self.alice)["chunk"]
        self.assertEqual([new_id], [one["room_id"] for one in listed])
        # What is asked for is another thing, and later may be another wish.
        self.assertNotEqual(new_id, self.upgrade(room_id, "12", additional_creators=[BOB]))
        self.app.advance(1_000)
        self.assertNotEqual(new_id, self.upgrade(room_id, "12"))

    def test_a_server_that_stops_waits_for_none(self) -> None:
        room_id = self.create(room_version="11")
        broken_off: list[object] = []
        waiting: Deferred[None] = Deferred(broken_off.append)
        with mock.patch.object(self.app.app.services.rooms.upgrades, "_whole", lambda _: waiting):
            self.app.start("POST", f"{V3}/rooms/{room_id}/upgrade", {"new_version": "12"}, self.alice)
            self.app.restart()
        self.assertEqual([waiting], broken_off)
        new_id = self.upgrade(room_id, "12")
        self.assertEqual(new_id, self.state(room_id, "m.room.tombstone")["replacement_room"])

    def test_tags_and_direct_chats_follow_each_member(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.ok(self.bob, f"/join/{room_id}")
        for user_id, token in ((ALICE, self.alice), (BOB, self.bob)):
            path = f"{V3}/user/{user_id}/rooms/{room_id}/tags/m.favourite"
            self.app.ok("PUT", path, {"order": 0.5}, token)
        self.app.ok("PUT", f"{V3}/user/{BOB}/account_data/m.direct", {ALICE: [room_id]}, self.bob)
        new_id = self.upgrade(room_id, "12")
        self.ok(self.bob, f"/join/{new_id}")
        for user_id, token in ((ALICE, self.alice), (BOB, self.bob)):
            tags = self.app.ok("GET", f"{V3}/user/{user_id}/rooms/{new_id}/tags", None, token)
            self.assertEqual({"tags": {"m.favourite": {"order": 0.5}}}, tags)
        direct = self.app.ok("GET", f"{V3}/user/{BOB}/account_data/m.direct", None, self.bob)
        self.assertEqual({ALICE: [room_id, new_id]}, direct)

    def test_tags_follow_who_joins_by_a_member_event_too(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.ok(self.bob, f"/join/{room_id}")
        self.app.ok("PUT", f"{V3}/user/{BOB}/rooms/{room_id}/tags/u.pub", {"order": 0.2}, self.bob)
        new_id = self.upgrade(room_id, "12")
        member = f"{V3}/rooms/{new_id}/state/m.room.member/{BOB}"
        tags = f"{V3}/user/{BOB}/rooms/{new_id}/tags"
        self.app.ok("PUT", member, {"membership": "join"}, self.bob)
        self.assertEqual({"u.pub": {"order": 0.2}}, self.app.ok("GET", tags, token=self.bob)["tags"])
        # Who changes their name in the new room has not come there again.
        self.app.ok("DELETE", f"{tags}/u.pub", None, self.bob)
        self.app.ok("PUT", member, {"membership": "join", "displayname": "Bobby"}, self.bob)
        self.assertEqual({}, self.app.ok("GET", tags, token=self.bob)["tags"])

    def test_push_rules_follow_each_member(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        self.ok(self.bob, f"/join/{room_id}")
        rules = f"{V3}/pushrules/global"
        self.app.ok("PUT", f"{rules}/room/{room_id}", {"actions": []}, self.bob)
        muted = {
            "conditions": [{"kind": "event_match", "key": "room_id", "pattern": room_id}],
            "actions": [],
        }
        self.app.ok("PUT", f"{rules}/override/{room_id}", muted, self.alice)
        self.app.ok("PUT", f"{rules}/override/other", muted, self.alice)
        new_id = self.upgrade(room_id, "12")
        # Twice, as one may come and go: nothing is doubled.
        for _ in range(2):
            self.ok(self.bob, f"/join/{new_id}")
            self.ok(self.bob, f"/rooms/{new_id}/leave")
        self.assertEqual([], self.app.ok("GET", f"{rules}/room/{new_id}", None, self.bob)["actions"])
        found = self.app.ok("GET", f"{V3}/pushrules/", None, self.alice)["global"]
        own = [rule["rule_id"] for rule in found["override"] if not rule["default"]]
        self.assertEqual({"other", room_id, new_id}, set(own))
        self.assertEqual(3, len(own))
        condition = self.app.ok("GET", f"{rules}/override/{new_id}", None, self.alice)["conditions"][0]
        self.assertEqual(new_id, condition["pattern"])
        listed = self.app.ok("GET", f"{V3}/pushrules/", None, self.bob)["global"]["room"]
        self.assertEqual({room_id, new_id}, {rule["rule_id"] for rule in listed})

    def test_a_false_predecessor_gives_nothing_away(self) -> None:
        room_id = self.create(preset="public_chat")
        self.app.ok("PUT", f"{V3}/user/{ALICE}/rooms/{room_id}/tags/m.favourite", {}, self.alice)
        other = self.create(
            self.bob, creation_content={"predecessor": {"room_id": room_id}}, preset="public_chat"
        )
        carol = self.app.register("carol")
        self.ok(carol, f"/join/{other}")
        tags = self.app.ok("GET", f"{V3}/user/{CAROL}/rooms/{other}/tags", None, carol)
        self.assertEqual({"tags": {}}, tags)


class Refusals(UpgradeCase):
    def test_refusals(self) -> None:
        room_id = self.create(preset="public_chat", room_version="11")
        path = f"/rooms/{room_id}/upgrade"
        self.assert_refused(
            self.post(self.alice, path, {"new_version": "99"}), 400, "M_UNSUPPORTED_ROOM_VERSION"
        )
        self.assert_refused(self.post(self.alice, path, {}), 400, "M_BAD_JSON")
        self.assert_refused(self.post(self.alice, path, {"new_version": 12}), 400, "M_BAD_JSON")
        body = {"new_version": "12", "additional_creators": ["x"]}
        self.assert_refused(self.post(self.alice, path, body), 400, "M_INVALID_PARAM")
        self.assert_refused(self.post(self.bob, path, {"new_version": "12"}), 403, "M_FORBIDDEN")
        self.ok(self.bob, f"/join/{room_id}")
        self.assert_refused(self.post(self.bob, path, {"new_version": "12"}), 403, "M_FORBIDDEN")
        unknown = self.post(self.alice, f"/rooms/!a:{SERVER_NAME}/upgrade", {"new_version": "12"})
        self.assert_refused(unknown, 404, "M_NOT_FOUND")
        self.assertIsNone(self.state(room_id, "m.room.tombstone"))

    def test_who_is_banned_does_not_become_a_creator(self) -> None:
        room_id = self.create(room_version="11")
        self.ok(self.alice, f"/rooms/{room_id}/ban", {"user_id": BOB})
        body = {"new_version": "12", "additional_creators": [CAROL, BOB]}
        refused = self.post(self.alice, f"/rooms/{room_id}/upgrade", body)
        self.assert_refused(refused, 400, "M_INVALID_PARAM")
        joined = self.app.ok("GET", f"{V3}/joined_rooms", None, self.alice)["joined_rooms"]
        self.assertEqual([room_id], joined)

    def test_the_old_room_lives_where_the_new_one_cannot_be_made(self) -> None:
        room_id = self.create(room_version="10", room_alias_name="one")

        def fail(text: str) -> None:
            if text == "COMMIT":
                raise DatabaseUnavailable("the disk is full")

        self.app.engine.hook = fail
        status, _ = self.post(self.alice, f"/rooms/{room_id}/upgrade", {"new_version": "11"})
        self.app.engine.hook = None
        self.assertGreaterEqual(status, 500)
        self.flush_errors()
        self.assertIsNone(self.state(room_id, "m.room.tombstone"))
        self.assertEqual(room_id, self.resolve("one"))
        self.assertEqual(self.upgrade(room_id, "11"), self.resolve("one"))

    def flush_errors(self) -> None:
        """The server wrote of the failure, as it should."""
        self.app.log.entries[:] = [entry for entry in self.app.log.entries if entry[0] != "error"]
