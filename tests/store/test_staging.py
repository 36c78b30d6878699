"""Rows of events that wait, and of answers that were given."""

from __future__ import annotations

from typing import Any

from homeserver.db.engine import open_engine
from homeserver.store.staging import (
    StagedRow,
    find_answer,
    hasten_staged,
    load_due,
    load_next_due,
    load_waiting,
    postpone_staged,
    put_answer,
    put_staged,
    remove_copies,
    remove_staged,
    replace_staged,
    sweep_answers,
)
from tests.support.databases import DatabaseCase, on_each_database

LONGEST_MS = 10_000
_A, _B = "a.example", "b.example"


def row(event_id: str, origin: str = _A, at_ms: int = 10, room_nid: int = 1, text: str = "{}") -> StagedRow:
    return StagedRow(room_nid, event_id, origin, text, at_ms, 0, at_ms)


@on_each_database
class Staging(DatabaseCase):
    def setUp(self) -> None:
        self.session = open_engine(self.new_database()).writer()
        self.addCleanup(self.session.close)
        self.addCleanup(self.empty)

    def empty(self) -> None:
        """There are no rooms in this database, so nothing may wait in them at the end."""
        for one in self.run_unit(load_waiting):
            self.run_unit(remove_staged, one.room_nid, [one.event_id])

    def run_unit(self, unit: Any, *args: Any) -> Any:
        return self.session.run(unit, *args)

    def due(self, origin: str = _A, now_ms: int = 100, most: int = 50) -> list[str]:
        return [one.event_id for one in self.run_unit(load_due, 1, origin, now_ms, now_ms + LONGEST_MS, most)]

    def test_kept_by_room_and_server_oldest_first(self) -> None:
        rows = [
            row("$b", at_ms=20),
            row("$a", at_ms=10),
            row("$c", _B),
            row("$d", room_nid=2),
            row("$e", at_ms=101),
        ]
        self.run_unit(put_staged, rows)
        self.assertEqual(["$a", "$b"], self.due())
        self.assertEqual(["$a"], self.due(most=1))
        self.assertEqual(["$c"], self.due(_B))
        waiting = [(one.room_nid, one.event_id, one.origin) for one in self.run_unit(load_waiting)]
        self.assertEqual([(1, "$a", _A), (1, "$b", _A), (1, "$c", _B), (1, "$e", _A), (2, "$d", _A)], waiting)

    def test_due_later_than_anything_ever_is(self) -> None:
        """By a clock that has been set back since."""
        self.run_unit(put_staged, [row("$a", at_ms=100 + LONGEST_MS), row("$b", at_ms=101 + LONGEST_MS)])
        self.assertEqual(["$b"], self.due())

    def test_the_first_stands(self) -> None:
        self.run_unit(put_staged, [row("$a")])
        self.run_unit(put_staged, [row("$a", _B, at_ms=50, text='{"other":1}')])
        (found,) = self.run_unit(load_due, 1, _A, 100, 100 + LONGEST_MS, 50)
        self.assertEqual(row("$a"), found)

    def test_a_text_comes_back_as_it_was(self) -> None:
        text = '{"body":"\\u0000 \U0001f600 \\ud83d \\" \'%s"}'
        self.run_unit(put_staged, [row("$a", text=text)])
        self.assertEqual(text, self.run_unit(load_due, 1, _A, 100, 100 + LONGEST_MS, 50)[0].json)

    def test_postponed_hastened_removed(self) -> None:
        self.run_unit(put_staged, [row("$a"), row("$b"), row("$c", room_nid=2)])
        self.run_unit(postpone_staged, 1, ["$a"], 0, 500)
        self.run_unit(postpone_staged, 1, ["$a"], 1, 900)
        self.run_unit(postpone_staged, 1, ["$a"], 1, 950)  # whoever says so has seen an older row
        self.assertEqual(["$b"], self.due())
        self.assertEqual(10, self.run_unit(load_next_due, 1, _A))
        self.run_unit(remove_staged, 1, ["$b", "$c", "$nowhere"])
        self.assertEqual(900, self.run_unit(load_next_due, 1, _A))
        # What was tried so often already is not hastened; what is due before stays so.
        self.run_unit(hasten_staged, 1, 300, 2)
        self.assertEqual(900, self.run_unit(load_next_due, 1, _A))
        self.run_unit(hasten_staged, 1, 300, 3)
        self.assertEqual(300, self.run_unit(load_next_due, 1, _A))
        self.run_unit(hasten_staged, 1, 400, 3)
        (found,) = self.run_unit(load_due, 1, _A, 300, 300 + LONGEST_MS, 50)
        self.assertEqual((2, 300), (found.attempts, found.retry_ts_ms))
        self.run_unit(remove_staged, 1, ["$a"])
        self.assertIsNone(self.run_unit(load_next_due, 1, _A))
        self.assertEqual(["$c"], [one.event_id for one in self.run_unit(load_waiting)])

    def test_another_copy_takes_the_place_of_one(self) -> None:
        text = '{"body":"\\u0000 \U0001f600 \\ud83d \\" \'%s"}'
        bad = [row("$a", text=text), row("$b", text=text)]
        self.run_unit(put_staged, [*bad, row("$c", text=text)])
        self.run_unit(postpone_staged, 1, ["$a", "$b", "$c"], 0, 500)
        good = row("$a", at_ms=50, text="{}")
        self.run_unit(replace_staged, [good])
        # It is tried as if it had come alone, and what was found out about the other one does not count.
        self.assertEqual(["$b"], self.run_unit(remove_copies, 1, [*bad, row("$nowhere")]))
        self.assertEqual([good], self.run_unit(load_due, 1, _A, 400, 400 + LONGEST_MS, 50))
        self.assertEqual(["$a", "$c"], [one.event_id for one in self.run_unit(load_waiting)])

    def test_answers(self) -> None:
        self.run_unit(put_answer, _A, "1", "first", 10)
        self.run_unit(put_answer, _A, "1", "second", 20)
        self.run_unit(put_answer, _B, "1", "other", 20)
        self.assertEqual("first", self.run_unit(find_answer, _A, "1"))
        self.assertEqual("other", self.run_unit(find_answer, _B, "1"))
        self.assertIsNone(self.run_unit(find_answer, _B, "2"))
        self.assertEqual(1, self.run_unit(sweep_answers, 15, 50))
        self.assertEqual(1, self.run_unit(sweep_answers, 100, 1))
        self.assertEqual(0, self.run_unit(sweep_answers, 100, 50))
        self.assertIsNone(self.run_unit(find_answer, _A, "1"))
