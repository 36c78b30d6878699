"""A host, a reactor on virtual time and an application that only remembers, for tests of the commands.

Run as a program (`python -m tests.unit.cli.fakes serve …`) it is the `chaos` command with the real reactor and
signals around the same remembering application.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock as VirtualTime

from homeserver.cli.host import Host
from homeserver.cli.main import run_command
from homeserver.cli.operations import (
    CheckReport,
    Finding,
    Listening,
    MigrationReport,
    NewRegistrationToken,
    OperationError,
    Progress,
    SeedReport,
    SimulationReport,
    Surroundings,
    UserLine,
)
from homeserver.config.schema import Config
from homeserver.runtime.clock import ReactorClock, TwistedClock, sleep
from homeserver.runtime.entropy import OsEntropy, SeededEntropy


class FakeReactor(VirtualTime):
    """Runs in steps of a tenth of a second until stopped, and gives up after an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.begin: list[Callable[[], object]] = []
        self.running = False
        self.signal_after_s: float | None = None

    def run(self) -> None:
        self.running = True
        for function in self.begin:
            function()
        for _ in range(36_000):
            if not self.running:
                return
            self.advance(0.1)
        raise AssertionError("nothing stopped the reactor")

    def stop(self) -> None:
        self.running = False

    def callWhenRunning(self, function: Callable[..., object], /, *args: Any) -> None:
        self.begin.append(lambda: function(*args))

    def callFromThread(self, function: Callable[..., object], /, *args: Any) -> None:
        self.callLater(0, function, *args)


class FakeServer:
    def __init__(self, config: Config, application: FakeApplication, notes: Sequence[str]) -> None:
        self.application = application
        self.notes = notes
        self.listening = [
            Listening(
                "https" if listener.tls else "http", listener.bind, listener.port or 50_000, listener.serve
            )
            for listener in config.listeners
        ]

    async def stop(self) -> None:
        self.application.happened.append("stop")
        await self.application.stopping()

    @property
    def ending(self) -> str:
        return "a fake"

    def reload(self, config: Config) -> None:
        self.application.happened.append(f"reload {config.registration.mode}")

    def renew_certificates(self) -> Sequence[str]:
        return ["listeners[0].tls: no certificate in c.pem"]


class FakeApplication:
    """Both the application and its operations. `happened` tells what was called."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.config: Config | None = None
        self.surroundings: Surroundings | None = None
        self.problems: tuple[str, ...] = ()
        self.error: Exception | None = None
        self.stop_takes_s = 0.0
        self.users = [
            UserLine(f"@user{number:04}:a.b", number == 0, number == 1, number) for number in range(1200)
        ]

    def make_operations(self, config: Config, surroundings: Surroundings) -> FakeApplication:
        self.config, self.surroundings = config, surroundings
        return self

    async def stopping(self) -> None:
        assert self.surroundings is not None
        await sleep(self.surroundings.clock, self.stop_takes_s)

    async def _note(self, what: str) -> None:
        assert self.surroundings is not None
        await sleep(self.surroundings.clock, 0.01)
        if self.error is not None:
            raise self.error
        self.happened.append(what)

    async def start(self, *, development: bool) -> FakeServer:
        await self._note(f"start development={development}")
        assert self.config is not None
        return FakeServer(self.config, self, ["log in as alice / secret"] if development else [])

    async def migrate(self, progress: Progress) -> MigrationReport:
        progress("migrating", 1, 2)
        await self._note("migrate")
        return MigrationReport("0001", "0002", ("0002 more tables",))

    async def check_database(self, progress: Progress) -> CheckReport:
        progress("checking", 1)
        await self._note("check")
        return CheckReport(12, self.problems)

    async def seed(self, progress: Progress) -> SeedReport:
        await self._note("seed")
        return SeedReport(created=True, lines=("alice / secret",))

    async def add_user(self, user: str, password: str, *, admin: bool) -> str:
        await self._note(f"add {user} {password} {admin}")
        return f"@{user}:a.b"

    async def set_password(self, user: str, password: str, *, log_out: bool) -> str:
        await self._note(f"password {user} {password} {log_out}")
        return f"@{user}:a.b"

    async def set_admin(self, user: str, *, admin: bool) -> str:
        await self._note(f"admin {user} {admin}")
        return f"@{user}:a.b"

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[UserLine]:
        await self._note("list")
        return [line for line in self.users if after is None or line.user_id > after][:limit]

    async def create_token(self, token: NewRegistrationToken) -> str:
        await self._note(f"token {token.token} {token.uses_allowed} {token.expires_in_s}")
        return token.token or "drawn"

    async def backup(self, target: Path, progress: Progress) -> str:
        await self._note(f"backup {target.name}")
        return "3 files"

    async def restore(self, source: Path, progress: Progress) -> str:
        await self._note(f"restore {source.name}")
        return "3 files"

    async def diagnose(self) -> Sequence[Finding]:
        await self._note("diagnose")
        worst = (
            Finding("error", "clock", "is wrong")
            if self.problems
            else Finding("warning", "disk", "is nearly full")
        )
        return [Finding("ok", "database", "answers"), worst]

    async def close(self) -> None:
        self.happened.append("close")

    async def simulate(
        self, first_seed: int, seeds: int, surroundings: Surroundings, progress: Progress
    ) -> SimulationReport:
        await sleep(surroundings.clock, 1)
        self.happened.append(f"simulate {first_seed} {seeds}")
        return SimulationReport(seeds, 100, {first_seed: self.problems[0]} if self.problems else {})


def make_host(
    application: FakeApplication, folder: Path, environment: dict[str, str]
) -> tuple[Host, FakeReactor]:
    reactor = FakeReactor()
    host = Host(
        reactor=reactor,
        clock=TwistedClock(reactor),
        entropy=SeededEntropy(1),
        environment=environment,
        folder=folder,
        log_stream=io.StringIO(),
        application=lambda: application,
    )
    return host, reactor


def main() -> None:
    """The command with the real reactor. FAKE_* variables choose what goes wrong."""
    from twisted.internet import reactor

    application = FakeApplication()
    application.stop_takes_s = float(os.environ.get("FAKE_STOP_S", "0"))
    if "FAKE_PORT_TAKEN" in os.environ:
        application.error = CannotListenError("127.0.0.1", 8008, OSError(98, "Address already in use"))
    if "FAKE_ERROR" in os.environ:
        application.error = OperationError(os.environ["FAKE_ERROR"])
    real: Any = reactor
    host = Host(
        reactor=real,
        clock=ReactorClock(real),
        entropy=OsEntropy(),
        environment=os.environ,
        folder=Path.cwd(),
        log_stream=sys.stderr,
        application=lambda: application,
    )
    status = run_command(sys.argv[1:], host)
    print(" | ".join(application.happened))
    sys.exit(status)


if __name__ == "__main__":
    main()
