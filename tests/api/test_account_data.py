"""Account data, tags and filters. spec: client-server-api#client-config"""

from __future__ import annotations

from typing import Any, ClassVar

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.types import Requester
from homeserver.store import account_data as store
from homeserver.store.filters import MAX_FILTERS_PER_USER, load_filter, store_filter
from tests.support.accounts import WorldCase, now
from tests.support.databases import on_each_database

ME = "/v3/user/@alice:home.example"
ROOM_ID = "!room:home.example"


class DataCase(WorldCase):
    def setUp(self) -> None:
        self.world = self.make()
        self.token = self.world.token_of("alice")
        self.room_nid = self.world.interner.new_room(ROOM_ID, "11")
        found = self.world.interner.known_user("@alice:home.example")
        assert found is not None
        self.user_nid = found

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        return self.world.call(method, f"{ME}{path}", body, token or self.token)

    def position(self) -> int:
        return self.world.changes[-1].pos


@on_each_database
class AccountDataEndpoints(DataCase):
    def test_round_trip(self) -> None:
        for place in ("", f"/rooms/{ROOM_ID}"):
            path = f"{place}/account_data/org.example.x"
            self.assertEqual(
                (404, "M_NOT_FOUND"), (self.call("GET", path).status, self.call("GET", path).errcode)
            )
            content = {"place": place, "big": 2**70, "text": "ü\0", "float": 1.5}
            self.assertEqual(
                (200, {}), (self.call("PUT", path, content).status, self.call("PUT", path, content).json)
            )
            self.assertEqual(content, self.call("GET", path).json)
            # An empty one is none (MSC3391).
            self.call("PUT", path, {})
            self.assertEqual(
                (404, "M_NOT_FOUND"), (self.call("GET", path).status, self.call("GET", path).errcode)
            )

    def test_what_the_server_manages(self) -> None:
        for place in ("", f"/rooms/{ROOM_ID}"):
            for type_ in ("m.fully_read", "m.push_rules"):
                answer = self.call("PUT", f"{place}/account_data/{type_}", {})
                self.assertEqual((405, "M_BAD_JSON"), (answer.status, answer.errcode))
        put, content = store.put_account_data, '{"event_id":"$x"}'
        now(self.world.worker.work(put, self.user_nid, self.room_nid, "m.fully_read", content))
        read = self.call("GET", f"/rooms/{ROOM_ID}/account_data/m.fully_read")
        self.assertEqual({"event_id": "$x"}, read.json)

    def test_managed_types_are_read_from_their_owner(self) -> None:
        async def rules(requester: Requester) -> dict[str, Any]:
            return {"global": requester.user_id}

        world = self.world
        data = AccountData(world.database, world.worker, world.interner, {"m.push_rules": rules})
        requester = Requester("@alice:home.example", self.user_nid, None, 0, False, False, b"")
        self.assertEqual(b'{"global":"@alice:home.example"}', now(data.get(requester, None, "m.push_rules")))

    def test_refusals(self) -> None:
        bob = self.world.token_of("bob")
        for method, body in (("GET", None), ("PUT", {})):
            for path in ("/account_data/x", f"/rooms/{ROOM_ID}/account_data/x"):
                answer = self.call(method, path, body, bob)
                self.assertEqual((403, "M_FORBIDDEN"), (answer.status, answer.errcode))
            answer = self.call(method, "/rooms/nonsense/account_data/x", body)
            self.assertEqual((400, "M_INVALID_PARAM"), (answer.status, answer.errcode))
            answer = self.call(method, "/rooms/!unknown:home.example/account_data/x", body)
            self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))
        self.assertEqual("M_NOT_JSON", self.call("PUT", "/account_data/x", b"{").errcode)
        self.assertEqual("M_BAD_JSON", self.call("PUT", "/account_data/x", [1]).errcode)
        self.assertEqual(413, self.call("PUT", f"/account_data/{'x' * 256}", {}).status)
        self.assertEqual(413, self.call("PUT", "/account_data/x", {"a": "x" * 2_100_000}).status)

    def test_what_takes_more_when_it_is_kept(self) -> None:
        body = b'{"a":[' + b",".join([b"1e15"] * 120_000) + b"]}"
        for place in ("", f"/rooms/{ROOM_ID}"):
            answer = self.call("PUT", f"{place}/account_data/x", body)
            self.assertEqual((413, "M_TOO_LARGE"), (answer.status, answer.errcode))
            self.assertEqual(404, self.call("GET", f"{place}/account_data/x").status)
        self.assertEqual(200, self.call("PUT", "/account_data/x", {"a": "x" * 2_097_000}).status)

    def test_thousands_of_direct_chats(self) -> None:
        """Which clients and bridges write as one."""
        chats = {f"@telegram_{n}:home.example": [f"!{'r' * 43}"] for n in range(10_000)}
        self.assertEqual(200, self.call("PUT", "/account_data/m.direct", chats).status)
        self.assertEqual(chats, self.call("GET", "/account_data/m.direct").json)

    def test_amount_is_bounded(self) -> None:
        self.patch(store, "MAX_ROWS_PER_USER", 2)
        statuses = [self.call("PUT", f"/account_data/x{number}", {"x": 1}).status for number in range(3)]
        self.assertEqual([200, 200, 403], statuses)
        self.assertEqual(200, self.call("PUT", "/account_data/x0", {"again": True}).status)
        # What is read in a room is the server's own, one for each, and takes nobody's place.
        put, content = store.put_account_data, '{"event_id":"$x"}'
        now(self.world.worker.work(put, self.user_nid, self.room_nid, store.FULLY_READ, content))
        self.assertEqual(200, self.call("GET", f"/rooms/{ROOM_ID}/account_data/m.fully_read").status)

    def test_the_length_of_all_is_bounded(self) -> None:
        self.patch(store, "MAX_LENGTH_PER_USER", 10_000)
        places = ["", f"/rooms/{ROOM_ID}", "", ""]

        def put(number: int, length: int) -> tuple[int, str | None]:
            body = {"x": "y" * length}
            answer = self.call("PUT", f"{places[number]}/account_data/x{number}", body)
            return answer.status, answer.errcode if answer.status != 200 else None

        refused = (403, "M_USER_LIMIT_EXCEEDED")
        for number in range(3):
            self.assertEqual((200, None), put(number, 3_000))
        self.assertEqual(refused, put(3, 3_000))
        self.assertEqual(404, self.call("GET", "/account_data/x3").status)
        # What is there may be written anew, and what was taken away makes room.
        self.assertEqual((200, None), put(0, 3_900))
        self.assertEqual(refused, put(1, 3_900))
        self.assertEqual((200, None), put(1, 3_000))
        self.assertEqual((200, None), put(0, 1))
        self.assertEqual((200, None), put(3, 3_000))
        # Markers and tags are short, and go on.
        self.assertEqual(refused, put(0, 1_100))
        self.assertEqual((200, None), put(0, 900))
        bob = self.world.token_of("bob")
        path = "/v3/user/@bob:home.example/account_data/x"
        self.assertEqual(200, self.world.call("PUT", path, {"x": "y" * 3_000}, bob).status)

    def test_the_writer_adds_nothing_up(self) -> None:
        said: list[str] = []
        engine = self.world.database.engine
        for length in (3_000, 4_000):
            engine.hook = said.append
            content = '{"x":"%s"}' % ("y" * length)
            now(self.world.worker.work(store.put_account_data, self.user_nid, 0, "x", content))
            engine.hook = None
        self.assertIn("INSERT INTO account_data", " ".join(said))
        self.assertNotIn("sum(", " ".join(said))

    def test_what_changed_since(self) -> None:
        start = self.position()
        self.call("PUT", "/account_data/one", {"n": 1})
        middle = self.position()
        self.call("PUT", f"/rooms/{ROOM_ID}/account_data/two", {"n": 2})
        end = self.position()

        def since(first: int, last: int) -> list[Any]:
            found = now(self.world.database.read(store.load_account_data_since, self.user_nid, first, last))
            return [tuple(datum) for datum in found]

        one, two = (0, "one", '{"n":1}'), (self.room_nid, "two", '{"n":2}')
        self.assertEqual([one, two], since(start, end))
        self.assertEqual([two], since(middle, end))
        self.assertEqual([one], since(start, middle))
        self.assertEqual([], since(end, end))
        self.call("PUT", "/account_data/one", {"n": 3})
        self.assertEqual([(0, "one", '{"n":3}')], since(end, self.position()))
        rooms = now(self.world.database.read(store.load_account_data_of, self.user_nid, [self.room_nid], end))
        self.assertEqual([two], [tuple(datum) for datum in rooms])
        change = self.world.changes[-1]
        payload = store.AccountDataChanged(self.user_nid, 0, "one", '{"n":3}')
        self.assertEqual((-self.user_nid, 0, payload), (change.topic, change.ref, change.payload))


