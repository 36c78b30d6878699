"""Whatever a client sends to these endpoints, the answer is a specified one: never a fault of ours."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.http.route import Route
from tests.support.accounts import AccountsWorld, WorldCase
from tests.support.databases import on_each_database
from tests.support.http import path_of

ROOM_ID = "!room:home.example"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
KEYS = st.sampled_from(
    [
        *("auth", "type", "session", "user", "identifier", "password", "token", "username", "device_id"),
        *(
            "initial_device_display_name",
            "refresh_token",
            "inhibit_login",
            "new_password",
            "erase",
            "devices",
        ),
        *("display_name", "displayname", "avatar_url", "order", "tags", "room", "timeline", "rooms", "limit"),
        *(
            "medium",
            "address",
            "nonce",
            "mac",
            "admin",
            "user_type",
            "logout_devices",
            "org.example.x",
            "senders",
        ),
    ]
)
WORDS = st.sampled_from(
    [
        *(
            "m.login.password",
            "m.login.dummy",
            "m.login.token",
            "m.id.user",
            "m.id.phone",
            "alice",
            "\0",
            "!a:b",
        ),
        *("@alice:home.example", "correct horse", "PHONE", "x" * 300, "mxc://home.example/a", "sesame"),
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXT, inner, max_size=4),
    max_leaves=10,
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=5) | VALUES
SEGMENTS = (
    st.sampled_from(["PHONE", "org.example.x", "displayname", "m.tag", "0", "x" * 300, "@x:y", "a b"]) | TEXT
)
# What ends the token that the others need, and is tested elsewhere.
SPARED = ("/logout", "/account/deactivate")


@on_each_database
class Hostile(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice", device_id="PHONE")
        self.world.interner.new_room(ROOM_ID, "11")

    def routes(self) -> list[Route]:
        routes = self.world.router.routes
        return [route for route in routes if not any(part in route.template for part in SPARED)]

    def test_every_endpoint(self) -> None:
        @settings(max_examples=300, deadline=None, database=None)
        @given(st.sampled_from(self.routes()), BODIES, st.data())
        def check(route: Route, body: Any, data: st.DataObject) -> None:
            status = send(self.world, route, body, data, self.token)
            self.assertNotEqual(500, status)

        check()
        self.assertEqual([], self.world.failures)

    def test_what_is_no_json(self) -> None:
        bodies = [
            b"\xff\xfe",
            b"{" * 5000,
            b'{"a":' * 200,
            b'{"auth":"\\ud800"}',
            b"[]",
            b"null",
            b'{"a":1e999}',
            b"",
        ]
        for route in self.routes():
            for body in bodies:
                status = self.world.http.now(route.method, fill(route, "x"), body, self.token).status
                self.assertNotEqual(500, status, (route.template, body))
        self.assertEqual([], self.world.failures)


def fill(route: Route, segment: str) -> str:
    """The route's path with our own user and room, and the segment wherever something else is named."""
    names = {part[0]: segment for part in route.segments() if not isinstance(part, str)}
    known = {"user_id": "@alice:home.example", "room_id": ROOM_ID}
    template = "/".join("{" + part[0] + "}" if isinstance(part, tuple) else part for part in route.segments())
    return path_of(f"/{template}", **{name: known.get(name, value) for name, value in names.items()})


def send(world: AccountsWorld, route: Route, body: Any, data: st.DataObject, token: str) -> int:
    path = fill(route, data.draw(SEGMENTS))
    query = data.draw(st.dictionaries(st.sampled_from(["username", "token", "kind"]), TEXT, max_size=2))
    session = next(reversed(world.interactive._sessions), None)
    if isinstance(body, dict) and isinstance(body.get("auth"), dict) and session is not None:
        body["auth"].setdefault("session", session)
    return world.http.now(route.method, path, body, token, query).status
