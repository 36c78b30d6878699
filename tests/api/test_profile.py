"""Profiles. spec: client-server-api#profiles"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.accounts.profiles import Profiles
from homeserver.http.errors import MatrixError
from homeserver.store.changes import Kind
from homeserver.store.profiles import load_names_and_avatars
from tests.support.accounts import SERVER_NAME, WorldCase, now
from tests.support.databases import on_each_database

ME = "/v3/profile/@alice:home.example"
AVATAR = "mxc://home.example/abc_DEF-1"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\0é", max_size=3), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@on_each_database
class ProfileFields(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice")

    def put(self, field: str, value: Any, token: str | None = None) -> Any:
        return self.world.call("PUT", f"{ME}/{field}", {field: value}, token or self.token)

    def get(self, field: str = "") -> Any:
        return self.world.call("GET", f"{ME}/{field}" if field else ME)

    def told(self) -> list[tuple[str, Any]]:
        """The changes of the profile that the log tells, after the first name."""
        told = [change.payload for change in self.world.changes if change.kind == Kind.PROFILE]
        return [(changed.field, changed.value) for changed in told[1:]]

    def test_name_and_picture(self) -> None:
        self.assertEqual(
            (200, {}), (self.put("displayname", "Alice").status, self.put("avatar_url", AVATAR).json)
        )
        self.assertEqual({"displayname": "Alice"}, self.get("displayname").json)
        self.assertEqual({"displayname": "Alice", "avatar_url": AVATAR}, self.get().json)
        self.assertEqual([("displayname", "Alice"), ("avatar_url", AVATAR)], self.told())
        user_nid = self.world.interner.known_user("@alice:home.example")
        assert user_nid is not None
        several = now(self.world.database.read(load_names_and_avatars, [user_nid, 999]))
        self.assertEqual({user_nid: {"displayname": "Alice", "avatar_url": AVATAR}}, several)

    def test_nothing_happens_where_nothing_changes(self) -> None:
        self.put("displayname", "Alice")
        before = len(self.world.changes)
        self.put("displayname", "Alice")
        self.assertEqual((1, before), (len(self.told()), len(self.world.changes)))

    def test_the_ways_to_clear(self) -> None:
        for clear in (lambda: self.put("displayname", ""), lambda: self.put("displayname", None),
                      lambda: self.world.call("DELETE", f"{ME}/displayname", token=self.token)):  # fmt: skip
            self.put("displayname", "Alice")
            self.assertEqual(200, clear().status)
            self.assertEqual(
                (404, "M_NOT_FOUND"), (self.get("displayname").status, self.get("displayname").errcode)
            )
            self.assertEqual(("displayname", None), self.told()[-1])
        self.assertEqual(200, self.world.call("DELETE", f"{ME}/displayname", token=self.token).status)

    def test_custom_fields(self) -> None:
        value = {"deep": [1, None, {"ü": "\0"}], "big": 2**70}
        self.assertEqual(200, self.put("org.example.job", value).status)
        self.assertEqual({"org.example.job": value}, self.get("org.example.job").json)
        self.assertEqual(200, self.put("org.example.none", None).status)
        self.assertEqual({"org.example.none": None}, self.get("org.example.none").json)
        self.assertEqual([("org.example.job", value), ("org.example.none", None)], self.told())

    def test_under_their_old_path(self) -> None:
        """As clients ask that know no other, and go by what ``/versions`` says."""
        old = "/unstable/uk.tcpip.msc4133/profile/@alice:home.example"
        answer = self.world.call("PUT", f"{old}/m.tz", {"m.tz": "Europe/Berlin"}, self.token)
        self.assertEqual((200, {}), (answer.status, answer.json))
        for path in (f"{old}/m.tz", old):
            self.assertEqual("Europe/Berlin", self.world.call("GET", path).json["m.tz"])
        self.assertEqual(200, self.world.call("DELETE", f"{old}/m.tz", token=self.token).status)
        self.assertEqual(404, self.get("m.tz").status)

    def test_bad_values(self) -> None:
        for field, value, errcode in (
            ("displayname", 5, "M_INVALID_PARAM"),
            ("displayname", "x" * 257, "M_TOO_LARGE"),
            ("avatar_url", "https://a.example/b", "M_INVALID_PARAM"),
            ("avatar_url", "mxc://home.example/a/b", "M_INVALID_PARAM"),
            ("avatar_url", "mxc://not a server/a", "M_INVALID_PARAM"),
            ("m.tz", 5, "M_INVALID_PARAM"),
            ("org.example.big", "x" * 65_536, "M_PROFILE_TOO_LARGE"),
            ("UPPER", 1, "M_INVALID_PARAM"),
            ("1a", 1, "M_INVALID_PARAM"),
            ("a" * 256, 1, "M_KEY_TOO_LARGE"),
        ):
            answer = self.put(field, value)
            self.assertEqual((400, errcode), (answer.status, answer.errcode), field)
        missing = self.world.call("PUT", f"{ME}/m.tz", {"other": 1}, self.token)
        self.assertEqual((400, "M_MISSING_PARAM"), (missing.status, missing.errcode))
        self.assertEqual("M_BAD_JSON", self.world.call("PUT", f"{ME}/m.tz", [], self.token).errcode)

    def test_the_whole_profile_is_bounded(self) -> None:
        statuses = [self.put(f"org.example.f{number}", "x" * 20_000).status for number in range(4)]
        self.assertEqual([200, 200, 200, 400], statuses)
        self.assertLess(len(self.get().body), 65_536)
        self.assertEqual(200, self.put("org.example.f0", "small").status)
        self.assertEqual(200, self.put("org.example.f3", "x" * 20_000).status)

    def test_only_ones_own(self) -> None:
        bob = self.world.token_of("bob")
        answer = self.put("displayname", "Bob was here", bob)
        self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode))
        deleted = self.world.call("DELETE", f"{ME}/displayname", token=bob)
        self.assertEqual((403, "M_FORBIDDEN"), (deleted.status, deleted.errcode))

    def test_unknown_users(self) -> None:
        for user_id in ("@nobody:home.example", "@alice:other.example"):
            answer = self.world.call("GET", f"/v3/profile/{user_id}")
            self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))
        self.assertEqual(400, self.world.call("GET", "/v3/profile/alice").status)

    def test_remote_profiles_are_asked_for(self) -> None:
        asked: list[Any] = []

        async def fetch(user_id: str, field: str | None, asker: str | None) -> dict[str, Any] | None:
            asked.append((user_id, field, asker))
            return {"displayname": "Far"} if user_id.startswith("@far") else None

        world = self.world
        profiles = Profiles(SERVER_NAME, world.database, world.worker, world.interner, fetch_remote=fetch)
        self.assertEqual(
            {"displayname": "Far"}, now(profiles.load("@far:other.example", "displayname", asker="x"))
        )
        with self.assertRaises(MatrixError):
            now(profiles.load("@far:other.example", "avatar_url"))
        with self.assertRaises(MatrixError):
            now(profiles.load("@gone:other.example"))
        self.assertEqual(("@far:other.example", "displayname", "x"), asked[0])

    def test_any_json_comes_back(self) -> None:
        @settings(max_examples=60, deadline=None, database=None)
        @given(JSON_VALUES)
        def check(value: Any) -> None:
            self.assertEqual(200, self.put("org.example.any", value).status)
            self.assertEqual({"org.example.any": value}, self.get("org.example.any").json)

        check()