@on_each_database
class Tags(DataCase):
    TAGS = f"/rooms/{ROOM_ID}/tags"

    def test_round_trip(self) -> None:
        self.assertEqual({"tags": {}}, self.call("GET", self.TAGS).json)
        self.assertEqual((200, {}), (self.call("PUT", f"{self.TAGS}/u.work", {"order": 0.5}).status,
                                     self.call("PUT", f"{self.TAGS}/m.favourite").json))  # fmt: skip
        tags = {"u.work": {"order": 0.5}, "m.favourite": {}}
        self.assertEqual({"tags": tags}, self.call("GET", self.TAGS).json)
        self.assertEqual({"tags": tags}, self.call("GET", f"/rooms/{ROOM_ID}/account_data/m.tag").json)
        self.assertEqual({}, self.call("DELETE", f"{self.TAGS}/u.work").json)
        self.assertEqual(200, self.call("DELETE", f"{self.TAGS}/u.work").status)
        self.assertEqual({"tags": {"m.favourite": {}}}, self.call("GET", self.TAGS).json)

    def test_two_in_one_transaction(self) -> None:
        """The second reads what the first wrote, although positions come at the end of the transaction."""

        def both(tx: Any) -> None:
            store.put_tag(tx, self.user_nid, self.room_nid, "one", {})
            store.put_tag(tx, self.user_nid, self.room_nid, "two", {})

        now(self.world.worker.work(both))
        self.assertEqual({"tags": {"one": {}, "two": {}}}, self.call("GET", self.TAGS).json)
        found = now(
            self.world.database.read(store.load_account_data_since, self.user_nid, 0, self.position())
        )
        self.assertEqual(1, len(found))
        none = now(
            self.world.database.read(store.load_account_data_since, self.user_nid, self.position(), 2**50)
        )
        self.assertEqual([], none)

    def test_refusals(self) -> None:
        bob = self.world.token_of("bob")
        for method, path, body in (("GET", self.TAGS, None), ("PUT", f"{self.TAGS}/x", {}),
                                   ("DELETE", f"{self.TAGS}/x", None)):  # fmt: skip
            self.assertEqual(403, self.call(method, path, body, bob).status)
        self.assertEqual("M_INVALID_PARAM", self.call("PUT", f"{self.TAGS}/{'x' * 256}", {}).errcode)
        bad: list[Any] = ["0.5", True, []]
        for order in bad:
            self.assertEqual("M_BAD_JSON", self.call("PUT", f"{self.TAGS}/x", {"order": order}).errcode)
        self.assertEqual(404, self.call("PUT", "/rooms/!unknown:home.example/tags/x", {}).status)
        self.assertEqual({"tags": {}}, self.call("GET", "/rooms/!unknown:home.example/tags").json)

    def test_nonsense_in_the_account_data(self) -> None:
        self.call("PUT", f"/rooms/{ROOM_ID}/account_data/m.tag", {"tags": [1]})
        self.assertEqual({"tags": {}}, self.call("GET", self.TAGS).json)
        self.assertEqual(200, self.call("PUT", f"{self.TAGS}/x", {}).status)

    def test_number_is_bounded(self) -> None:
        self.patch(store, "MAX_TAGS_PER_ROOM", 1)
        self.assertEqual(
            [200, 403], [self.call("PUT", f"{self.TAGS}/{name}", {}).status for name in ("a", "b")]
        )

    def test_size_is_bounded(self) -> None:
        """They are kept together, as one piece of account data."""
        body = b'{"a":[' + b",".join([b"1e15"] * 3_000) + b"]}"
        statuses = [self.call("PUT", f"{self.TAGS}/{number}", body).status for number in range(6)]
        self.assertEqual([200, 200, 200, 200, 403, 403], statuses)
        self.assertEqual(200, self.call("PUT", f"{self.TAGS}/small", {}).status)


