"""Redactions with what relates to their target, and reactions that are made once.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/3912
spec: client-server-api#avoiding-duplicate-annotations
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from homeserver.db.errors import DatabaseUnavailable
from homeserver.http.errors import limit_exceeded
from homeserver.rooms import related_redactions as module
from homeserver.rooms.send import Sender
from tests.api.talk import TalkCase
from tests.support.app import SERVER_NAME
from tests.support.databases import on_each_database


def in_thread(root: str) -> dict[str, Any]:
    """The content of a message in a thread."""
    return {
        "body": "x",
        "msgtype": "m.text",
        "m.relates_to": {"rel_type": "m.thread", "event_id": root},
    }


class RelatingCase(TalkCase):
    """Events that point at each other."""

    def relate(
        self,
        name: str,
        room_id: str,
        target_id: str,
        rel_type: str,
        event_type: str = "m.room.message",
        **more: Any,
    ) -> tuple[int, Any]:
        relates_to = {"rel_type": rel_type, "event_id": target_id, **more}
        content = {
            "msgtype": "m.text",
            "body": rel_type,
            "m.new_content": {"body": "new"},
            "m.relates_to": relates_to,
        }
        return self.send(name, room_id, content, event_type)

    def related(self, *args: Any, **more: Any) -> str:
        status, json = self.relate(*args, **more)
        self.assertEqual(200, status, json)
        event_id: str = json["event_id"]
        return event_id

    def settle(self) -> None:
        for _ in range(50):
            self.app.advance(0)

    def is_redacted(self, room_id: str, event_id: str) -> bool:
        event = self.ok("alice", self.path(room_id, "event", event_id))
        return "redacted_because" in event.get("unsigned", {})


@on_each_database
class WithRelations(RelatingCase):
    """``with_relations``."""

    def redact(self, name: str, room_id: str, event_id: str, body: Any, txn: str = "r") -> tuple[int, Any]:
        answer = self.app.call("PUT", self.path(room_id, "redact", event_id, txn), body, self.tokens[name])
        self.settle()
        return answer

    def test_what_is_named_goes_too(self) -> None:
        for number, name in enumerate(
            ("with_relations", "with_rel_types", "org.matrix.msc3912.with_relations")
        ):
            room_id = self.make_room(joined=("bob",))
            root = self.say("alice", room_id, "root")
            edit = self.related("alice", room_id, root, "m.replace")
            in_thread = [self.related("bob", room_id, root, "m.thread") for _ in range(3)]
            kept = self.related("bob", room_id, root, "m.reference")
            body = {"reason": "enough", name: ["m.replace", "m.thread"]}
            status, json = self.redact("alice", room_id, root, body, f"r{number}")
            self.assertEqual((200, ["event_id"]), (status, list(json)))
            for event_id in (root, edit, *in_thread):
                self.assertTrue(self.is_redacted(room_id, event_id))
            self.assertFalse(self.is_redacted(room_id, kept))
            redaction = self.ok("bob", self.path(room_id, "event", json["event_id"]))
            self.assertEqual({"reason": "enough", "redacts": root}, redaction["content"])

    def test_whatever_relates(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root, other = self.say("alice", room_id, "root"), self.say("alice", room_id, "other")
        related = [self.related("bob", room_id, root, kind) for kind in ("m.thread", "m.reference", "x.y")]
        kept = self.related("bob", room_id, other, "m.thread")
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_rel_types": ["x.y", "*"]})[0])
        self.assertEqual([True] * 3, [self.is_redacted(room_id, one) for one in related])
        for restarted in (False, True):
            if restarted:
                self.app.restart()
            late = self.related("bob", room_id, root, "m.replace")
            self.settle()
            self.assertTrue(self.is_redacted(room_id, late))
        self.assertFalse(self.is_redacted(room_id, kept))

    def test_none_named(self) -> None:
        room_id = self.make_room()
        root = self.say("alice", room_id, "root")
        edit = self.related("alice", room_id, root, "m.replace")
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_relations": []})[0])
        self.assertFalse(self.is_redacted(room_id, edit))

    def test_what_one_may_not_redact_stays(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("bob", room_id, "root")
        edit = self.related("bob", room_id, root, "m.replace")
        others = self.related("alice", room_id, root, "m.thread")
        own = self.related("bob", room_id, root, "m.thread")
        body = {"with_relations": ["m.thread", "m.replace"]}
        self.assertEqual(200, self.redact("bob", room_id, root, body)[0])
        self.assertTrue(self.is_redacted(room_id, edit))
        self.assertTrue(self.is_redacted(room_id, own))
        self.assertFalse(self.is_redacted(room_id, others))

    def test_what_comes_later(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_relations": ["m.thread"]})[0])
        for restarted in (False, True):
            if restarted:
                self.app.restart()
            late = self.related("bob", room_id, root, "m.thread")
            self.settle()
            self.assertTrue(self.is_redacted(room_id, late))
        self.app.advance(module.KEPT_S + 1)
        late = self.related("bob", room_id, root, "m.thread")
        self.settle()
        self.assertFalse(self.is_redacted(room_id, late))

    def test_an_interrupted_one_is_finished(self) -> None:
        room_id = self.make_room()
        root = self.say("alice", room_id, "root")
        children = [self.related("alice", room_id, root, "m.thread") for _ in range(5)]
        path = self.path(room_id, "redact", root, "r")
        related = self.app.app.services.unattended.related

        async def nothing(_: Any) -> None:
            return

        self.patch(related, "_redact_all", nothing)
        self.app.ok("PUT", path, {"with_relations": ["m.thread"]}, self.tokens["alice"])
        self.settle()
        self.assertFalse(any(self.is_redacted(room_id, one) for one in children))
        self.app.restart()
        self.app.app.begin()
        self.settle()
        self.assertTrue(all(self.is_redacted(room_id, one) for one in children))

    def redactions(self, room_id: str) -> list[str]:
        """What was redacted, once for each redaction."""
        page = self.page("bob", room_id, limit="100", filter='{"types":["m.room.redaction"]}')
        return [event["content"]["redacts"] for event in page["chunk"]]

    def test_each_once(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        children = [self.related("bob", room_id, root, "m.thread") for _ in range(5)]
        # Both ask for them, at the same time.
        calls = []
        for number, kind in enumerate(("m.thread", "*")):
            path = self.path(room_id, "redact", root, f"r{number}")
            calls.append(self.app.start("PUT", path, {"with_relations": [kind]}, self.tokens["alice"]))
        for call in calls:
            self.assertEqual(200, self.app.wait(call).status)
        self.settle()
        children += [self.related("bob", room_id, root, "m.thread") for _ in range(3)]
        self.settle()
        self.assertEqual(sorted([root, root, *children]), sorted(self.redactions(room_id)))
        # Whoever asks for it explicitly gets one more.
        self.assertEqual(200, self.redact("alice", room_id, children[0], {}, "again")[0])
        self.assertEqual(2, self.redactions(room_id).count(children[0]))

    def test_each_looked_at_once(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("bob", room_id, "root")
        for _ in range(5):
            self.related("alice", room_id, root, "m.thread")
        self.assertEqual(200, self.redact("bob", room_id, root, {"with_relations": ["*"]})[0])
        looked: list[str] = []
        check = Sender._check_redaction

        async def counted(sender: Sender, turn: Any, user_id: str, target_id: str, **more: Any) -> None:
            looked.append(target_id)
            await check(sender, turn, user_id, target_id, **more)

        self.patch(Sender, "_check_redaction", counted)
        late = [self.related("alice", room_id, root, "m.thread") for _ in range(3)]
        self.settle()
        self.assertEqual(late, looked)

    def test_what_failed_is_tried_with_the_next(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_relations": ["m.thread"]})[0])
        check = Sender._check_redaction
        for error in (limit_exceeded(1), DatabaseUnavailable("gone")):

            async def failing(*_: Any, error: Exception = error, **__: Any) -> None:
                raise error

            self.patch(Sender, "_check_redaction", failing)
            missed = self.related("bob", room_id, root, "m.thread")
            self.settle()
            self.patch(Sender, "_check_redaction", check)
            self.assertFalse(self.is_redacted(room_id, missed))
            late = self.related("bob", room_id, root, "m.thread")
            self.settle()
            self.assertTrue(self.is_redacted(room_id, late))
            self.assertTrue(self.is_redacted(room_id, missed))

    def test_so_many_at_once_that_all_are_looked_at(self) -> None:
        self.patch(module, "NEWS_MOST", 2)
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_relations": ["m.thread"]})[0])
        calls, content = [], in_thread(root)
        for number in range(10):
            path = self.path(room_id, "send", "m.room.message", f"same{number}")
            calls.append(self.app.start("PUT", path, content, self.tokens["bob"]))
        late = [self.app.wait(call).json["event_id"] for call in calls]
        self.settle()
        self.assertEqual(sorted([root, *late]), sorted(self.redactions(room_id)))

    def test_the_author_does_not_stand_in_for_a_moderator(self) -> None:
        self.add("carol")
        for number, order in enumerate((("alice", "bob"), ("bob", "alice"))):
            room_id = self.make_room(joined=("bob", "carol"))
            root = self.say("bob", room_id, "root")
            early = self.related("carol", room_id, root, "m.thread")
            for name in order:
                answer = self.redact(name, room_id, root, {"with_relations": ["m.thread"]}, f"r{number}")
                self.assertEqual(200, answer[0])
            self.assertTrue(self.is_redacted(room_id, early))
            for restarted in (False, True):
                if restarted:
                    self.app.restart()
                late = self.related("carol", room_id, root, "m.thread")
                self.settle()
                self.assertTrue(self.is_redacted(room_id, late), order)

    def test_a_second_time_lasts_longer(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        for number in range(2):
            body = {"with_relations": ["m.thread"]}
            self.assertEqual(200, self.redact("alice", room_id, root, body, f"r{number}")[0])
            self.app.advance(module.KEPT_S - 60)
        self.app.restart()
        late = self.related("bob", room_id, root, "m.thread")
        self.settle()
        self.assertTrue(self.is_redacted(room_id, late))

    def test_the_time_of_each_is_over_by_itself(self) -> None:
        self.add("carol")
        room_id = self.make_room(joined=("bob", "carol"))
        root = self.say("bob", room_id, "root")
        body = {"with_relations": ["m.thread"]}
        self.assertEqual(200, self.redact("alice", room_id, root, body)[0])
        self.app.advance(module.KEPT_S - 60)
        self.assertEqual(200, self.redact("bob", room_id, root, body)[0])
        self.app.advance(120)
        own = self.related("bob", room_id, root, "m.thread")
        others = self.related("carol", room_id, root, "m.thread")
        self.settle()
        self.assertEqual([True, False], [self.is_redacted(room_id, one) for one in (own, others)])

    def test_the_latest_of_too_many(self) -> None:
        self.patch(module, "SENDERS_MOST", 1)
        self.add("carol")
        room_id = self.make_room(joined=("bob", "carol"))
        root = self.say("bob", room_id, "root")
        body = {"with_relations": ["m.thread"]}
        for name in ("bob", "alice"):
            self.assertEqual(200, self.redact(name, room_id, root, body)[0])
        late = self.related("carol", room_id, root, "m.thread")
        self.settle()
        self.assertTrue(self.is_redacted(room_id, late))

    def test_many(self) -> None:
        self.patch(module, "_AT_ONCE", 2)
        room_id = self.make_room()
        root = self.say("alice", room_id, "root")
        children = [self.related("alice", room_id, root, "m.thread") for _ in range(7)]
        self.assertEqual(200, self.redact("alice", room_id, root, {"with_relations": ["m.thread"]})[0])
        self.settle()
        self.assertTrue(all(self.is_redacted(room_id, one) for one in children))

    def test_refused(self) -> None:
        room_id = self.make_room(joined=("bob",))
        root = self.say("alice", room_id, "root")
        child = self.related("bob", room_id, root, "m.thread")
        for bad in ([""], ["x" * 256], [str(number) for number in range(21)], ["a\0b"]):
            answer = self.redact("alice", room_id, root, {"with_relations": bad})
            self.assert_refused(answer, 400, "M_INVALID_PARAM")
        nonsense: tuple[Any, ...] = ("m.thread", [1], {})
        for worse in nonsense:
            answer = self.redact("alice", room_id, root, {"with_relations": worse})
            self.assert_refused(answer, 400, "M_BAD_JSON")
        answer = self.redact("bob", room_id, root, {"with_relations": ["m.thread"]})
        self.assert_refused(answer, 403, "M_FORBIDDEN")
        self.assertFalse(self.is_redacted(room_id, child))
        # What nobody here has heard of is refused alike, and leaves nothing behind.
        unknown = f"!unknown:{SERVER_NAME}"
        answer = self.redact("bob", unknown, root, {"with_relations": ["m.thread"]})
        self.assert_refused(answer, 403, "M_FORBIDDEN")
        interner = self.app.app.core.interner
        self.assertIsNone(self.app.wait(Deferred.fromCoroutine(interner.find_room(unknown))))

    def test_once(self) -> None:
        room_id = self.make_room()
        root = self.say("alice", room_id, "root")
        body = {"with_relations": ["m.thread"]}
        first = self.redact("alice", room_id, root, body)
        self.assertEqual(first, self.redact("alice", room_id, root, body))


@on_each_database
class Annotations(RelatingCase):
    """The same reaction twice."""

    def react(self, name: str, room_id: str, target_id: str, key: str, **more: Any) -> tuple[int, Any]:
        return self.relate(name, room_id, target_id, "m.annotation", "m.reaction", key=key, **more)

    def test_refused(self) -> None:
        room_id = self.make_room(joined=("bob",))
        one, other = self.say("alice", room_id, "one"), self.say("alice", room_id, "other")
        status, json = self.react("alice", room_id, one, "👍")
        self.assertEqual(200, status, json)
        self.assert_refused(self.react("alice", room_id, one, "👍"), 400, "M_DUPLICATE_ANNOTATION")
        self.app.restart()
        self.assert_refused(self.react("alice", room_id, one, "👍"), 400, "M_DUPLICATE_ANNOTATION")
        # Another key, event, user or type is another annotation.
        self.assertEqual(200, self.react("alice", room_id, one, "👎")[0])
        self.assertEqual(200, self.react("alice", room_id, other, "👍")[0])
        self.assertEqual(200, self.react("bob", room_id, one, "👍")[0])
        self.assertEqual(200, self.relate("alice", room_id, one, "m.annotation", "m.x", key="👍")[0])
        # Once it is taken back, it may be said again.
        path = self.path(room_id, "redact", json["event_id"], "r")
        self.app.ok("PUT", path, {}, self.tokens["alice"])
        self.assertEqual(200, self.react("alice", room_id, one, "👍")[0])

    def test_at_the_same_time(self) -> None:
        room_id = self.make_room()
        target_id = self.say("alice", room_id, "one")
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target_id, "key": "👍"}}
        paths = [self.path(room_id, "send", "m.reaction", f"same{number}") for number in range(3)]
        calls = [self.app.start("PUT", path, content, self.tokens["alice"]) for path in paths]
        self.assertEqual([200, 400, 400], [self.app.wait(call).status for call in calls])

    def test_whatever_they_write(self) -> None:
        room_id = self.make_room()
        target_id = self.say("alice", room_id, "one")
        for relates_to in (
            "x",
            {"rel_type": "m.annotation"},
            {"rel_type": "m.annotation", "event_id": 1, "key": "a"},
            {"rel_type": "m.annotation", "event_id": target_id, "key": 1},
            {"rel_type": ["m.annotation"], "event_id": target_id, "key": "a"},
        ):
            for _ in range(2):
                status, json = self.send("alice", room_id, {"m.relates_to": relates_to}, "m.reaction")
                self.assertEqual(200, status, json)
