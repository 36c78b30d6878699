"""The senders with a network of their own: thousands of destinations, places, fairness, memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from federation.ids import EventId, ServerName
from federation.queue import Outcome, OutgoingEdu, PduRef, Transaction
from homeserver.config.schema import Config, Federation
from homeserver.config.settings import Settings
from homeserver.db.errors import DatabaseUnavailable
from homeserver.peers.delivery import Delivery
from homeserver.peers.places import FAILING_MOST, HEALTHY_MOST, PROMPT_S, SLOW_MOST
from homeserver.peers.sender import STATES, Sender
from homeserver.runtime.clock import LOOK_AGAIN_S, TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from tests.support.clocks import set_clock

SILENCE = Delivery(Outcome.RETRY_LATER, answered=False)
DELIVERED = Delivery(Outcome.DELIVERED)


class Network:
    """In the place of the carrier: every transaction waits until the test answers."""

    def __init__(self) -> None:
        self.open: list[tuple[Transaction, Deferred[Delivery]]] = []
        self.order: list[str] = []
        self.most_at_once = 0

    def allows(self, server_name: str) -> bool:
        return server_name != "denied.example"

    def deliver(self, transaction: Transaction, ts_ms: int) -> Deferred[Delivery]:
        waiting: Deferred[Delivery] = Deferred()
        self.open.append((transaction, waiting))
        self.order.append(transaction.destination)
        self.most_at_once = max(self.most_at_once, len(self.open))
        return waiting

    def answer(self, how: Delivery, *only: str) -> list[Transaction]:
        """Answer all that is open now, or that to some destinations."""
        answered = [one for one in self.open if not only or one[0].destination in only]
        self.open = [one for one in self.open if one not in answered]
        for _, waiting in answered:
            waiting.callback(how)
        return [transaction for transaction, _ in answered]


class NoDatabase:
    """Nothing was owed; what is read of the timelines is what the test says."""

    def __init__(self) -> None:
        self.owed: dict[str, list[PduRef]] = {}
        self.fail: Exception | None = None
        self.reads = 0

    async def read(self, unit: Any, *args: Any) -> Any:
        self.reads += 1
        if self.fail is not None:
            raise self.fail
        if unit.__name__ == "_load_start":
            return [], {}, 0
        if unit.__name__ == "load_shared":
            return {}
        name, _, after, upto, _ = args
        return [ref for ref in self.owed[name] if after < ref.pos <= upto], upto


class Senders(SynchronousTestCase):
    def setUp(self) -> None:
        self.time, self.network, self.database, self.log = TaskClock(), Network(), NoDatabase(), MemoryLog()
        self.time.rightNow = 1_700_000_000.0
        # Nothing here is of a room: no index, and nobody who writes.
        parts: list[Any] = [self.network, self.database, None, None]
        self.sender = Sender(
            parts[0],
            parts[1],
            Settings(Config("home.example", federation=Federation(retry_min_s=10, retry_max_s=3600))),
            TwistedClock(self.time),
            SeededEntropy(1),
            self.log,
            lambda _: [],
            parts[2],
            parts[3],
            lambda *_: [],
            lambda: None,
        )
        self.successResultOf(Deferred.fromCoroutine(self.sender.start()))
        self.pos = 0

    def say(self, *names: str) -> None:
        """One event for some servers."""
        self.pos += 1
        for name in names:
            ref = PduRef(self.pos, EventId(f"${self.pos}"))
            self.database.owed.setdefault(name, []).append(ref)
            self.sender.enqueue(name, ref)
        self.sender.passed(self.pos)
        self.pump()

    def pump(self, seconds: float = 0) -> None:
        self.time.advance(seconds)
        for _ in range(3):
            self.time.advance(0)

    def test_thousands_of_destinations(self) -> None:
        names = [f"s{number}.example" for number in range(3_000)]
        self.say(*names)
        while self.network.open:
            self.network.answer(DELIVERED)
            self.pump()
        self.assertEqual(self.network.most_at_once, HEALTHY_MOST)
        self.assertEqual(sorted(self.network.order), sorted(names))
        self.assertEqual([len(self.sender), *map(self.sender.count, STATES)], [0, 0, 0, 0])
        unit: Any = self.sender.unsaved()
        self.assertEqual((unit.keywords["owing"], unit.keywords["forget"]), ([], []))

    def test_thousands_of_dead_ones_and_one_that_lives(self) -> None:
        names = [f"s{number}.example" for number in range(2_000)]
        self.say(*names)
        while self.network.open:
            self.network.answer(SILENCE)
            self.pump()
        self.assertEqual(self.sender.count("failing"), len(names))
        for _ in range(5):
            self.say(*names, "alive.example")
            self.network.answer(DELIVERED, "alive.example")
            self.pump()
        kept = sum(len(link.machine._pdus) for link in self.sender._links.values())
        self.assertEqual(kept, 0, "a dead server costs its object, and nothing for each event")
        # They come back all at once, but not all at the same time.
        self.network.most_at_once = 0
        self.pump(11)
        self.assertEqual(len(self.network.open), FAILING_MOST)
        self.say("alive.example")
        self.assertEqual(self.network.order[-1], "alive.example", "it has not waited for them")
        self.network.answer(DELIVERED, "alive.example")
        sent: dict[str, list[int]] = {}
        for _ in range(1_000):
            for transaction in self.network.answer(DELIVERED):
                sent.setdefault(transaction.destination, []).extend(ref.pos for ref in transaction.pdus)
            self.pump()
        self.assertEqual(sent, {name: [1, 2, 3, 4, 5, 6] for name in names})
        self.assertEqual(len(self.sender), 0)

    def _answer_slowly(self, seconds: int, taking_s: int, *prompt: str) -> None:
        """Let time pass, with something for these at each second: they answer at once, everybody else later."""
        began: dict[str, int] = {}
        for second in range(seconds):
            self.say(*prompt)
            self.assertEqual(self.network.order[-len(prompt) :], [*prompt], f"sent at once, at {second} s")
            self.network.answer(DELIVERED, *prompt)
            for transaction, _ in self.network.open:
                began.setdefault(transaction.txn_id, second)
            due = {one.destination for one, _ in self.network.open if second - began[one.txn_id] >= taking_s}
            if due:
                self.network.answer(DELIVERED, *due)
            self.pump(1)

    def test_hundreds_that_answer_slowly_and_one_that_is_prompt(self) -> None:
        names = [f"s{number}.example" for number in range(HEALTHY_MOST + SLOW_MOST // 2)]
        self.say(*names)
        self.pump(PROMPT_S)
        self._answer_slowly(200, 50, "prompt.example")
        # From now on they are known, and something always waits for them.
        for _ in range(5):
            self.say(*names)
            self._answer_slowly(60, 50, "prompt.example")
            self.assertLessEqual(len(self.network.open), SLOW_MOST)
        self._answer_slowly(150, 50, "prompt.example")
        self.assertEqual([len(self.sender), *map(self.sender.count, STATES)], [0, 0, 0, 0])
        self.assertLessEqual(self.network.most_at_once, HEALTHY_MOST + SLOW_MOST)
        # It is remembered of them although there was nothing for them, until they show that they can do better.
        self.say(*names)
        self.assertEqual(len(self.network.open), SLOW_MOST)
        self.network.answer(DELIVERED)
        self.pump()
        self.network.answer(DELIVERED)
        self.say(*names)
        self.assertEqual(len(self.network.open), HEALTHY_MOST)

    def test_a_busy_destination_waits_for_the_others(self) -> None:
        for number in range(120):
            self.pos += 1
            self.sender.enqueue("busy.example", PduRef(self.pos, EventId(f"${number}")))
        others = [f"s{number}.example" for number in range(HEALTHY_MOST)]
        self.say(*others)
        self.network.order.clear()
        for _ in range(5):
            self.network.answer(DELIVERED)
            self.pump()
        place = [place for place, name in enumerate(self.network.order) if name == "busy.example"]
        self.assertEqual(self.network.order[: place[0]].count(others[-1]), 1, "one turn, then the others'")
        self.assertEqual(len(self.sender), 0)

    def test_a_sign_of_life_of_everybody_at_once(self) -> None:
        names = [f"s{number}.example" for number in range(200)]
        self.say(*names)
        while self.network.open:
            self.network.answer(SILENCE)
            self.pump()
        self.pump(5)
        for name in names:
            self.sender.heard_from(name)
        self.sender.heard_from("unknown.example")
        self.pump()
        self.assertEqual(len(self.network.open), FAILING_MOST)

    def fail_often(self, *names: str) -> None:
        """These wait for about an hour."""
        self.say(*names)
        for _ in range(12):
            self.network.answer(SILENCE)
            for _ in range(125):
                self.pump(30)
        self.network.answer(SILENCE)
        self.pump()
        self.assertEqual([], self.network.open)

    def test_the_clock_is_set_forward(self) -> None:
        self.fail_often("one.example")
        set_clock(self, 3_600)
        self.pump(LOOK_AGAIN_S)
        self.assertEqual(len(self.network.open), 1)

    def test_the_clock_is_set_back(self) -> None:
        """Nobody waits longer than the longest time between two attempts."""
        self.fail_often("one.example")
        self.say("two.example")
        self.network.answer(SILENCE)
        set_clock(self, -7_200)
        self.pump(LOOK_AGAIN_S)
        self.assertTrue(self.sender.is_down("one.example"))
        self.assertTrue(self.sender.is_down("two.example"))
        for _ in range(119):
            self.pump(30)
        self.assertEqual([], self.network.open)
        self.pump(30)
        self.assertEqual(
            sorted(one.destination for one, _ in self.network.open), ["one.example", "two.example"]
        )

    def test_a_sign_of_life_after_the_clock_was_set_back(self) -> None:
        self.say("one.example")
        self.network.answer(SILENCE)
        set_clock(self, -7_200)
        self.pump(LOOK_AGAIN_S)
        self.sender.heard_from("one.example")
        self.pump(2)
        self.assertEqual(len(self.network.open), 1)

    def test_the_clock_is_set_back_while_the_database_is_away(self) -> None:
        self.say("one.example")
        self.network.answer(SILENCE)
        self.say("one.example")
        self.pump(10)
        self.database.fail = DatabaseUnavailable("away")
        self.network.answer(DELIVERED)
        self.pump()
        self.database.fail = None
        set_clock(self, -7_200)
        self.pump(LOOK_AGAIN_S)
        self.pump(5)
        self.assertEqual(len(self.network.open), 1)

    def test_a_failure_of_ours_is_not_the_end(self) -> None:
        self.say("one.example")
        transaction, waiting = self.network.open.pop()
        waiting.errback(DatabaseUnavailable("not now"))
        self.pump()
        self.assertEqual(self.sender.count("failing"), 1)
        self.say("one.example")
        self.pump(10)
        self.assertIs(self.network.open[0][0], transaction)
        self.database.fail = DatabaseUnavailable("not now")
        self.network.answer(DELIVERED)
        self.pump()
        self.assertEqual(self.network.open, [], "what is owed cannot be read")
        self.database.fail = None
        self.pump(5)
        self.assertEqual([ref.pos for ref in self.network.open[0][0].pdus], [2])
        self.assertIn("what is owed to another server could not be read", self.log.events("warning"))

    def test_a_bug_of_ours_neither(self) -> None:
        self.say("one.example")
        self.network.open.pop()[1].errback(RuntimeError("a bug"))
        self.pump()
        self.assertEqual((self.sender.count("failing"), self.log.events("error")), (1, ["task failed"]))
        self.pump(10)
        self.network.answer(DELIVERED)
        self.pump()
        self.assertEqual(len(self.sender), 0)

    def test_a_bug_in_reading_is_not_met_again_at_once(self) -> None:
        self.say("one.example")
        self.network.open.pop()[1].callback(SILENCE)
        self.say("one.example")
        self.database.fail = RuntimeError("a bug")
        self.pump(10)
        self.network.answer(DELIVERED)
        reads = self.database.reads
        for _ in range(50):
            self.pump()
        self.assertEqual(self.database.reads, reads + 1)
        self.assertEqual(self.log.events("error"), ["task failed"])
        self.database.fail = None
        self.pump(5)
        self.assertEqual([ref.pos for ref in self.network.open[0][0].pdus], [2])

    def test_what_is_kept_beside_the_cursor(self) -> None:
        written: list[Any] = []

        def save() -> None:
            unit: Any = self.sender.unsaved()
            written.append(None if unit is None else (unit.keywords["owing"], unit.keywords["forget"]))
            self.sender.saved()

        save()
        self.assertIsNone(written.pop())
        self.say("one.example", "two.example", "denied.example")
        save()
        owing, forget = written.pop()
        self.assertEqual(
            ([row[:4] for row in owing], forget), ([("one.example", 0, 0, 0), ("two.example", 0, 0, 0)], [])
        )
        save()
        self.assertIsNone(written.pop(), "nothing has changed")
        self.network.answer(SILENCE, "two.example")
        self.network.answer(DELIVERED, "one.example")
        save()
        owing, forget = written.pop()
        self.assertEqual(([row[:4] for row in owing], forget), ([("two.example", 0, 0, 1)], ["one.example"]))
        self.assertEqual(owing[0].retry_at_ts_ms, int(self.time.seconds() * 1000) + 10_000)

    def test_stop_keeps_what_was_under_way(self) -> None:
        self.say("one.example")
        self.successResultOf(Deferred.fromCoroutine(self.sender.stop()))
        unit: Any = self.sender.unsaved()
        self.assertEqual(unit.keywords["owing"][0][:4], ("one.example", 0, 0, 0))
        # What is committed before everything has stopped is owed: the cursor passes it.
        self.say("one.example", "two.example")
        self.sender.enqueue_edu("one.example", OutgoingEdu(b"{}"))
        self.sender.owe_devices("three.example", 5)
        self.pump(100)
        self.assertEqual(len(self.network.order), 1)
        unit = self.sender.unsaved()
        rows = [row[:4] for row in unit.keywords["owing"]]
        self.assertEqual(
            rows, [("one.example", 0, 0, 0), ("two.example", 1, 0, 0), ("three.example", 2, 2, 0)]
        )

    def test_ephemeral_edus_are_bounded(self) -> None:
        self.say("one.example")
        for number in range(2_000):
            self.sender.enqueue_edu("one.example", OutgoingEdu(b"%d" % number))
        link = self.sender._links[ServerName("one.example")]
        self.assertEqual(len(link.machine._edus), 1_000)
