"""SimServer: the whole application over a SimDatabase, with a lossy way to it, and lives that end without warning."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from federation.ids import ServerName, parse_server_name
from federation.signing import SigningKey
from homeserver.accounts.passwords import Cost
from homeserver.app import App, build_app
from homeserver.composition.core import Surroundings
from homeserver.config.schema import Config, Federation, RateLimits, Registration
from homeserver.db.engine import SqliteEngine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrate import upgrade_engine
from homeserver.http.transport import PeerRequest
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from homeserver.store.check import check_db
from tests.sim.clock import LifeClock, SimClock
from tests.sim.database import Faults, SimDatabase
from tests.sim.draws import Draws
from tests.sim.network import SimNetwork, SimTransport
from tests.support.http import Answer, HttpHarness

# Nobody else writes to a server's database: to look whether somebody did is most of what a quiet world does.
HOUSEKEEPING_S = 60.0
# What a server reports when its database fails; any other error must have that as its cause, or is a bug of ours.
EXPECTED_ERRORS = frozenset({"database unavailable"})


class ConnectionLostError(Exception):
    """The request or its answer got lost; the client cannot know which."""


def server_name(number: int) -> ServerName:
    """The name of a world's servers, from 0."""
    return parse_server_name(f"s{number}.sim")


def signing_key(number: int) -> SigningKey:
    """The key of such a server, in all its lives and all worlds."""
    return SigningKey.from_seed(server_name(number), "sim", bytes([number + 1]) * 32)


def sim_config(name: str, data_dir: Path) -> Config:
    """Open registration and no rate limits; outages are over soon. The first server, which never lies, is the notary."""
    notary = server_name(0)
    config = Config(
        server_name=name,
        registration=Registration(mode="open"),
        rate_limits=RateLimits(enabled=False),
        federation=Federation(
            trusted_key_servers=() if name == notary else (notary,), retry_min_s=1.0, retry_max_s=30.0
        ),
    )
    return replace(config, data_dir=data_dir)


class SimLog(MemoryLog):
    """Keeps the exception that is being handled, where the server logs it."""

    def error(self, event: str, /, **fields: Any) -> None:
        if fields.get("exc_info") is True:
            fields["exc_info"] = sys.exc_info()[1]
        super().error(event, **fields)


