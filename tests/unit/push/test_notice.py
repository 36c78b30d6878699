"""Bodies for push gateways, and what they answer. spec: push-gateway-api#post_matrixpushv1notify"""

from __future__ import annotations

from typing import Any
from unittest import TestCase

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from homeserver.push.notice import (
    Reply,
    Subject,
    build_badge,
    build_notice,
    parse_address,
    parse_reply,
    tweaks_of,
)
from homeserver.store.pushers import Pusher
from tests.unit.push.samples import make_event


def pusher(**data: Any) -> Pusher:
    text = msgspec.json.encode(data).decode()
    return Pusher(1, "app", "key", "http", "App", "Phone", None, "en", text, 0, 12_345_678)


class Addresses(TestCase):
    def test_data_without_the_address(self) -> None:
        address = parse_address(pusher(url="https://x/", own={"a": 1}))
        assert address is not None
        self.assertEqual(
            ("https://x/", {"own": {"a": 1}}, 12_345), (address.url, address.data, address.pushkey_ts)
        )

    def test_no_address(self) -> None:
        self.assertIsNone(parse_address(pusher()))
        self.assertIsNone(parse_address(pusher(url=1)))


class Bodies(TestCase):
    def notice(self, subject: Subject, actions: Any = ("notify",), unread: int = 1, **data: Any) -> Any:
        address = parse_address(pusher(url="https://x/", **data))
        assert address is not None
        return msgspec.json.decode(build_notice(address, subject, actions, unread))["notification"]

    def test_counts_of_zero_are_left_out(self) -> None:
        self.assertEqual({}, self.notice(Subject(make_event()), unread=0)["counts"])

    def test_but_said_where_nothing_else_is(self) -> None:
        address = parse_address(pusher(url="https://x/"))
        assert address is not None
        self.assertEqual(
            {"unread": 0}, msgspec.json.decode(build_badge(address, 0))["notification"]["counts"]
        )

    def test_long_names_are_cut(self) -> None:
        found = self.notice(Subject(make_event(), room_name="x" * 100_000, sender_name=""))
        self.assertEqual(255, len(found["room_name"]))
        self.assertNotIn("sender_display_name", found)

    def test_memberships(self) -> None:
        event = make_event("m.room.member", {"membership": 5}, state_key="@me:x")
        found = self.notice(Subject(event, is_target=True))
        self.assertIs(True, found["user_is_target"])
        self.assertNotIn("membership", found)

    def test_tweaks(self) -> None:
        self.assertEqual(
            {"sound": "x", "highlight": True, "own": {"a": 1}, "other": None},
            tweaks_of(
                [
                    "notify",
                    {"set_tweak": "sound", "value": "x"},
                    {"set_tweak": "highlight"},
                    {"set_tweak": "own", "value": {"a": 1}},
                    {"set_tweak": "other", "value": None},
                    {"set_tweak": "nothing"},
                    {"set_tweak": 5},
                    5,
                ]
            ),
        )
        self.assertIs(False, tweaks_of([{"set_tweak": "highlight", "value": False}])["highlight"])


class Replies(TestCase):
    def test_rejections(self) -> None:
        self.assertEqual(Reply(True, frozenset({"a"})), parse_reply(200, b'{"rejected":["a",1]}'))
        self.assertEqual(Reply(True), parse_reply(201, b"{}"))
        for status in (199, 301, 400, 404, 429, 500, 999):
            self.assertEqual(Reply(False), parse_reply(status, b'{"rejected":["a"]}'))

    @given(st.binary())
    def test_whatever_it_says(self, body: bytes) -> None:
        self.assertTrue(parse_reply(200, body).delivered)

    def test_deep_nonsense(self) -> None:
        self.assertEqual(Reply(True), parse_reply(200, b'{"rejected":' + b"[" * 60_000))
