"""`chaos` for real: the process, the reactor, the database and the signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
CONFIGURATION = """\
server_name: real.example
listeners:
  - {port: 0, serve: [client, federation, web, health]}
  - {port: 0, serve: [metrics]}
"""


class ProcessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        (self.folder / "chaos.yaml").write_text(CONFIGURATION)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "homeserver", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_chaos(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Standard output and the last line of standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, status, err)
        return out, err.splitlines()[-1] if err else ""

    def serve(self, *arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
        """A server that listens, and its ports."""
        process = self.start("serve", *arguments)
        assert process.stdout is not None
        ports = []
        for _ in range(2):
            line = process.stdout.readline()
            self.assertTrue(line.startswith("listening on http://localhost:"), line)
            ports.append(int(line.split(":")[2].split()[0]))
        return process, ports

    def end(self, process: subprocess.Popen[str], how: int = signal.SIGTERM) -> tuple[str, str]:
        assert process.stdout is not None
        assert process.stderr is not None
        process.send_signal(how)
        # Not communicate(): it would forget what was read ahead with the lines before.
        out, err = process.stdout.read(), process.stderr.read()
        process.wait(PATIENCE_S)
        self.assertEqual(process.returncode, 0, err)
        self.assertNotIn("Traceback", err)
        return out, err

    def ask(self, port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Serving(ProcessCase):
    def test_from_first_start_to_backup_and_doctor(self) -> None:
        process, (port, metrics_port) = self.serve("--dev", "--config", "chaos.yaml")
        for path, status in (
            ("/", 200),
            ("/_chaos/health", 200),
            ("/_matrix/client/versions", 200),
            ("/metrics", 404),
        ):
            self.assertEqual(self.ask(port, "GET", path)[0], status, path)
        status, metrics = self.ask(metrics_port, "GET", "/metrics")
        self.assertEqual(status, 200)
        for expected in (
            b"chaos_request_seconds_count{",
            b'chaos_cache_bytes{cache="events"}',
            b"chaos_stream_position",
        ):
            self.assertIn(expected, metrics)
        self.assertEqual(self.ask(metrics_port, "GET", "/")[0], 404)
        # Beside the server: on its database, while it runs.
        out, _ = self.run_chaos("user", "add", "zoe", "--password", "x")
        self.assertEqual(out, "created @zoe:real.example\n")
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "zoe"},
            "password": "x",
        }
        self.assertEqual(self.ask(port, "POST", "/_matrix/client/v3/login", body)[0], 200)
        out, _ = self.run_chaos("backup", "all.backup")
        self.assertIn("and the signing key", out)
        out, _ = self.run_chaos("doctor")
        self.assertIn("ok      database: SQLite answers", out)
        out, _ = self.end(process)
        self.assertIn("log in with the password", out)
        self.assertIn("@juniper:real.example", out)

    def test_the_second_start_says_no_more_than_that_it_listens(self) -> None:
        for expected in (1, 0):
            process, (port, _) = self.serve("--dev", "--config", "chaos.yaml")
            self.assertIn(b"@otto:real.example", self.ask(port, "GET", "/")[1])
            out, _ = self.end(process, signal.SIGINT)
            self.assertEqual(out.count("@otto:real.example"), expected)

    def test_without_dev_nothing_is_made(self) -> None:
        process, (port, _) = self.serve()
        self.assertNotIn(b"Sample community", self.ask(port, "GET", "/")[1])
        self.end(process)
        self.assertEqual(self.run_chaos("user", "list")[0], "")

    def test_an_idle_connection_and_a_half_request_do_not_hold_it_up(self) -> None:
        process, (port, _) = self.serve()
        idle = socket.create_connection(("127.0.0.1", port))
        half = socket.create_connection(("127.0.0.1", port))
        with idle, half:
            half.sendall(b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            self.end(process)
            self.assertEqual(idle.recv(1), b"")

    def test_a_port_that_is_taken(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            (self.folder / "chaos.yaml").write_text(
                f"server_name: a.b\nlisteners: [{{port: 0}}, {{port: {port}}}]\n"
            )
            _, error = self.run_chaos("serve", status=1)
        self.assertEqual(error, f"chaos: cannot listen on 127.0.0.1:{port}: Address already in use")

    def test_files_that_cannot_be_used_are_told_before_anything_listens(self) -> None:
        (self.folder / "chaos.yaml").write_text(
            "server_name: a.b\n"
            "listeners: [{port: 0}, {port: 0, tls: {certificate_file: c.pem, private_key_file: k.pem}}]\n"
        )
        (self.folder / "c.pem").write_text("nonsense")
        out, error = self.run_chaos("serve", status=2)
        self.assertEqual(
            (out, error), ("", f"chaos: listeners[1].tls: no certificate in {self.folder}/c.pem")
        )
        self.assertFalse((self.folder / "data" / "chaos.sqlite3").exists())

    def test_another_servers_database(self) -> None:
        self.run_chaos("user", "list")
        (self.folder / "chaos.yaml").write_text("server_name: other.example\n")
        _, error = self.run_chaos("user", "list", status=1)
        self.assertEqual(error, "chaos: this database belongs to real.example, not to other.example")


class Commands(ProcessCase):
    def test_accounts_without_a_server(self) -> None:
        self.assertEqual(
            self.run_chaos("user", "add", "Ann", "--password", "x", "--admin")[0],
            "created @ann:real.example (administrator)\n",
        )
        self.assertEqual(self.run_chaos("user", "list")[0], "@ann:real.example  admin\n")
        self.assertEqual(
            self.run_chaos("user", "admin", "ann", "--revoke")[0],
            "@ann:real.example is no longer an administrator\n",
        )
        self.assertEqual(
            self.run_chaos("user", "password", "@ann:real.example", "--password", "y")[0],
            "changed the password of @ann:real.example\n",
        )
        self.assertEqual(len(self.run_chaos("token", "create")[0]), 17)
        for arguments, status, line in (
            (("user", "add", "ann", "--password", "x"), 1, "This user name is taken"),
            (
                ("user", "add", "a b", "--password", "x"),
                2,
                "A user name is made of the characters a-z, 0-9 and ._=-/+, and not long",
            ),
            (("user", "admin", "@ann:elsewhere"), 2, "@ann:elsewhere is not a user of real.example"),
            (("user", "admin", "@ann"), 2, "@ann is not a user of real.example"),
            (
                ("user", "password", "nobody", "--password", "x"),
                1,
                "There is no account @nobody:real.example",
            ),
        ):
            self.assertEqual(self.run_chaos(*arguments, status=status)[1], f"chaos: {line}")

    def test_a_file_that_is_no_database(self) -> None:
        file = self.folder / "data" / "chaos.sqlite3"
        file.parent.mkdir()
        file.write_text("no database\n" * 500)
        before = file.read_bytes()
        for arguments in (("check-db",), ("user", "list")):
            process = self.start(*arguments)
            _, err = process.communicate(timeout=PATIENCE_S)
            told = (process.returncode, err.removeprefix("checking …\n"))
            self.assertEqual(told, (1, "chaos: SQLite: file is not a database\n"))
        self.assertEqual(file.read_bytes(), before)

    def test_database_commands(self) -> None:
        self.assertIn("there is no database yet", self.run_chaos("check-db", status=1)[1])
        self.assertIn("there is no database yet", self.run_chaos("backup", "x", status=1)[1])
        self.assertIn("data is not there yet; the first start makes it", self.run_chaos("doctor")[0])
        # Who only looks makes nothing: it may be root, and the folder would be root's.
        self.assertFalse((self.folder / "data").exists())
        (self.folder / "data").mkdir()
        (self.folder / "data" / "chaos.sqlite3").touch()
        self.assertIn("there is no database yet", self.run_chaos("check-db", status=1)[1])
        self.assertIn("the database is at", self.run_chaos("migrate")[0])
        self.assertIn("2 servers, 7 channels, 5 users, 10 messages", self.run_chaos("seed")[0])
        self.assertEqual(self.run_chaos("seed")[0], "the sample community is there already\n")
        self.assertIn(" 0 problems", self.run_chaos("check-db")[0])
        self.assertIn("media files and the signing key", self.run_chaos("backup", "all")[0])
        self.assertIn("exists already", self.run_chaos("restore", "all", status=1)[1])
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "chaos.yaml").write_text(CONFIGURATION)
        out, _ = self.run_chaos("restore", "all", "--config", "elsewhere/chaos.yaml")
        self.assertTrue(out.startswith("restored real.example"))
        out, _ = self.run_chaos("user", "list", "--config", "elsewhere/chaos.yaml")
        self.assertEqual(len(out.splitlines()), 5)
