"""Where nobody here may begin a thread. spec: client-server-api#validation-of-mthread-relationships"""

from __future__ import annotations

from typing import Any

from tests.api.test_relations import RelatingCase, related
from tests.support.databases import on_each_database


@on_each_database
class ThreadRoots(RelatingCase):
    def setUp(self) -> None:
        super().setUp()
        self.room_id = self.make_room(joined=("bob",))
        self.root = self.say("alice", self.room_id, "root")
        self.reply = self.relate("bob", self.room_id, "m.thread", self.root)

    def begin(self, target_id: str) -> tuple[int, Any]:
        return self.send("bob", self.room_id, related("m.thread", target_id))

    def test_not_at_what_relates_to_another_event(self) -> None:
        edit = self.edit("alice", self.room_id, self.root, "again")
        reaction = self.relate("bob", self.room_id, "m.annotation", self.root, "m.reaction")
        for target_id in (self.reply, edit, reaction):
            self.assert_refused(self.begin(target_id), 400, "M_UNKNOWN")
        # What it says of a place is looked for there alone.
        other = self.make_room(joined=("bob",))
        self.assertEqual(200, self.send("bob", other, related("m.thread", self.reply))[0])

    def test_what_only_answers_may_be_one(self) -> None:
        """Clients let people begin a thread at a rich reply, which has no ``rel_type``."""
        answer = {
            "msgtype": "m.text",
            "body": "x",
            "m.relates_to": {"m.in_reply_to": {"event_id": self.root}},
        }
        for target_id in (self.send("bob", self.room_id, answer)[1]["event_id"], self.root, "$unknown"):
            self.assertEqual(200, self.begin(target_id)[0])

    def test_what_was_taken_back_relates_to_nothing(self) -> None:
        self.redact("bob", self.room_id, self.reply)
        self.assertEqual(200, self.begin(self.reply)[0])
