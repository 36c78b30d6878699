"""``TestApp``: the whole server without sockets, threads or time of its own.

    app = TestApp(self)                       # in-memory SQLite
    app = TestApp(self, database=url)         # e.g. from DatabaseCase.new_database()
    token = app.register("alice")
    status, json = app.call("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"}, token)

A call pumps the clock by zero seconds until its answer is there; ``app.start`` gives the Deferred of one that is to
wait (a long poll), ``app.advance(seconds)`` lets time pass. When the test is over, everything is stored and every
invariant of the database is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock as TaskClock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from federation.ids import parse_server_name
from federation.keyring import VerifyKey
from federation.signing import SigningKey
from homeserver.app import App, ExtraRoutes, build_app
from homeserver.composition.core import Surroundings
from homeserver.config.registrations import AppserviceRegistration
from homeserver.config.schema import Config, RateLimits, Registration
from homeserver.db.engine import open_engine
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.migrate import upgrade_engine
from homeserver.db.threads import InlineDatabase
from homeserver.http.mail import Mailer
from homeserver.http.transport import Nowhere, Transport
from homeserver.rooms.federated.check_processes import CheckProcesses
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from homeserver.store.check import check_db
from tests.support.http import Answer, HttpHarness, Query

T = TypeVar("T")

SERVER_NAME = "test.example"
START_S = 1_700_000_000.0


def run_at_once(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
    """A thread pool for tests: the calling thread."""
    return maybeDeferred(function, *args, **kwargs)


def test_config(**changes: Any) -> Config:
    """A configuration with open registration and no rate limits."""
    config = Config(
        server_name=SERVER_NAME,
        registration=Registration(mode="open", shared_secret="secret"),
        rate_limits=RateLimits(enabled=False),
    )
    return replace(config, **changes)


def test_key(server_name: str, version: str = "test", seed: int = 1) -> SigningKey:
    """A signing key that is the same in every run."""
    return SigningKey.from_seed(parse_server_name(server_name), version, bytes([seed]) * 32)


def new_time() -> TaskClock:
    """A clock that stands still."""
    time = TaskClock()
    time.rightNow = START_S
    return time


test_config.__test__ = False  # type: ignore[attr-defined]
test_key.__test__ = False  # type: ignore[attr-defined]


class TestApp:
    """See the module."""

    __test__ = False

    def __init__(
        self,
        case: TestCase,
        database: str = "sqlite::memory:",
        config: Config | None = None,
        seed: int = 1,
        *,
        time: TaskClock | None = None,
        transport: Transport | None = None,
        signing_keys: Sequence[SigningKey] = (),
        old_keys: Sequence[VerifyKey] = (),
        extra_routes: Sequence[ExtraRoutes] = (),
        registrations: Sequence[AppserviceRegistration] = (),
        appservice_http: Any = None,
        http: Any = None,
        mailer: Mailer | None = None,
    ) -> None:
        """By default alone in the world; ``tests.support.federation`` puts several on one clock and one network."""
        self.config = config or test_config(data_dir=Path(case.mktemp()))
        self.time = time or new_time()
        self.transport = transport or Nowhere()
        self.signing_keys = signing_keys or (test_key(self.config.server_name),)
        self.old_keys = old_keys
        self.extra_routes = extra_routes
        self.registrations = registrations
        self.appservice_http = appservice_http
        self.outside = http  # what stands for the rest of the web
        self.mailer = mailer
        self.processes: CheckProcesses | None = None  # counts from the next restart on
        self.entropy = SeededEntropy(seed)
        self.log = MemoryLog()
        self.engine = open_engine(database)
        upgrade_engine(self.engine)
        self.database = InlineDatabase(self.engine)
        self.app = self._build()
        self.http = HttpHarness(self.app.router)
        case.addCleanup(self._close, case)

    def _build(self) -> App:
        around = Surroundings(
            self.database,
            TwistedClock(self.time),
            self.entropy,
            self.log,
            self.signing_keys[0],
            run_at_once,
            self.transport,
            self.signing_keys[1:],
            self.old_keys,
            registrations=self.registrations,
            appservice_http=self.appservice_http,
            http=self.outside,
            mailer=self.mailer,
            processes=self.processes,
        )
        return self.wait(Deferred.fromCoroutine(build_app(self.config, around, self.extra_routes)))

    def restart(self) -> None:
        """Another process on the same database: nothing in memory is kept."""
        self.wait(Deferred.fromCoroutine(self.app.stop()))
        self.app = self._build()
        self.http = HttpHarness(self.app.router)

    # --- calls ---------------------------------------------------------------------------------------

    def wait(self, waiting: Deferred[T], turns: int = 1_000) -> T:
        """Pump the clock by zero seconds until the Deferred fires."""
        results: list[Any] = []
        waiting.addBoth(results.append)
        while not results and turns:
            self.time.advance(0)
            turns -= 1
        if not results:
            raise AssertionError("still waiting")
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time.advance(seconds)
        self.time.advance(0)

    def start(
        self, method: str, path: str, body: Any = None, token: str | None = None, query: Query | None = None
    ) -> Deferred[Answer]:
        """Begin a call that may wait."""
        return self.http.call(method, path, body, token, query)

    def answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A call's whole answer."""
        return self.wait(self.http.call(method, path, body, token, query, headers))

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = None, query: Query | None = None
    ) -> tuple[int, Any]:
        """A call's status and JSON."""
        answer = self.answer(method, path, body, token, query)
        return answer.status, answer.json

    def ok(
        self, method: str, path: str, body: Any = None, token: str | None = None, query: Query | None = None
    ) -> Any:
        """A call's JSON; fails unless the status is 200."""
        status, json = self.call(method, path, body, token, query)
        if status != 200:
            raise AssertionError(f"{method} {path}: {status} {json}")
        return json

    def register(self, name: str, password: str = "correct horse", **fields: Any) -> str:
        """Make an account; its access token."""
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **fields}
        token: str = self.ok("POST", "/_matrix/client/v3/register", body)["access_token"]
        return token

    def lose_answer(self, table: str) -> None:
        """The next commit with rows for a table is made, but who waits for it hears that the database is away."""
        write, texts = self.database.write, list[str]()

        def lose(unit: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
            self.engine.hook = texts.append
            result = write(unit, *args, **kwargs)
            self.engine.hook = None
            if not any(text.startswith(f"INSERT INTO {table} ") for text in texts):
                return result
            self.database.write = write  # type: ignore[method-assign]
            return result.addCallback(lambda _: Failure(DatabaseUnavailable("the answer was lost")))

        self.database.write = lose  # type: ignore[method-assign]

    # --- the end -------------------------------------------------------------------------------------

    def _close(self, case: TestCase) -> None:
        self.wait(Deferred.fromCoroutine(self.app.stop()))
        problems = self.wait(self.database.read(check_db))
        self.database.stop()
        case.assertEqual(problems, [], "check_db found broken invariants")
        errors = [entry for entry in self.log.entries if entry[0] == "error"]
        case.assertEqual(errors, [], "the server logged errors")
