"""What sliding sync tells of bans that end. proposal: MSC4186"""

from __future__ import annotations

from tests.api.test_sliding_sync import BOB, SlidingCase, one_list


class UnbanTests(SlidingCase):
    def test_who_is_unbanned_hears_that_they_are_no_longer_banned(self) -> None:
        """Once: else a client says until its next start that they may not come back. New ones have nothing to unlearn."""
        for source in ("the log", "the tables"):
            room_id = self.room(source.replace(" ", ""))
            pos = self.ask(one_list())["pos"]
            self.app.member(room_id, "alice", "ban", "bob")
            banned = self.ask(one_list(), pos)
            self.assertEqual(banned["rooms"][room_id]["membership"], "ban", source)
            waiting = self.poll(one_list(), banned["pos"]) if source == "the log" else None
            self.app.member(room_id, "alice", "leave", "bob")
            if waiting is None:
                self.app.restart()
                answer = self.ask(one_list(), banned["pos"])
            else:
                answer = self.app.wait(waiting).json
            self.assertEqual(answer["rooms"][room_id]["membership"], "leave", source)
            (state,) = answer["rooms"][room_id]["required_state"]
            self.assertEqual((state["state_key"], state["content"]["membership"]), (BOB, "leave"), source)
            settled = self.ask(one_list(), answer["pos"])
            self.assertEqual((settled["rooms"], settled["lists"]["all"]["count"]), ({}, 0), source)
            self.assertNotIn(room_id, self.ask({"conn_id": "other", **one_list()})["rooms"], source)
