"""Every command: what it asks of the server, what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from homeserver.cli.main import chaos, run_command
from homeserver.cli.operations import OperationError, WrongInputError
from homeserver.db.errors import DatabaseUnavailable
from tests.unit.cli.fakes import FakeApplication, make_host


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.application = FakeApplication()
        self.environment: dict[str, str] = {}
        self.typed = b""

    def run_chaos(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        host, _ = make_host(self.application, self.folder.absolute(), self.environment)
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(self.typed), encoding="utf-8")),
        ):
            status = run_command(arguments, host)
        return status, out.getvalue(), err.getvalue()

    def assert_works(self, *arguments: str, called: str, printed: str) -> None:
        self.application.happened.clear()
        status, out, err = self.run_chaos(*arguments, "--dev")
        self.assertEqual((status, out), (0, printed), err)
        self.assertEqual(self.application.happened, [called, "close"])

    def assert_refused(self, *arguments: str, status: int = 2, line: str) -> None:
        got, _, err = self.run_chaos(*arguments)
        self.assertEqual((got, err), (status, f"chaos: {line}\n"))


class OperationTests(CommandCase):
    def test_accounts(self) -> None:
        self.assert_works(
            "user",
            "add",
            "alice",
            "--password",
            "x",
            called="add alice x False",
            printed="created @alice:a.b\n",
        )
        self.typed = b"secret word\nrest"
        self.assert_works(
            "user",
            "add",
            "bob",
            "--admin",
            "--password-stdin",
            called="add bob secret word True",
            printed="created @bob:a.b (administrator)\n",
        )
        self.assert_works(
            "user",
            "password",
            "bob",
            "--keep-sessions",
            "--password=y",
            called="password bob y False",
            printed="changed the password of @bob:a.b\n",
        )
        self.assert_works(
            "user",
            "admin",
            "bob",
            "--revoke",
            called="admin bob False",
            printed="@bob:a.b is no longer an administrator\n",
        )

    def test_the_list_of_users_is_read_in_pages(self) -> None:
        status, out, _ = self.run_chaos("user", "list", "--dev")
        lines = out.splitlines()
        self.assertEqual((status, len(lines)), (0, 1200))
        self.assertEqual(lines[:3], ["@user0000:a.b  admin", "@user0001:a.b  deactivated", "@user0002:a.b"])
        self.assertEqual(self.application.happened, ["list"] * 4 + ["close"])
        _, out, _ = self.run_chaos("user", "list", "--dev", "--json")
        first = json.loads(out.splitlines()[0])
        self.assertEqual(
            first, {"user_id": "@user0000:a.b", "admin": True, "deactivated": False, "created_ts_ms": 0}
        )

    def test_commands_on_accounts_work_before_the_first_start(self) -> None:
        self.assertEqual(self.run_chaos("check-db", "--dev")[0], 0)
        self.assertFalse((self.folder / "data").exists())
        self.assertEqual(self.run_chaos("user", "add", "a", "--password=x", "--dev")[0], 0)
        self.assertTrue((self.folder / "data" / "signing.key").exists())

    def test_tokens(self) -> None:
        self.assert_works(
            "token",
            "create",
            "--token=a-b",
            "--uses=3",
            "--expires-in-s=60",
            called="token a-b 3 60",
            printed="a-b\n",
        )
        self.assert_works("token", "create", called="token None None None", printed="drawn\n")

    def test_the_database(self) -> None:
        migrated = "applied 0002 more tables\nthe database is at 0002\n"
        self.assert_works("migrate", called="migrate", printed=migrated)
        self.assert_works("seed", called="seed", printed="alice / secret\n")
        self.assert_works("check-db", called="check", printed="12 invariants checked, 0 problems\n")
        self.assert_works("backup", str(self.folder / "b.tar"), called="backup b.tar", printed="3 files\n")
        (self.folder / "b.tar").touch()
        self.assert_works("restore", str(self.folder / "b.tar"), called="restore b.tar", printed="3 files\n")
        self.assertEqual(self.run_chaos("backup", str(self.folder / "b.tar"), "--dev")[0], 2)

    def test_problems_found_are_exit_status_one(self) -> None:
        self.application.problems = ("event 5 has no JSON",)
        status, out, _ = self.run_chaos("check-db", "--dev")
        self.assertEqual((status, out), (1, "event 5 has no JSON\n12 invariants checked, 1 problems\n"))
        status, out, _ = self.run_chaos("doctor", "--dev")
        self.assertEqual((status, out), (1, "ok      database: answers\nERROR   clock: is wrong\n"))
        status, out, _ = self.run_chaos("sim", "--seed=7", "--seeds=2")
        self.assertEqual(status, 1)
        self.assertEqual(
            out.splitlines(), ["seed 7 to 8", "seed 7: event 5 has no JSON", "2 seeds, 100 events, 1 failed"]
        )

    def test_a_simulation_without_a_seed_draws_one_and_says_it_first(self) -> None:
        status, out, _ = self.run_chaos("sim")
        self.assertEqual(status, 0)
        seed = out.splitlines()[0].removeprefix("seed ")
        self.assertEqual(self.application.happened, [f"simulate {seed} 1"])

    def test_doctor_with_a_warning_only_is_fine(self) -> None:
        self.assertEqual(self.run_chaos("doctor", "--dev")[0], 0)


class SetupTests(CommandCase):
    def test_init_then_check_config(self) -> None:
        status, out, err = self.run_chaos("init", "--server-name", "chat.example.org")
        self.assertEqual(status, 0, err)
        self.assertEqual(len(out.splitlines()), 3)
        self.assertEqual(
            self.run_chaos("check-config"), (0, "the configuration of chat.example.org is fine\n", "")
        )
        self.assert_refused(
            "init",
            "--server-name=chat.example.org",
            line=f"{self.folder.absolute()}/chaos.yaml: exists already, and is left as it is",
        )

    def test_check_config_shows_every_problem_on_a_line(self) -> None:
        (self.folder / "chaos.yaml").write_text("server_name: a.b\nlisteners: [{prot: 1}]\nredsi: x\n")
        status, out, err = self.run_chaos("check-config")
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(
            err.splitlines(),
            [
                "chaos: redsi: unknown key, did you mean redis?",
                "chaos: listeners[0].prot: unknown key, did you mean port?",
                "chaos: listeners[0].port: required",
            ],
        )

    def test_check_config_reads_the_signing_key(self) -> None:
        (self.folder / "chaos.yaml").write_text("server_name: a.b\nsigning_key_file: k\n")
        key = self.folder.absolute() / "k"
        self.assert_refused("check-config", line=f"{key}: No such file or directory")
        key.write_text("nonsense")
        expected = "expected: ed25519 <version> <base64 of 32 bytes>, for an old key with the time when it expired before the base64"
        self.assert_refused("check-config", line=f"{key}, line 1: {expected}")

    def test_check_config_warns_of_a_key_that_nothing_uses_yet(self) -> None:
        (self.folder / "chaos.yaml").write_text("server_name: a.b\nredis: redis://h\n")
        status, out, err = self.run_chaos("check-config")
        self.assertEqual((status, out), (0, "the configuration of a.b is fine\n"))
        self.assertEqual(err, "chaos: warning: redis: configured, but not used yet\n")

    def test_check_config_reads_registrations(self) -> None:
        (self.folder / "chaos.yaml").write_text("server_name: a.b\nappservices: [irc.yaml]\n")
        path = self.folder.absolute() / "irc.yaml"
        self.assert_refused("check-config", line=f"appservices: {path}: No such file or directory")
        good = "{id: a, url: null, as_token: b, hs_token: c, sender_localpart: d, namespaces: {}}"
        path.write_text(good.replace("id: a, ", ""))
        self.assert_refused("check-config", line=f"{path}: id: required")
        path.write_text(good)
        self.assertEqual(self.run_chaos("check-config"), (0, "the configuration of a.b is fine\n", ""))

    def test_check_config_reads_every_file_that_a_start_needs(self) -> None:
        (self.folder / "chaos.yaml").write_text(
            "server_name: a.b\n"
            "listeners: [{port: 1}, {port: 2, tls: {certificate_file: c.pem, private_key_file: k.pem}}]\n"
            "outbound: {ca_file: ca.pem}\n"
            "media: {storage: s3, s3: {bucket: abc, access_key_id: a, secret_access_key_file: s}}\n"
        )
        folder = self.folder.absolute()
        missing = "No such file or directory"
        status, out, err = self.run_chaos("check-config")
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(
            err.splitlines(),
            [
                f"chaos: listeners[1].tls: {folder}/c.pem: {missing}",
                f"chaos: outbound.ca_file: no usable certificate authority in {folder}/ca.pem",
                f"chaos: media.s3.secret_access_key_file: {folder}/s: {missing}",
            ],
        )
        for name in ("c.pem", "k.pem"):
            (folder / name).write_text("nonsense")
        self.assertIn(
            f"listeners[1].tls: no certificate in {folder}/c.pem", self.run_chaos("check-config")[2]
        )

    def test_the_file_can_come_from_the_environment(self) -> None:
        other = self.folder / "other.yaml"
        other.write_text("server_name: other.example\n")
        with mock.patch.dict("os.environ", {"CHAOS_CONFIG": str(other)}):
            self.assertEqual(
                self.run_chaos("check-config"), (0, "the configuration of other.example is fine\n", "")
            )


class RefusalTests(CommandCase):
    def test_wrong_input_is_one_line_and_status_two(self) -> None:
        self.assert_refused("sreve", line="No such command 'sreve'. Did you mean 'serve'?")
        self.assert_refused("user", "ad", line="No such command 'ad'. Did you mean 'add'?")
        self.assert_refused("user", "add", line="Missing argument 'USER'.")
        self.assert_refused("init", line="Missing option '--server-name'.")
        self.assert_refused(
            "init",
            "--server-name=no good",
            line="server_name: 'no good' is not a server name like chat.example.org or 10.0.0.1:8448",
        )
        self.assert_refused(
            "user",
            "add",
            "a",
            "--dev",
            line="no terminal to ask for a password: use --password-stdin",
        )
        self.assert_refused("user", "add", "a", "--password=", line="the password must not be empty")
        self.assert_refused(
            "user",
            "add",
            "a",
            f"--password={'x' * 513}",
            line="the password must not be longer than 512 characters",
        )
        self.assert_refused(
            "token",
            "create",
            "--token=a b",
            line="--token: up to 64 of the characters A-Z a-z 0-9 . _ ~ -",
        )
        self.assert_refused(
            "seed",
            line=f"{self.folder.absolute()}/chaos.yaml does not exist; `chaos init` writes one",
        )
        self.assertEqual(self.application.happened, [])

    def test_passwords_that_are_no_text(self) -> None:
        self.typed = b"\xff\n"
        for given in ("--password-stdin", "--password=\udcff"):
            for command in ("add", "password"):
                line = "the password must be UTF-8"
                self.assert_refused("user", command, "a", given, "--dev", line=line)
        self.assertEqual(self.application.happened, [])

    def test_what_the_server_refuses(self) -> None:
        self.application.error = WrongInputError("there is no user bob")
        self.assert_refused("user", "admin", "bob", "--dev", line="there is no user bob")
        self.application.error = OperationError("the server runs")
        self.assert_refused("seed", "--dev", status=1, line="the server runs")
        self.application.error = DatabaseUnavailable("connection refused\nIs the server running?")
        self.assert_refused(
            "check-config",
            "--config=/nowhere",
            line="/nowhere does not exist; `chaos init` writes one",
        )
        self.assert_refused(
            "seed", "--dev", status=1, line="database: connection refused Is the server running?"
        )
        self.assertEqual(self.application.happened, ["close"] * 3)

    def test_faults_in_our_own_code_are_not_hidden(self) -> None:
        self.application.error = ZeroDivisionError()
        with self.assertRaises(ZeroDivisionError):
            self.run_chaos("seed", "--dev")
        self.assertEqual(self.application.happened, ["close"])

    def test_no_command_shows_the_help(self) -> None:
        for arguments in ((), ("user",), ("token",)):
            status, _, err = self.run_chaos(*arguments)
            self.assertEqual(status, 2)
            self.assertIn("Usage: chaos", err)

    def test_every_command_has_help(self) -> None:
        commands = [[name] for name in chaos.list_commands(None)]  # type: ignore[arg-type]
        commands += [["user", name] for name in ("add", "password", "admin", "list")] + [["token", "create"]]
        self.assertEqual(len(commands), 17)
        for command in commands:
            status, out, _ = self.run_chaos(*command, "--help")
            self.assertEqual(status, 0, command)
            self.assertIn(f"Usage: chaos {' '.join(command)}", out)
            self.assertGreater(len(out.splitlines()), 4)
