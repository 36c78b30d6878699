"""Search in texts: what is found, by whom, in which order, and that no term is anything but words."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select
from twisted.internet.defer import Deferred

from homeserver.db.schema.rooms import events
from homeserver.db.schema.search import search_documents, search_progress
from homeserver.db.schema.start import WELL_KNOWN_TYPES
from homeserver.db.statements import statement
from homeserver.db.tx import PostgresTx, WriteTx
from homeserver.rooms.reads import search
from homeserver.store.search import index_older, words_of
from tests.api.talk import V3, TalkCase, user
from tests.support.databases import on_each_database

_COUNT = statement(
    select(func.count())
    .select_from(search_documents.join(events, events.c.nid == search_documents.c.event_nid))
    .where(events.c.type_nid == WELL_KNOWN_TYPES["m.room.message"])
)


class SearchCase(TalkCase):
    """Somebody searches."""

    def setUp(self) -> None:
        super().setUp()
        self.app.app.begin()
        self.app.advance(0)

    def find(self, name: str, search_term: str, token: str | None = None, **fields: Any) -> Any:
        body: dict[str, Any] = {"search_categories": {"room_events": {"search_term": search_term, **fields}}}
        query = {} if token is None else {"next_batch": token}
        answer = self.app.ok("POST", f"{V3}/search", body, self.tokens[name], query)
        return answer["search_categories"]["room_events"]

    def texts(self, name: str, term: str, **fields: Any) -> list[Any]:
        """The bodies that are found, the newest first."""
        found = self.find(name, term, order_by="recent", **fields)
        return [one["result"]["content"].get("body") for one in found["results"]]

    def refused(self, body: Any, **query: str) -> tuple[int, str]:
        status, json = self.app.call("POST", f"{V3}/search", body, self.tokens["alice"], query)
        return status, json["errcode"]


@on_each_database
class Search(SearchCase):
    """What is found."""

    def test_words(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "Martians and men")
        self.say("alice", room_id, "Only men, in a café")
        self.say("alice", room_id, "nothing of it")
        self.assertEqual(["Only men, in a café", "Martians and men"], self.texts("alice", "men"))
        self.assertEqual(["Martians and men"], self.texts("alice", "MEN martian"))
        self.assertEqual(["Only men, in a café"], self.texts("alice", "Cafe"))
        self.assertEqual([], self.texts("alice", "women"))
        found = self.find("alice", "Martians men")
        self.assertEqual((1, ["martians", "men"]), (found["count"], found["highlights"]))
        self.assertNotIn("next_batch", found)
        self.assertGreater(found["results"][0]["rank"], 0)
        self.assertEqual(room_id, found["results"][0]["result"]["room_id"])

    def test_scripts_without_spaces(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "我今天在图书馆看书")
        self.say("alice", room_id, "馆图书")
        self.assertEqual(["我今天在图书馆看书"], self.texts("alice", "图书馆"))
        self.assertEqual(["हिन्दी", "a", "b", "ſs"[:0] + "ss"], words_of("हिन्दी a-b ß"))

    def test_names_and_topics(self) -> None:
        room_id = self.make_room()
        self.set_state("alice", room_id, "m.room.name", {"name": "Gardeners"})
        plain = {"m.text": [{"body": "<b>x</b>", "mimetype": "text/html"}, {"body": "of gardeners, longer"}]}
        self.set_state("alice", room_id, "m.room.topic", {"topic": "tulips", "m.topic": plain})
        self.say("alice", room_id, "we are gardeners")
        types = ["m.room.message", "m.room.topic", "m.room.name"]

        def found(**fields: Any) -> list[str]:
            results = self.find("alice", "gardeners", **fields)["results"]
            return sorted(one["result"]["type"] for one in results)

        self.assertEqual(sorted(types), found())
        self.assertEqual(["m.room.name"], found(keys=["content.name"]))
        self.assertEqual(["m.room.name", "m.room.topic"], found(filter={"not_types": ["m.room.me*"]}))
        self.assertEqual(["m.room.topic"], found(filter={"types": ["m.room.topic"]}))
        self.assertEqual([], found(keys=[]))

    def test_redacted(self) -> None:
        room_id = self.make_room()
        gone, _ = self.say("alice", room_id, "secret one"), self.say("alice", room_id, "secret two")
        self.assertEqual(2, self.find("alice", "secret")["count"])
        path = self.path(room_id, "redact", gone, "r1")
        self.app.ok("PUT", path, {}, self.tokens["alice"])
        self.assertEqual(["secret two"], self.texts("alice", "secret"))
        self.app.advance(10)
        self.assertEqual(1, self.app.wait(self.app.database.read(lambda tx: tx.value(_COUNT))))

    def test_who_sees_what(self) -> None:
        room_id = self.make_room(visibility="joined")
        self.say("alice", room_id, "fish before")
        self.join("bob", room_id)
        self.say("alice", room_id, "fish meanwhile")
        self.leave("bob", room_id)
        self.say("alice", room_id, "fish after")
        self.add("carol")
        self.assertEqual(3, len(self.texts("alice", "fish")))
        self.assertEqual(["fish meanwhile"], self.texts("bob", "fish"))
        self.assertEqual([], self.texts("carol", "fish"))

    def test_who_may_come_back_has_been_there_all_the_same(self) -> None:
        room_id = self.make_room(version="7", visibility="joined", join_rule="knock")
        self.say("alice", room_id, "fish before")
        self.set_state("alice", room_id, "m.room.member", {"membership": "invite"}, user("bob"))
        self.assertEqual([], self.texts("bob", "fish"))
        self.join("bob", room_id)
        self.say("alice", room_id, "fish meanwhile")
        self.leave("bob", room_id)
        for name, membership in (("alice", "invite"), ("bob", "leave"), ("bob", "knock")):
            self.set_state(name, room_id, "m.room.member", {"membership": membership}, user("bob"))
            self.say("alice", room_id, "fish after")
            self.assertEqual(["fish meanwhile"], self.texts("bob", "fish"), membership)

    def test_ignored(self) -> None:
        room_id = self.make_room(joined=("bob",))
        self.say("bob", room_id, "buy fish")
        content: dict[str, Any] = {"ignored_users": {user("bob"): {}}}
        path = f"{V3}/user/{user('alice')}/account_data/m.ignored_user_list"
        self.app.ok("PUT", path, content, self.tokens["alice"])
        self.assertEqual([], self.texts("alice", "fish"))
        self.assertEqual(["buy fish"], self.texts("bob", "fish"))

    def test_filters(self) -> None:
        one, two = self.make_room(joined=("bob",)), self.make_room()
        self.say("alice", one, "fish one")
        self.say("bob", one, "fish two")
        self.say("alice", two, "fish three")
        find = self.texts
        self.assertEqual(["fish two", "fish one"], find("alice", "fish", filter={"rooms": [one]}))
        self.assertEqual(["fish three"], find("alice", "fish", filter={"not_rooms": [one]}))
        self.assertEqual(["fish two"], find("alice", "fish", filter={"senders": [user("bob")]}))
        self.assertEqual([], find("alice", "fish", filter={"senders": ["@nobody:elsewhere.example"]}))
        self.assertEqual(["fish two"], find("alice", "fish", filter={"not_senders": [user("alice")]}))
        self.assertEqual(["fish three"], find("alice", "fish", filter={"limit": 1}))
        self.assertEqual([], find("alice", "fish", filter={"rooms": ["!other:elsewhere.example"]}))

    def test_encrypted_is_not_indexed(self) -> None:
        room_id = self.make_room()
        self.send("alice", room_id, {"body": "fish", "ciphertext": "fish"}, "m.room.encrypted")
        self.assertEqual([], self.texts("alice", "fish"))

    def test_encrypted_rooms_are_not_searched(self) -> None:
        room_id, other = self.make_room(), self.make_room()
        self.say("alice", room_id, "fish before")
        self.say("alice", other, "fish elsewhere")
        self.set_state("alice", room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        self.say("alice", room_id, "fish of a bot")
        self.assertEqual(["fish elsewhere"], self.texts("alice", "fish"))


@on_each_database
class Orders(SearchCase):
    """Order, pages, groups, what is around."""

    def test_by_rank(self) -> None:
        room_id = self.make_room()
        self.say("alice", room_id, "fish fish fish")
        self.say(
            "alice", room_id, "fish and a long sentence about everything else that there is under the sun"
        )
        found = self.find("alice", "fish")
        self.assertEqual("fish fish fish", found["results"][0]["result"]["content"]["body"])
        self.assertGreater(found["results"][0]["rank"], found["results"][1]["rank"])

    def test_pages(self) -> None:
        for order in ("recent", "rank"):
            room_id = self.make_room()
            for number in range(7):
                self.say("alice", room_id, f"{order} {number}")
            seen: list[str] = []
            token: str | None = None
            while True:
                page = self.find("alice", order, token, order_by=order, filter={"limit": 3})
                seen += [one["result"]["content"]["body"] for one in page["results"]]
                token = page.get("next_batch")
                if token is None:
                    break
                self.say("alice", room_id, f"{order} that came later")
            self.assertEqual([f"{order} {number}" for number in range(6, -1, -1)], seen)

    def test_more_than_a_window(self) -> None:
        self.patch(search, "_WINDOW", 4)
        self.patch(search, "_FIRST", 4)
        seen_by_bob, other = self.make_room(joined=("bob",)), self.make_room(visibility="joined")
        self.say("alice", seen_by_bob, "fish first")
        for number in range(6):
            self.say("alice", other, f"fish {number}")
        self.join("bob", other)
        self.assertEqual(["fish first"], self.texts("bob", "fish"))
        seen: list[str] = []
        page: dict[str, Any] = {"next_batch": None}
        while "next_batch" in page:
            page = self.find("alice", "fish", page["next_batch"], order_by="recent", filter={"limit": 3})
            seen += [one["result"]["content"]["body"] for one in page["results"]]
        self.assertEqual([*(f"fish {number}" for number in range(5, -1, -1)), "fish first"], seen)

    def test_groups(self) -> None:
        one, two = self.make_room(joined=("bob",)), self.make_room()
        events = [
            self.say("alice", one, "fish a"),
            self.say("bob", one, "fish b"),
            self.say("alice", two, "fish c"),
        ]
        groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
        found = self.find("alice", "fish", order_by="recent", groupings=groupings, filter={"limit": 2})
        self.assertEqual([events[2]], found["groups"]["room_id"][two]["results"])
        self.assertEqual(
            (1, 2), (found["groups"]["room_id"][two]["order"], found["groups"]["room_id"][one]["order"])
        )
        self.assertEqual([events[1]], found["groups"]["sender"][user("bob")]["results"])
        for key, name in (("room_id", one), ("sender", user("alice"))):
            token = found["groups"][key][name]["next_batch"]
            more = self.find("alice", "fish", token, order_by="recent", filter={"limit": 2})
            self.assertEqual([events[0]], [result["result"]["event_id"] for result in more["results"]])

    def test_context_and_state(self) -> None:
        room_id = self.make_room()
        ids = [self.say("alice", room_id, text) for text in ("a1", "a2", "fish", "a4", "a5")]
        around = {"before_limit": 1, "after_limit": 1, "include_profile": True}
        found = self.find("alice", "fish", event_context=around, include_state=True)
        context = found["results"][0]["context"]
        self.assertEqual([ids[1]], [one["event_id"] for one in context["events_before"]])
        self.assertEqual([ids[3]], [one["event_id"] for one in context["events_after"]])
        self.assertEqual({user("alice"): {"displayname": "Alice"}}, context["profile_info"])
        older = self.app.ok(
            "GET",
            self.path(room_id, "messages"),
            None,
            self.tokens["alice"],
            {"dir": "b", "from": context["start"]},
        )
        self.assertEqual(ids[0], older["chunk"][0]["event_id"])
        types = {one["type"] for one in found["state"][room_id]}
        self.assertLessEqual({"m.room.create", "m.room.member"}, types)
        nothing = self.find("alice", "fish", event_context={"before_limit": 0, "after_limit": 0})
        self.assertEqual([], nothing["results"][0]["context"]["events_before"])
        self.assertNotIn("profile_info", nothing["results"][0]["context"])


@on_each_database
class Hostile(SearchCase):
    """Terms are words and nothing else."""

    def test_terms(self) -> None:
        room_id = self.make_room()
        room_nid = self.app.app.core.interner.known_room(room_id)
        self.say("alice", room_id, "it's a \"fish\" AND (soup) NEAR/2 marks : x \\ ' & | ! <-> :* \x00 end")
        for term in (
            '"',
            "'",
            "fish\x00end",
            '" OR "',
            "AND",
            "NEAR(fish soup)",
            "marks : r1",
            "fish*",
            "'fish':*",
        ):
            self.find("alice", term)
        for term in (
            "",
            " ",
            "!&|",
            "\x00",
            "\U0001f41f",
            "no*such",
            "k0",
            f"r{room_nid}",
            f"/r{room_nid}",
            "kbody",
        ):
            self.assertEqual([], self.find("alice", term)["results"], term)
        for term in ("fish & soup", "fish \x00 end", "it's", '"fish', "\\fish' | 'soup", "fish " * 5_000):
            self.assertEqual(1, len(self.find("alice", term)["results"]), term[:40])
        self.assertEqual(0, self.find("alice", "x" * 50_000)["count"])

    def test_words_that_never_meet_on_a_large_server(self) -> None:
        """Where PostgreSQL would take seconds, what was found among the newest is the answer."""
        room_id = self.make_room()
        self.say("alice", room_id, "fish and soup")
        self.patch(PostgresTx, "all_within", lambda *_, **__: None)
        self.assertEqual(["fish and soup"], self.texts("alice", "fish soup"))
        self.assertEqual([], self.texts("alice", "fish bread"))

    def test_bodies_of_any_shape(self) -> None:
        room_id = self.make_room()
        bodies: tuple[Any, ...] = (None, 5, [], {"fish": 1}, "", "fish " * 10_000)
        for body in bodies:
            self.place("alice", room_id, {"body": body})
        self.set_state(
            "alice", room_id, "m.room.topic", {"topic": [], "m.topic": {"m.text": ["fish", {"body": 1}]}}
        )
        self.assertEqual(1, self.find("alice", "fish")["count"])

    def test_wrong_requests(self) -> None:
        def event_search(**fields: Any) -> Any:
            return {"search_categories": {"room_events": {"search_term": "x", **fields}}}

        self.assertEqual((400, "M_BAD_JSON"), self.refused({}))
        self.assertEqual((400, "M_BAD_JSON"), self.refused({"search_categories": {"room_events": {}}}))
        wrong: list[dict[str, Any]] = [
            {"search_term": 5},
            {"keys": ["content.other"]},
            {"keys": "content.body"},
            {"order_by": "best"},
            {"filter": []},
            {"filter": {"limit": 0}},
            {"filter": {"limit": -1}},
            {"filter": {"senders": "x"}},
            {"event_context": {"before_limit": -1}},
            {"event_context": {"after_limit": "1"}},
            {"groupings": {"group_by": [{"key": "type"}]}},
        ]
        for fields in wrong:
            self.assertEqual((400, "M_BAD_JSON"), self.refused(event_search(**fields)), fields)
        for token in ("x", "s1", "s99999999999999999999_0", "s1_0_x1", "s9223372036854775808_0", "s١_0"):
            self.assertEqual((400, "M_INVALID_PARAM"), self.refused(event_search(), next_batch=token), token)
        status, json = self.app.call("POST", f"{V3}/search", event_search())
        self.assertEqual((401, "M_MISSING_TOKEN"), (status, json["errcode"]))
        self.assertEqual(
            {"search_categories": {}},
            self.app.ok("POST", f"{V3}/search", {"search_categories": {}}, self.tokens["alice"]),
        )


@on_each_database
class Filling(SearchCase):
    """The index, over restarts."""

    def _documents(self) -> int:
        found: int = self.app.wait(self.app.database.read(lambda tx: tx.value(_COUNT)))
        return found

    def test_it_is_written_with_the_cursor(self) -> None:
        room_id = self.make_room()
        self.send("alice", room_id, {"msgtype": "m.text", "body": "fish"})
        self.assertEqual(0, self._documents())
        self.app.advance(6)
        self.assertEqual(1, self._documents())

    def test_what_was_noted_survives_a_stop(self) -> None:
        if self.dialect == "sqlite":
            self.app = type(self.app)(self, self.new_database())
            self.app.app.begin()
            self.app.advance(0)
            self.tokens["alice"] = self.app.register("alice")
        room_id = self.make_room()
        self.send("alice", room_id, {"msgtype": "m.text", "body": "fish"})
        self.app.restart()
        self.app.app.begin()
        self.app.advance(0)
        self.assertEqual(1, self._documents())
        self.assertEqual(["fish"], self.texts("alice", "fish"))

    def test_what_was_there_before_the_index(self) -> None:
        room_id = self.make_room()
        for number in range(5):
            self.say("alice", room_id, f"fish {number}")
        self.app.advance(6)
        empty = [statement(delete(table)) for table in (search_documents, search_progress)]

        def forget(tx: WriteTx) -> None:
            for one in empty:
                tx.run(one)
            tx.script(
                "DELETE FROM search_words"
                if self.dialect != "sqlite"
                else "INSERT INTO search_words(search_words) VALUES ('delete-all')"
            )

        committer = self.app.app.core.committer
        self.app.wait(committer.work(forget))
        self.assertEqual([], self.texts("alice", "fish"))
        self.assertTrue(self.app.wait(committer.work(index_older, 3)), "one piece is not all")
        filling = Deferred.fromCoroutine(self.app.app.services.reading.finding.index.fill())
        self.app.wait(filling)
        self.assertEqual(5, self.find("alice", "fish")["count"])
        self.assertFalse(self.app.wait(committer.work(index_older, 3)), "nothing is done twice")
        self.assertEqual(5, self._documents())
