"""The test runner counts every test once, survives what tests do to it, and says so in its last line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial import unittest

from tests import runner

SAMPLE = """
import os, unittest as plain
from twisted.internet import defer, task
from twisted.trial import unittest

class Sample(unittest.TestCase):
    def test_passes(self):
        print("noise on standard output")
        os.write(1, b"and straight to the descriptor")

    def test_fails(self):
        self.addCleanup(self.fail, "again, in the clean-up")
        self.assertEqual(1, 2)

    def test_skips(self):
        raise unittest.SkipTest("not here")

    def test_waits(self):
        from twisted.internet import reactor
        return task.deferLater(reactor, 0, lambda: None)

    def test_cleanup_fails(self):
        self.addCleanup(self.fail, "late")

    def test_logged_error(self):
        from twisted.python import log
        log.err(ValueError("nobody expected me"))

class Plain(plain.TestCase):
    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)

    @plain.expectedFailure
    def test_known(self):
        self.fail("as expected")
"""


class RunnerTests(unittest.TestCase):
    """`python -m tests.runner` on small modules made up here."""

    def _results(self, **modules: str) -> subprocess.CompletedProcess[str]:
        folder = Path(self.mktemp())
        (folder / "samples").mkdir(parents=True)
        (folder / "samples" / "__init__.py").touch()
        names = []
        for name, text in modules.items():
            (folder / "samples" / f"{name}.py").write_text(text)
            names.append(f"tests.samples.{name}")
        # The runner takes names below `tests.`; make the samples one of its packages for the child processes only.
        (folder / "sitecustomize.py").write_text(
            f"import tests; tests.__path__.append({str(folder.resolve())!r})\n"
        )
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder.resolve()), str(runner.REPOSITORY)]),
        }
        return subprocess.run(
            [sys.executable, "-m", "tests.runner", "--sqlite-only", *names],
            cwd=runner.REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def test_every_kind_of_result_counts_once(self) -> None:
        done = self._results(test_sample=SAMPLE)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1], "2 passed, 4 failed, 2 skipped")
        self.assertIn("skipped 1: not here", done.stdout)
        self.assertIn("nobody expected me", done.stdout)
        self.assertIn("again, in the clean-up", done.stdout)
        self.assertNotIn("noise on standard output", done.stdout)

    def test_a_module_that_cannot_be_imported_fails(self) -> None:
        done = self._results(test_broken="import nothing_of_that_name\n")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1], "0 passed, 1 failed, 0 skipped")
        self.assertIn("nothing_of_that_name", done.stdout)

    def test_a_worker_that_dies_costs_one_module(self) -> None:
        fatal = "import os, unittest\nclass C(unittest.TestCase):\n    def test_end(self): os._exit(7)\n"
        fine = "import unittest\nclass C(unittest.TestCase):\n    def test_fine(self): pass\n"
        done = self._results(test_fatal=fatal, test_fine=fine, test_fine_too=fine)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1], "2 passed, 1 failed, 0 skipped")
        self.assertIn("the worker process died with status 7", done.stdout)

    def test_success_and_nothing_at_all(self) -> None:
        fine = "import unittest\nclass C(unittest.TestCase):\n    def test_fine(self): pass\n"
        done = self._results(test_fine=fine)
        self.assertEqual(
            (done.returncode, done.stdout.splitlines()[-1]), (0, "1 passed, 0 failed, 0 skipped")
        )
        empty = self._results(test_empty="")
        self.assertEqual(
            (empty.returncode, empty.stdout.splitlines()[-1]), (1, "0 passed, 0 failed, 0 skipped")
        )

    def test_what_to_run(self) -> None:
        this = "tests.unit.test_runner"
        self.assertEqual(list(runner.modules_of("tests/unit/test_runner.py")), [this])
        self.assertEqual(list(runner.modules_of(f"{this}.RunnerTests")), [f"{this}.RunnerTests"])
        self.assertIn(this, list(runner.modules_of("unit")))
        self.assertIn("unit", runner.default_suites())
        self.assertNotIn("e2e", runner.default_suites())
        self.assertRaises(SystemExit, list, runner.modules_of("no-such-suite"))
