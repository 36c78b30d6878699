"""Whose turn it is among destinations."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from homeserver.peers import places as module
from homeserver.peers.places import FAILING_MOST, HEALTHY_MOST, SLOW_MOST, Places


class PlacesOfDestinations(SynchronousTestCase):
    def setUp(self) -> None:
        self.places: Places[str] = Places()

    def wait(self, name: str, count: int, *, failing: bool = False) -> list[str]:
        names = [f"{name}{number}" for number in range(count)]
        for one in names:
            self.places.wait(one, failing=failing)
        return names

    def start(self) -> list[str]:
        started: list[str] = []
        while (name := self.places.next()) is not None:
            started.append(name)
        return started

    def make_slow(self, *names: str) -> None:
        for name in names:
            self.places.wait(name, failing=False)
        for name in self.start():
            self.places.overstay(name)
            self.places.leave(name, prompt=False)

    def test_each_line_has_its_places(self) -> None:
        slow = [f"slow{number}" for number in range(SLOW_MOST + 1)]
        self.make_slow(*slow[:60])
        self.make_slow(*slow[60:])
        failing = self.wait("failing", FAILING_MOST + 1, failing=True)
        self.wait("slow", SLOW_MOST + 1)
        healthy = self.wait("healthy", HEALTHY_MOST + 1)
        self.assertEqual(self.start(), [*healthy[:-1], *slow[:-1], *failing[:-1]])
        self.assertEqual((self.places.busy, self.places.waiting), (250, 3))
        for name in (healthy[0], slow[0], failing[0]):
            self.places.leave(name)
        self.assertEqual(self.start(), [healthy[-1], slow[-1], failing[-1]])

    def test_a_place_is_given_back_when_it_takes_long(self) -> None:
        first = self.wait("first", HEALTHY_MOST)
        self.start()
        second = self.wait("second", HEALTHY_MOST)
        self.assertEqual(self.start(), [])
        for name in first:
            self.places.overstay(name)
        self.assertEqual(self.start(), second)
        # The slow ones have no place more: whoever takes long keeps the other's until they have.
        third = self.wait("third", 3)
        for name in second:
            self.places.overstay(name)
        self.assertEqual((self.start(), self.places.busy), ([], HEALTHY_MOST + SLOW_MOST))
        self.places.leave(first[0], prompt=False)
        self.places.wait(first[0], failing=False)
        self.assertEqual(self.start(), third[:1], "before the one that is slow and waits")
        self.places.leave(second[1], prompt=False)
        self.assertEqual(self.start(), third[1:2], "it ended while it was late")
        for name in (*first[1:], second[0], *second[2:]):
            self.places.leave(name, prompt=True)
        self.assertEqual(self.start(), [third[2], first[0]])
        for name in (*third, first[0]):
            self.places.overstay(name)
            self.places.leave(name)
        self.assertEqual((self.start(), self.places.busy, self.places.waiting), ([], 0, 0))

    def test_slow_until_it_can_do_better(self) -> None:
        self.make_slow("one")
        self.wait("healthy", HEALTHY_MOST)
        self.start()
        for prompt, started in ((None, True), (False, True), (True, True), (None, False)):
            self.places.wait("one", failing=False)
            self.assertEqual(self.start(), ["one"] if started else [], prompt)
            if started:
                self.places.leave("one", prompt=prompt)

    def test_bounded(self) -> None:
        self.patch(module, "KNOWN_MOST", 2)
        for name in ("one", "two", "one", "three"):
            self.make_slow(name)
        self.wait("healthy", HEALTHY_MOST)
        self.start()
        for name in ("one", "two", "three"):
            self.places.wait(name, failing=False)
        self.assertEqual(self.start(), ["one", "three"])
