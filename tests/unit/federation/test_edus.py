"""EDUs. # spec: server-server-api#edus"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from federation import edus
from federation.errors import Malformed
from federation.ids import RoomId, ServerName, UserId

ORIGIN = ServerName("example.org")
USER = UserId("@u:example.org")
FOREIGN = "@u:other.example"


def parse(edu_type: Any, content: Any) -> edus.Edu:
    return edus.parse_edu({"edu_type": edu_type, "content": content}, ORIGIN)


class Edus(SynchronousTestCase):
    def refuses(self, edu_type: str, base: dict[str, Any], **changes: Any) -> None:
        content = {key: item for key, item in {**base, **changes}.items() if item is not ...}
        self.assertRaises(Malformed, parse, edu_type, content)

    def test_envelope(self) -> None:
        self.assertEqual(parse("org.example.unknown", {"x": 1.5}), edus.UnknownEdu("org.example.unknown"))
        data: Any
        for data in (
            None,
            [],
            {},
            {"edu_type": "m.typing"},
            {"edu_type": 1, "content": {}},
            {"edu_type": "x", "content": []},
        ):
            self.assertRaises(Malformed, edus.parse_edu, data, ORIGIN)
        self.assertRaises(Malformed, parse, "x" * 300, {})
        error = self.assertRaises(Malformed, parse, "x", {"k": "x" * edus.MAX_EDU_BYTES})
        self.assertEqual((error.errcode, error.status), ("M_TOO_LARGE", 413))

    def test_typing(self) -> None:
        base = {"room_id": "!r:b", "user_id": USER, "typing": True}
        self.assertEqual(parse("m.typing", base), edus.Typing(RoomId("!r:b"), USER, True))
        for change in (
            {"room_id": "r"},
            {"user_id": FOREIGN},
            {"user_id": "@é:example.org"},
            {"typing": 1},
            {"typing": ...},
        ):
            self.refuses("m.typing", base, **change)

    def receipts(self, content: Any) -> tuple[edus.Receipt, ...]:
        parsed = parse("m.receipt", content)
        assert isinstance(parsed, edus.Receipts)
        return parsed.receipts

    def test_receipts(self) -> None:
        good = {"event_ids": ["$e", "$f"], "data": {"ts": 5, "thread_id": "main"}}
        plain = {"event_ids": ["$e"], "data": {"ts": 6}}
        found = self.receipts(
            {
                "!r:b": {"m.read": {USER: good, FOREIGN: plain}, "m.x": {USER: plain}},
                "!s:b": {"m.read": {USER: plain}},
            }
        )
        self.assertEqual(
            [
                (item.room_id, item.receipt_type, item.user_id, item.event_id, item.ts_ms, item.thread_id)
                for item in found
            ],
            [
                ("!r:b", "m.read", USER, "$e", 5, "main"),
                ("!r:b", "m.x", USER, "$e", 6, None),
                ("!s:b", "m.read", USER, "$e", 6, None),
            ],
        )

    def test_bad_receipts_are_left_out_alone(self) -> None:
        good = {"event_ids": ["$e"], "data": {"ts": 5}}
        for bad in (
            7,
            {},
            {"event_ids": [], "data": {"ts": 1}},
            {"event_ids": [7], "data": {"ts": 1}},
            {"event_ids": ["e"], "data": {"ts": 1}},
            {"event_ids": ["$e"], "data": {}},
            {"event_ids": ["$e"], "data": {"ts": -1}},
            {"event_ids": ["$e"], "data": {"ts": True}},
            {"event_ids": ["$e"], "data": {"ts": 1, "thread_id": 7}},
            {"event_ids": ["$e"], "data": {"ts": 1, "thread_id": ""}},
        ):
            self.assertEqual(
                len(self.receipts({"!r:b": {"m.read": {USER: bad}}, "!s:b": {"m.read": {USER: good}}})), 1
            )
        self.assertEqual(
            self.receipts(
                {"r": {"m.read": {USER: good}}, "!r:b": 5, "!s:b": {"m.read": 5, "": {USER: good}}}
            ),
            (),
        )
        many = {f"@u{number}:example.org": good for number in range(edus.MAX_RECEIPTS + 1)}
        self.assertRaises(Malformed, parse, "m.receipt", {"!r:b": {"m.read": many}})

    def test_presence(self) -> None:
        full = {
            "user_id": USER,
            "presence": "online",
            "last_active_ago": 5,
            "currently_active": True,
            "status_msg": "hi",
        }
        bare = {"user_id": "@v:example.org", "presence": "offline", "status_msg": None}
        busy = {"user_id": "@w:example.org", "presence": "org.matrix.msc3026.busy"}
        bad: list[Any] = [
            7,
            {**full, "user_id": FOREIGN},
            {**full, "presence": "busy"},
            {**full, "last_active_ago": -1},
            {**full, "status_msg": 7},
            {**full, "status_msg": "x" * 5000},
            {**full, "currently_active": "yes"},
        ]
        parsed = parse("m.presence", {"push": [*bad, full, bare, busy]})
        assert isinstance(parsed, edus.Presence)
        self.assertEqual(
            [
                (u.user_id, u.presence, u.status_msg, u.last_active_ago_ms, u.currently_active)
                for u in parsed.updates
            ],
            [
                (USER, "online", "hi", 5, True),
                ("@v:example.org", "offline", None, 0, False),
                ("@w:example.org", "org.matrix.msc3026.busy", None, 0, False),
            ],
        )
        self.refuses("m.presence", {"push": {}})
        self.refuses("m.presence", {"push": [full] * (edus.MAX_PRESENCE + 1)})

    def test_direct_to_device(self) -> None:
        base = {
            "sender": USER,
            "type": "t",
            "message_id": "m",
            "messages": {FOREIGN: {"D": {"k": 1}, "*": {}}},
        }
        parsed = parse("m.direct_to_device", base)
        assert isinstance(parsed, edus.DirectToDevice)
        self.assertEqual((parsed.sender, parsed.type, parsed.message_id), (USER, "t", "m"))
        self.assertEqual(
            [(m.user_id, m.device_id, m.content) for m in parsed.messages],
            [(FOREIGN, "D", {"k": 1}), (FOREIGN, "*", {})],
        )
        change: Any
        for change in (
            {"sender": FOREIGN},
            {"type": ...},
            {"type": "x" * 256},
            {"message_id": 5},
            {"message_id": "x" * 256},
            {"messages": []},
            {"messages": {"u": {}}},
            {"messages": {FOREIGN: []}},
            {"messages": {FOREIGN: {"D": 1}}},
            {"messages": {FOREIGN: {"": {}}}},
            {"messages": {FOREIGN: {str(number): {} for number in range(edus.MAX_MESSAGES + 1)}}},
        ):
            self.refuses("m.direct_to_device", base, **change)

    def test_device_list_update(self) -> None:
        keys = {"user_id": USER, "device_id": "D", "keys": {}}
        base = {
            "user_id": USER,
            "device_id": "D",
            "stream_id": 6,
            "prev_id": [5],
            "device_display_name": "x" * 999,
            "keys": keys,
        }
        parsed = parse("m.device_list_update", base)
        assert isinstance(parsed, edus.DeviceListUpdate)
        self.assertEqual(
            (parsed.user_id, parsed.device_id, parsed.stream_id, parsed.prev_ids), (USER, "D", 6, (5,))
        )
        self.assertEqual((parsed.deleted, parsed.display_name, parsed.keys), (False, "x" * 255, keys))
        gone = parse(
            "m.device_list_update",
            {"user_id": USER, "device_id": "D", "stream_id": 6, "deleted": True, "keys": None},
        )
        assert isinstance(gone, edus.DeviceListUpdate)
        self.assertEqual((gone.deleted, gone.prev_ids, gone.keys), (True, (), None))
        change: Any
        for change in (
            {"user_id": FOREIGN},
            {"device_id": 1},
            {"stream_id": -1},
            {"stream_id": "6"},
            {"prev_id": ["5"]},
            {"prev_id": [True]},
            {"prev_id": [2**53]},
            {"prev_id": [1] * (edus.MAX_PREV_IDS + 1)},
            {"deleted": 1},
            {"keys": {**keys, "device_id": "E"}},
            {"keys": {**keys, "user_id": FOREIGN}},
            {"keys": []},
        ):
            self.refuses("m.device_list_update", base, **change)

    def test_signing_key_update(self) -> None:
        master = {"user_id": USER, "usage": ["master"], "keys": {}}
        own = {"user_id": USER, "usage": ["self_signing"], "keys": {}}
        base = {"user_id": USER, "master_key": master, "self_signing_key": own}
        self.assertEqual(parse("m.signing_key_update", base), edus.SigningKeyUpdate(USER, master, own))
        self.assertEqual(
            parse("m.signing_key_update", {"user_id": USER}), edus.SigningKeyUpdate(USER, None, None)
        )
        for change in (
            {"user_id": FOREIGN},
            {"master_key": own},
            {"self_signing_key": master},
            {"master_key": {**master, "user_id": FOREIGN}},
            {"master_key": {"user_id": USER, "usage": "master"}},
            {"master_key": "x"},
        ):
            self.refuses("m.signing_key_update", base, **change)