class SimServer:
    """One server and its lives."""

    def __init__(
        self,
        number: int,
        clock: SimClock,
        draws: Draws,
        data_dir: Path,
        note: Callable[..., None],
        faults: Faults,
        network: SimNetwork,
        problems: list[str],
    ) -> None:
        self.name = server_name(number)
        self.number = number
        self.clock = clock
        self.draws = draws
        self.faults = faults
        self.network = network
        self.lost_percent = 0
        self.problems = problems
        self.lives = 0
        self.app: App | None = None
        self.life: LifeClock | None = None  # of the process that answers
        self.engine = SqliteEngine(None)
        upgrade_engine(self.engine)
        self._note = note
        self._config = sim_config(self.name, data_dir)
        self._entropy = SeededEntropy(draws.seed).child(self.name)
        self._database: SimDatabase | None = None
        self._http: HttpHarness | None = None
        self._log = SimLog()
        self._open: dict[Deferred[Answer], None] = {}
        network.hosts[self.name] = self
        self.start()

    def note(self, *what: object) -> None:
        """A line of the trace."""
        self._note(self.name, *what)

    # --- lives ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life; it answers when it has opened its database, and tries again where that fails."""
        self.lives += 1
        life = LifeClock(self.clock)
        # Its own: what is left of an earlier life may still say something when it is swept up.
        self._log = SimLog()
        self._database = SimDatabase(self.engine, life, self.draws, self.faults, self.note)
        around = Surroundings(
            self._database,
            life,
            self._entropy.child(f"life {self.lives}"),
            self._log,
            signing_key(self.number),
            maybeDeferred,
            SimTransport(self.network, self.name, life),
        )

        def started(app: App) -> None:
            app.services.hasher._cost = Cost(1, 8192)
            app.begin(housekeeping_s=HOUSEKEEPING_S)
            self._http = HttpHarness(app.router, is_heard=lambda: not life.dead)
            self.app, self.life = app, life
            self.note("up", self.lives)

        def failed(failure: Failure) -> None:
            self.note("start failed", type(failure.value).__name__)
            life.kill()
            self.clock.callLater(0.1, self.start)

        Deferred.fromCoroutine(build_app(self._config, around)).addCallbacks(started, failed)

    def crash(self) -> None:
        """The process is gone from one moment to the next. Another comes up half a second later."""
        self.faults.crashes_to_come -= 1
        if self.app is None or self.life is None or self._database is None:
            return  # not up: there is nothing to lose
        self.note("crash", self.lives)
        self.life.kill()
        self.network.bury(self.life)
        self.engine = self._database.crash()
        self.app = self._http = self.life = None
        self.network.broken_off(self.name)
        self.judge_log()
        self.check()
        for waiting in list(self._open):
            self._lose(waiting)
        self.clock.callLater(0.5, self.start)

    def check(self) -> None:
        """Every invariant of the database, now."""
        self.problems += [
            f"check_db: {self.name}: {problem}" for problem in self.engine.writer().run(check_db)
        ]

    def judge_log(self) -> None:
        for level, event, fields in self._log.entries:
            if level == "error" and event not in EXPECTED_ERRORS and not _is_of_database(fields):
                self.problems.append(f"{self.name} logged {event!r}: {_tell(fields)}")
        self._log.entries.clear()

    # --- the way to it -------------------------------------------------------------------------------

    def receive(self, request: PeerRequest) -> Deferred[Answer]:
        """A request of another server, whole and in bytes."""
        assert self._http is not None
        headers = {} if request.authorization is None else {"Authorization": request.authorization}
        return self._http.call(request.method, request.uri, request.body, headers=headers)

    def call(
        self, method: str, path: str, body: Any, token: str | None, query: Mapping[str, Any] | None
    ) -> Deferred[Answer]:
        """A request over a network that may delay and lose it, before or after it was heeded."""
        result: Deferred[Answer] = Deferred()
        self._open[result] = None
        fate = self.draws.below(100)
        if fate >= 100 - self.lost_percent:
            self.clock.callLater(1.0, self._lose, result)
            if fate % 2:
                return result  # before; the other half: after
        self.clock.callLater(self.draws.delay_s(20), self._arrive, result, method, path, body, token, query)
        return result

    def _arrive(
        self, result: Deferred[Answer], method: str, path: str, body: Any, token: Any, query: Any
    ) -> None:
        if self._http is None:
            self._lose(result)
            return
        life = self.life
        back_s = self.draws.delay_s(20)

        def answered(answer: Answer) -> None:
            if life is not None and not life.dead:
                self.note(method, path, answer.status)
                if answer.status == 500:
                    self.problems.append(f"{method} {path}: {answer.status} {answer.body!r}")
                self.clock.callLater(back_s, self._deliver, result, answer)

        def broken(failure: Failure) -> None:
            # Of a process that died whatever is left is swept up at some time.
            if life is not None and not life.dead:
                self.problems.append(f"the router failed: {failure.getErrorMessage()}")

        self._http.call(method, path, body, token, query).addCallbacks(answered, broken)

    def _deliver(self, result: Deferred[Answer], answer: Answer) -> None:
        if result in self._open:
            del self._open[result]
            result.callback(answer)

    def _lose(self, result: Deferred[Answer]) -> None:
        if result in self._open:
            del self._open[result]
            result.errback(ConnectionLostError())

    def finish(self) -> None:
        """The end: what the last life logged and left behind."""
        self.judge_log()
        self.check()


def _is_of_database(fields: Mapping[str, Any]) -> bool:
    error = fields.get("exc_info")
    return isinstance(error.value if isinstance(error, Failure) else error, DatabaseError)


def _tell(fields: Mapping[str, Any]) -> str:
    error = fields.get("exc_info")
    if isinstance(error, Failure):
        error = error.value
    if isinstance(error, BaseException):
        return "".join(traceback.format_exception(error))
    return str(dict(fields))