@on_each_database
class Filters(DataCase):
    FILTER: ClassVar[dict[str, Any]] = {
        "room": {
            "timeline": {"limit": 10, "types": ["m.room.*"], "not_senders": ["@spam:example.com"]},
            "state": {"lazy_load_members": True, "rooms": ["!room:home.example"]},
            "include_leave": True,
        },
        "presence": {"not_types": ["*"]},
        "event_format": "federation",
        "event_fields": ["content.body"],
        "org.example.unknown": {"kept": 1},
    }

    def test_round_trip(self) -> None:
        first = self.call("POST", "/filter", self.FILTER).json["filter_id"]
        self.assertEqual(self.FILTER, self.call("GET", f"/filter/{first}").json)
        same = dict(reversed(list(self.FILTER.items())))
        self.assertEqual(first, self.call("POST", "/filter", same).json["filter_id"])
        other = self.call("POST", "/filter", {}).json["filter_id"]
        self.assertNotEqual(first, other)
        self.assertEqual({}, self.call("GET", f"/filter/{other}").json)
        self.assertEqual(other, self.call("POST", "/filter").json["filter_id"])

    def test_unknown(self) -> None:
        for filter_id in ("0", "nonsense", "-1", "9" * 30, "%C2%B2"):
            answer = self.call("GET", f"/filter/{filter_id}")
            self.assertEqual((404, "M_NOT_FOUND"), (answer.status, answer.errcode))

    def test_only_ones_own(self) -> None:
        bob = self.world.token_of("bob")
        self.assertEqual(403, self.call("POST", "/filter", {}, bob).status)
        self.assertEqual(403, self.call("GET", "/filter/0", token=bob).status)

    def test_bad_filters(self) -> None:
        for bad in (
            {"room": 5},
            {"room": {"timeline": {"limit": 0}}},
            {"room": {"timeline": {"limit": "10"}}},
            {"room": {"timeline": {"rooms": "!a:b"}}},
            {"room": {"state": {"rooms": ["not a room"]}}},
            {"room": {"rooms": ["nonsense"]}},
            {"room": {"ephemeral": {"senders": ["nonsense"]}}},
            {"presence": {"not_senders": [5]}},
            {"event_format": "xml"},
            {"event_fields": "all"},
            {"account_data": {"types": ["x"] * 1001}},
        ):
            answer = self.call("POST", "/filter", bad)
            self.assertEqual((400, "M_BAD_JSON"), (answer.status, answer.errcode), bad)
        self.assertEqual("M_NOT_JSON", self.call("POST", "/filter", b"nonsense").errcode)
        self.assertEqual(413, self.call("POST", "/filter", {"x": "y" * 70_000}).status)

    def test_the_oldest_go(self) -> None:
        def many(tx: Any) -> None:
            for number in range(MAX_FILTERS_PER_USER + 2):
                store_filter(tx, self.user_nid, f'{{"x":{number}}}')

        now(self.world.worker.work(many))
        read = self.world.database.read
        self.assertIsNone(now(read(load_filter, self.user_nid, 1)))
        self.assertEqual('{"x":2}', now(read(load_filter, self.user_nid, 2)))
