"""`chaos serve` as a real process with a real reactor and real signals, around an application that does nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from homeserver.cli.operations import Listening
from homeserver.cli.serve import listening_line

ROOT = Path(__file__).parents[3]
READY = "listening on http://localhost:8008 (client, federation, web, health)\n"
PATIENCE_S = 60


class ServeTests(SynchronousTestCase):
    log = subprocess.PIPE

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.cli.fakes", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_development_from_start_to_sigterm(self) -> None:
        process = self.start("--dev")
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), READY)
        self.assertEqual(process.stdout.readline(), "log in as alice / secret\n")
        self.assertTrue((self.folder / "data" / "signing.key").exists())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual((process.returncode, out), (0, "start development=True | stop | close\n"), err)
        self.assertEqual(len(err.splitlines()), 4, err)

    def test_a_stop_that_takes_a_while_is_waited_for_and_a_second_signal_changes_nothing(self) -> None:
        process = self.start("--dev", FAKE_STOP_S="0.3")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, 0, err)
        self.assertTrue(out.endswith("stop | close\n"), out)

    def test_a_reload_takes_what_may_change_and_survives_a_broken_file(self) -> None:
        config = self.folder / "chaos.yaml"
        config.write_text("server_name: a.b\nlisteners: [{port: 0, bind: '::', serve: [metrics]}]\n")
        process = self.start()
        assert process.stdout is not None
        assert process.stderr is not None
        self.assertEqual(process.stdout.readline(), "listening on http://[::]:50000 (metrics)\n")
        self._read_until(process, "ready")
        config.write_text("server_name: [")
        process.send_signal(signal.SIGHUP)
        line = self._read_until(process, "certificate not renewed")
        self.assertIn("listeners[0].tls: no certificate in c.pem", line)
        self._read_until(process, "configuration not reloaded")
        config.write_text("server_name: a.b\nregistration: {mode: open}\nredis: 'redis://h'\n")
        process.send_signal(signal.SIGHUP)
        line = self._read_until(process, "configuration reloaded")
        self.assertIn('"changed": ["registration.mode"]', line)
        self.assertIn('"waiting_for_restart": ["redis", "listeners"]', line)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(
            (process.returncode, out), (0, "start development=False | reload open | stop | close\n")
        )

    def test_a_key_that_nothing_uses_yet_is_warned_of(self) -> None:
        process = self.start("--dev", CHAOS_REDIS="redis://h")
        self.assertIn('"key": "redis"', self._read_until(process, "configured, but not used yet"))

    def test_a_log_that_nobody_reads_any_more_changes_nothing(self) -> None:
        cases: list[tuple[dict[str, str], int]] = [({}, 0), ({"FAKE_ERROR": "no such database"}, 1)]
        for variables, status in cases:
            reading, self.log = os.pipe()
            os.close(reading)
            process = self.start("--dev", **variables)
            os.close(self.log)
            assert process.stdout is not None
            if not status:
                self.assertEqual(process.stdout.readline(), READY)
                process.stdout.readline()
                process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE_S)
            self.assertEqual(process.returncode, status)
            self.assertTrue(out.endswith("close\n"), out)

    def test_a_start_that_fails_is_one_line(self) -> None:
        for variable, value, line in (
            ("FAKE_PORT_TAKEN", "1", "chaos: cannot listen on 127.0.0.1:8008: Address already in use"),
            ("FAKE_ERROR", "no such database", "chaos: no such database"),
        ):
            process = self.start("--dev", **{variable: value})
            out, err = process.communicate(timeout=PATIENCE_S)
            self.assertEqual((process.returncode, out), (1, "close\n"))
            self.assertEqual(err.splitlines()[-1], line)

    def _read_until(self, process: subprocess.Popen[str], event: str) -> str:
        assert process.stderr is not None
        for line in process.stderr:
            if f'"event": "{event}"' in line:
                return line
        raise AssertionError(f"the log never said {event!r}")


class ListeningLineTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        for bind, shown in (
            ("127.0.0.1", "localhost"),
            ("::1", "localhost"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "[::]"),
        ):
            self.assertEqual(
                listening_line(Listening("https", bind, 8448, ("federation", "client"))),
                f"listening on https://{shown}:8448 (federation, client)",
            )
