"""The set-up script says in one line what is missing, and knows when there is nothing to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.trial import unittest

from scripts import setup
from scripts.totals import Totals


class FindPython(unittest.TestCase):
    """Which interpreter the virtual environment is made with."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.patch(os, "environ", {**os.environ, "PATH": str(self.folder.resolve())})
        self.patch(os, "geteuid", lambda: 1000)
        self.patch(sys, "executable", "")

    def interpreter(self, name: str, version: str, status: int = 0) -> str:
        path = self.folder.resolve() / name
        path.write_text(f"#!/bin/sh\necho {version}\nexit {status}\n")
        path.chmod(0o755)
        return str(path)

    def test_the_default_one_where_it_fits(self) -> None:
        self.interpreter("python3.13", "3 13")
        wanted = self.interpreter("python3", "3 11")
        self.assertEqual(setup.find_python(), wanted)

    def test_the_one_that_was_asked_for(self) -> None:
        self.interpreter("python3", "3 11")
        wanted = self.interpreter("python3.13", "3 13")
        self.patch(sys, "executable", wanted)
        self.patch(sys, "prefix", sys.base_prefix)
        self.assertEqual(setup.find_python(), wanted)

    def test_another_where_the_default_is_too_old_or_too_new(self) -> None:
        wanted = self.interpreter("python3.12", "3 12")
        for version in ("3 9", "3 14"):
            self.interpreter("python3", version)
            self.assertEqual(setup.find_python(), wanted)

    def test_another_where_the_default_cannot_make_environments(self) -> None:
        self.interpreter("python3", "3 11", status=1)
        wanted = self.interpreter("python3.12", "3 12")
        self.assertEqual(setup.find_python(), wanted)

    def test_names_the_package_that_is_missing(self) -> None:
        path = self.interpreter("python3", "3 11", status=1)
        error = self.assertRaises(setup.SetupError, setup.find_python)
        self.assertEqual(
            str(error), f"{path} cannot make virtual environments: run `apt-get install python3.11-venv`"
        )

    def test_no_python_that_fits(self) -> None:
        self.interpreter("python3", "3 9")
        error = self.assertRaises(setup.SetupError, setup.find_python)
        self.assertIn("3.11, 3.12 or 3.13", str(error))


class Stamp(unittest.TestCase):
    """The hash of what .venv was made from."""

    def test_changes_with_the_lock(self) -> None:
        before = setup.stamp()
        self.assertEqual(setup.stamp(), before)
        other = Path(self.mktemp())
        other.write_bytes(setup.LOCK.read_bytes() + b"\n")
        self.patch(setup, "LOCK", other)
        self.assertNotEqual(setup.stamp(), before)

    def test_a_fitting_stamp_is_all_there_is_to_do(self) -> None:
        stamp = Path(self.mktemp())
        stamp.write_text(setup.stamp())
        self.patch(setup, "STAMP", stamp)
        self.patch(setup, "PYTHON", stamp)
        self.patch(setup, "make_environment", lambda: self.fail("made the environment again"))
        self.assertEqual(setup.main(), 0)


class Bytecode(unittest.TestCase):
    """What is compiled beforehand."""

    def test_is_written_also_where_python_is_told_to_write_none(self) -> None:
        folder = Path(self.mktemp())
        (folder / "homeserver").mkdir(parents=True)
        (folder / "homeserver" / "one.py").write_text("ONE = 1\n")
        self.patch(setup, "REPOSITORY", folder)
        self.patch(os, "environ", {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        setup.compile_packages(sys.executable)
        written = [path.name for path in (folder / "homeserver" / "__pycache__").iterdir()]
        self.assertEqual(written, [f"one.{sys.implementation.cache_tag}.pyc"])


class TotalsLine(unittest.TestCase):
    """The line that every suite ends in."""

    def test_read(self) -> None:
        self.assertEqual(
            Totals.of("1 passed, 0 failed, 0 skipped\nx\n7 passed, 1 failed, 2 skipped\n", 1), Totals(7, 1, 2)
        )
        self.assertEqual(Totals.of("40 seeds, 9000 events, 2 failed\n", 1), Totals(38, 2, 0))
        self.assertEqual(Totals.of("no such line", 0), Totals(passed=1))
        self.assertEqual(Totals.of("no such line", 2), Totals(failed=1))

    def test_a_bad_status_is_never_without_failure(self) -> None:
        self.assertEqual(Totals.of("7 passed, 0 failed, 2 skipped", 1), Totals(7, 1, 2))

    def test_add_and_print(self) -> None:
        self.assertEqual(str(Totals(1, 2, 3) + Totals(10, 20, 30)), "11 passed, 22 failed, 33 skipped")
