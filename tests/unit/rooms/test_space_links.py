"""The order of a space's children, and what is no child. spec: client-server-api#ordering-of-children-within-a-space"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from homeserver.rooms.reads.space_links import VIA_MOST, links_of


def child(name: str, ts_ms: int, **content: Any) -> dict[str, Any]:
    return {
        "type": "m.space.child",
        "state_key": f"!{name}:example.org",
        "content": {"via": ["example.org"], **content},
        "sender": "@a:example.org",
        "origin_server_ts": ts_ms,
    }


def order(*children: dict[str, Any], suggested_only: bool = False) -> str:
    links, events = links_of(children, suggested_only=suggested_only)
    assert [link.room_id for link in links] == [event["state_key"] for event in events]
    return "".join(link.room_id[1] for link in links)


class Links(SynchronousTestCase):
    def test_as_the_specification_has_it(self) -> None:
        self.assertEqual(
            "baced",
            order(
                child("b", 1640341000000, order=" "),
                child("a", 1640141000000, order="aaaa"),
                child("c", 1640841000000, order="first"),
                child("e", 1640641000000),
                child("d", 1640741000000),
            ),
        )

    def test_the_same_order(self) -> None:
        self.assertEqual(
            "bca", order(child("c", 2, order="x"), child("a", 3, order="x"), child("b", 1, order="x"))
        )
        self.assertEqual("abc", order(child("c", 1), child("b", 1), child("a", 1)))

    def test_orders_that_are_none(self) -> None:
        for wrong in ("", "x" * 51, "\x1f", "\x7f", "ä", 5, None, ["a"], "a\n"):
            self.assertEqual("ba", order(child("a", 1, order=wrong), child("b", 2, order="~")), wrong)
        self.assertEqual("ab", order(child("b", 1), child("a", 2, order="x" * 50)))

    def test_what_is_no_child(self) -> None:
        wrong: tuple[Any, ...] = (None, [], "example.org", {}, 5, ["no server"], [5, None])
        for via in wrong:
            self.assertEqual("", order(child("a", 1, via=via)), via)
        self.assertEqual("", order({**child("a", 1), "content": {}}))
        self.assertEqual("", order({**child("a", 1), "state_key": "nonsense"}))
        (link,), _ = links_of([child("a", 1, via=[5, "a.example", "b c", "b.example"])], suggested_only=False)
        self.assertEqual(("a.example", "b.example"), link.via)
        (link,), _ = links_of([child("a", 1, via=["a.example"] * 1_000)], suggested_only=False)
        self.assertEqual(VIA_MOST, len(link.via))

    def test_suggested(self) -> None:
        children = [
            child("a", 1, suggested=True),
            child("b", 2),
            child("c", 3, suggested="yes"),
            child("d", 4, suggested=1),
        ]
        self.assertEqual("a", order(*children, suggested_only=True))
        self.assertEqual("abcd", order(*children))
