"""The list of notifications. spec: client-server-api#get_matrixclientv3notifications"""

from __future__ import annotations

from typing import Any

from homeserver.push import listing as module
from tests.api.pushing import PushCase, user
from tests.support.databases import on_each_database


@on_each_database
class Listing(PushCase):
    def page(self, name: str = "bob", **query: str) -> Any:
        return self.ok(name, "GET", "/notifications", None, **query)

    def ids(self, name: str = "bob", **query: str) -> list[str]:
        return [one["event"]["event_id"] for one in self.page(name, **query)["notifications"]]

    def all_ids(self, name: str = "bob", **query: str) -> list[str]:
        """Page by page until there is no more."""
        found: list[str] = []
        page = self.page(name, **query)
        for _ in range(100):
            found += [one["event"]["event_id"] for one in page["notifications"]]
            if "next_token" not in page:
                return found
            page = self.page(name, **{**query, "from": page["next_token"]})
        raise AssertionError("no end")

    def test_what_is_told(self) -> None:
        self.assertEqual({"notifications": []}, self.page())
        first = self.send()
        mention = {"m.mentions": {"user_ids": [user("bob")]}}
        second = self.send(content=mention)
        self.send("bob", "an answer")
        self.send(content={"msgtype": "m.notice"})
        third = self.send()
        told = self.page()["notifications"]
        self.assertEqual([third, second, first], [one["event"]["event_id"] for one in told])
        self.assertEqual([False, True, True], [one["read"] for one in told])  # bob has answered
        self.assertEqual(
            ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}],
            told[1]["actions"],
        )
        self.assertEqual({self.room_id}, {one["room_id"] for one in told})
        self.assertNotIn("room_id", told[0]["event"])
        self.assertEqual(told[0]["event"]["origin_server_ts"], told[0]["ts"])
        self.assertEqual([second], self.ids(only="highlight"))
        self.read("bob", third)
        self.assertEqual([True] * 3, [one["read"] for one in self.page()["notifications"]])
        # The others' lists are their own.
        self.assertEqual(4, len(self.ids("carol")))
        self.assertEqual(1, len(self.ids("alice")))

    def test_what_is_gone(self) -> None:
        event_id = self.send()
        self.ok("alice", "PUT", f"/rooms/{self.room_id}/redact/{event_id}/x", {})
        self.assertEqual([], self.ids())
        self.send()
        self.ok("bob", "POST", f"/rooms/{self.room_id}/leave", {})
        self.assertEqual([], self.ids())
        self.ok("bob", "POST", f"/join/{self.room_id}", {})
        self.assertEqual([], self.ids())  # from before they joined

    def test_rules_of_today(self) -> None:
        event_id = self.send(body="cake")
        self.ok("bob", "PUT", f"/pushrules/global/room/{self.room_id}", {"actions": []})
        self.assertEqual([], self.ids())
        self.ok("bob", "PUT", "/pushrules/global/content/c", {"pattern": "cake", "actions": ["notify"]})
        self.assertEqual([event_id], self.ids())
        ignored: dict[str, Any] = {"ignored_users": {user("alice"): {}}}
        self.ok("bob", "PUT", f"/user/{user('bob')}/account_data/m.ignored_user_list", ignored)
        self.assertEqual([], self.ids())

    def test_an_invite(self) -> None:
        room_id = self.make_room("alice", preset="private_chat", invite=[user("bob")])
        (told,) = self.page()["notifications"]
        self.assertEqual((room_id, False), (told["room_id"], told["read"]))
        self.assertEqual("invite", told["event"]["content"]["membership"])
        self.ok("bob", "POST", f"/join/{room_id}", {})
        self.assertEqual([], self.ids())

    def test_pages(self) -> None:
        rooms = [self.room_id, *(self.make_room("alice", "bob") for _ in range(3))]
        # One is busy, two have a little now and then, one is silent.
        sent = [self.send(room_id=rooms[(0, 0, 0, 1, 0, 0, 2)[number % 7]]) for number in range(60)]
        expected = sent[::-1]
        self.assertEqual(expected[:20], self.ids())
        for limit in ("1", "7", "1000"):
            self.assertEqual(expected, self.all_ids(limit=limit), limit)
        self.patch(module, "_EVENTS_MOST", 8)
        self.assertEqual(expected, self.all_ids(limit="7"))
        self.patch(module, "_TURNS", 1)
        self.assertEqual(expected, self.all_ids(limit="7"))

    def test_refusals(self) -> None:
        for query in (
            {"from": "x"},
            {"from": "-1"},
            {"from": "9" * 30},
            {"limit": "x"},
            {"limit": "0"},
        ):
            status, json = self.app.call(
                "GET", "/_matrix/client/v3/notifications", None, self.tokens["bob"], query
            )
            self.assertEqual((400, "M_INVALID_PARAM"), (status, json["errcode"]), query)
        self.assertEqual(401, self.app.call("GET", "/_matrix/client/v3/notifications")[0])
        self.assertEqual([], self.ids(**{"from": "9" * 18}))
        self.assertEqual([], self.ids(only="nonsense"))

    def test_an_empty_token_is_none(self) -> None:
        self.assertEqual([self.send()], self.ids(**{"from": ""}))
