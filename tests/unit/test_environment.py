"""The environments of tools beside ours: made once, whoever asks first and however many ask at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial import unittest

from tests.interop import environment

ASKERS = 4


class EnsureEnvironment(unittest.TestCase):
    def setUp(self) -> None:
        self.cache = Path(self.mktemp())
        self.made: list[Sequence[str]] = []
        self.patch(environment, "_install", self.install)

    def install(self, place: Path, requirements: Sequence[str]) -> None:
        self.made.append(requirements)
        place.mkdir(exist_ok=True)

    def test_many_at_once_make_one(self) -> None:
        """A lock of a file belongs to its opening, so threads stand for processes here."""
        together = threading.Barrier(ASKERS, timeout=60)
        first_look = Path.exists

        def exists(path: Path) -> bool:
            # Without a lock all are here at once before anybody has made anything; with it one is, and gives up
            # waiting for the others.
            found = first_look(path)
            if path.name == environment.STAMP_NAME and not self.made and not together.broken:
                with contextlib.suppress(threading.BrokenBarrierError):
                    together.wait(0.2)
            return found

        self.patch(Path, "exists", exists)
        with ThreadPoolExecutor(ASKERS) as pool:
            asked = [
                pool.submit(environment.ensure_environment, "tool", ["tool==1"], self.cache)
                for _ in range(ASKERS)
            ]
        self.assertEqual({one.result() for one in asked}, {self.cache / "tool" / "venv" / "bin"})
        self.assertEqual(self.made, [["tool==1"]])

    def test_made_again_for_other_requirements(self) -> None:
        for version in ("1", "1", "2"):
            environment.ensure_environment("tool", [f"tool=={version}"], self.cache)
        self.assertEqual(self.made, [["tool==1"], ["tool==2"]])

    def test_what_failed_is_made_again(self) -> None:
        with self.assertRaises(OSError):
            self.patch(environment, "_install", self.fail_to_install)
            environment.ensure_environment("tool", ["tool==1"], self.cache)
        self.patch(environment, "_install", self.install)
        environment.ensure_environment("tool", ["tool==1"], self.cache)
        self.assertEqual(self.made, [["tool==1"]])

    def fail_to_install(self, _place: Path, _requirements: Sequence[str]) -> None:
        raise OSError("no registry")
