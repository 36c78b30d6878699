"""Auth event selection. # spec: server-server-api#auth-events-selection"""

from twisted.trial.unittest import SynchronousTestCase

from federation.auth.select import auth_keys_for
from federation.versions import ROOM_VERSIONS
from tests.unit.federation.auth.room import ALICE, BOB, CHARLIE

CREATE, POWER, RULES = ("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")


def member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


class SelectionTests(SynchronousTestCase):
    def keys(self, version: str, *arguments: object) -> list[tuple[str, str]]:
        keys = auth_keys_for(ROOM_VERSIONS[version], *arguments)  # type: ignore[arg-type]
        self.assertEqual(len(keys), len(set(keys)), "a key is repeated")
        return keys

    def test_create_is_authorised_by_nothing(self) -> None:
        for version in ROOM_VERSIONS:
            self.assertEqual(self.keys(version, "m.room.create", ALICE, "", {}), [])

    def test_message_and_the_create_event(self) -> None:
        for version in ROOM_VERSIONS:
            expected = {POWER, member(ALICE)} | ({CREATE} if version != "12" else set())
            self.assertEqual(set(self.keys(version, "m.room.message", ALICE, None, {})), expected)
            self.assertEqual(set(self.keys(version, "m.room.topic", ALICE, "", {})), expected)

    def test_member_events_by_membership(self) -> None:
        base = {CREATE, POWER, member(ALICE), member(BOB)}
        for membership, extra in {
            "join": {RULES},
            "invite": {RULES},
            "knock": {RULES},
            "leave": set(),
            "ban": set(),
            "nonsense": set(),
        }.items():
            keys = self.keys("11", "m.room.member", ALICE, BOB, {"membership": membership})
            self.assertEqual(set(keys), base | extra, membership)

    def test_own_join_has_one_member_key(self) -> None:
        keys = self.keys("11", "m.room.member", BOB, BOB, {"membership": "join"})
        self.assertEqual(set(keys), {CREATE, POWER, RULES, member(BOB)})

    def test_authorising_member_only_from_version_8_and_only_for_joins(self) -> None:
        for version in ROOM_VERSIONS:
            for membership in ("join", "leave", "invite"):
                content = {"membership": membership, "join_authorised_via_users_server": CHARLIE}
                keys = self.keys(version, "m.room.member", BOB, BOB, content)
                self.assertEqual(member(CHARLIE) in keys, int(version) >= 8 and membership == "join")

    def test_third_party_invite_token(self) -> None:
        content = {"membership": "invite", "third_party_invite": {"signed": {"token": "abc"}}}
        keys = self.keys("1", "m.room.member", ALICE, BOB, content)
        self.assertIn(("m.room.third_party_invite", "abc"), keys)

    def test_hostile_content_selects_without_raising(self) -> None:
        for content in (
            {"membership": ["join"]},
            {"membership": {}, "third_party_invite": 3},
            {"membership": "invite", "third_party_invite": {"signed": []}},
            {"membership": "invite", "third_party_invite": {"signed": {"token": {}}}},
            {"membership": "join", "join_authorised_via_users_server": 7},
            {},
        ):
            keys = self.keys("12", "m.room.member", ALICE, BOB, content)
            self.assertLessEqual({POWER, member(ALICE), member(BOB)}, set(keys))
        self.assertEqual(set(self.keys("12", "m.room.member", ALICE, None, {})), {POWER, member(ALICE)})
