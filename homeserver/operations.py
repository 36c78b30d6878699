"""What the command line does with a server: puts the ``App`` on the network, and works on its data.

Implements ``homeserver.cli.operations.Operations`` over the composition root.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from federation.ids import KeyId
from federation.keyring import VerifyKey
from federation.signing import SigningKey
from homeserver import backup, doctor
from homeserver.api.web.health import HealthApi
from homeserver.api.web.metrics_page import MetricsApi
from homeserver.api.web.page import PageApi
from homeserver.app import App, ExtraRoutes, build_app
from homeserver.cli import operations as commands
from homeserver.cli.operations import Listening, OperationError, Progress, WrongInputError
from homeserver.cli.simulate import run_simulator
from homeserver.composition.core import Core, Surroundings
from homeserver.composition.listening import Listeners
from homeserver.composition.peering import Outside, open_network
from homeserver.composition.reached import examine_way_in
from homeserver.composition.storing import examine_storage
from homeserver.config.files import check_files
from homeserver.config.registrations import AppserviceRegistration, load_registrations
from homeserver.config.schema import Config
from homeserver.config.signing_key import read_key_file
from homeserver.db.engine import Engine, PostgresEngine, SqliteEngine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrate import HEAD, find_revision, upgrade_engine
from homeserver.db.threads import ThreadedDatabase
from homeserver.extensions import load_extensions
from homeserver.http.errors import MatrixError
from homeserver.http.mail import Mailer
from homeserver.http.route import Route
from homeserver.http.smtp import SmtpMailer
from homeserver.rooms.federated.check_processes import CheckProcesses
from homeserver.rooms.federated.join_checks import SIDE_BY_SIDE
from homeserver.runtime.metrics import CacheReading, Metrics, make_metrics
from homeserver.runtime.threads import ThreadRunner
from homeserver.seed.making import present_logins, seed
from homeserver.store.cache import ByteLru
from homeserver.store.check import CHECKED, check_db
from homeserver.store.facts import check_server_name

T = TypeVar("T")


# Its reads are short and never wait for a network: more threads only take the interpreter from each other.
SQLITE_READERS = 2


def engine_of(config: Config) -> Engine:
    """The configured database."""
    if config.is_sqlite:
        return SqliteEngine(str(config.sqlite_path), power_loss_safe=config.database_pool.power_loss_safe)
    return PostgresEngine(config.database, prepare=config.database_pool.prepare_statements)


def engine_to_write(config: Config) -> Engine:
    """The same, for those who make the database where there is none; whoever only looks makes nothing."""
    if config.is_sqlite:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return engine_of(config)


def read_keys(config: Config) -> tuple[list[SigningKey], list[VerifyKey]]:
    """The keys that sign, the first one above all, and those of the past."""
    stored, name = read_key_file(config.signing_key_path), config.parsed_server_name
    signers = [SigningKey.from_seed(name, key.version, key.seed) for key in stored.keys]
    old_keys = [
        VerifyKey(KeyId(f"ed25519:{key.version}"), key.public_key, key.expired_ts_ms, expired=True)
        for key in stored.old_keys
    ]
    return signers, old_keys


class RunningServer:
    """A server that answers."""

    def __init__(self, app: App, listeners: Listeners, page: PageApi, notes: Sequence[str]) -> None:
        self.app = app
        self._listeners = listeners
        self._page = page
        self._stopped: Deferred[None] | None = None
        self._ending = ""
        self.notes = notes

    @property
    def listening(self) -> Sequence[Listening]:
        """The open listeners."""
        return self._listeners.listening

    async def stop(self) -> None:
        """Accept nothing more, finish what was accepted. A second call waits for the first one's end."""
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        await self._stopped

    async def _stop(self) -> None:
        self.app.release_waiters()
        self._ending = "requests"
        await self._listeners.stop()
        self._ending = ""
        await self.app.stop()

    @property
    def ending(self) -> str:
        """What a stop waits for now."""
        return self._ending or self.app.ending

    def reload(self, config: Config) -> None:
        """Go on with this configuration."""
        self.app.reload(config)
        self._page.reload(config)

    def renew_certificates(self) -> Sequence[str]:
        """Serve what is in the listeners' TLS files now; what could not be used, one line each."""
        return self._listeners.renew_certificates()


class ServerOperations:
    """One command's hold of a server. Everything is opened when first needed."""

    def __init__(
        self,
        config: Config,
        around: commands.Surroundings,
        registrations: Sequence[AppserviceRegistration] = (),
    ) -> None:
        self._config = config
        self._around = around
        self._registrations = registrations
        self._app: App | None = None
        self._database: ThreadedDatabase | None = None
        self._threads: ThreadRunner | None = None
        self._processes: CheckProcesses | None = None
        self._outside: Outside | None = None
        self._stopping = False

    async def _open(self, web: ExtraRoutes | None = None) -> App:
        """The app over the configured database, brought to the current schema."""
        if self._app is not None:
            return self._app
        config, around = self._config, self._around
        engine = engine_to_write(config)
        reactor: Any = around.reactor
        threads = self._workers()
        try:
            upgrade_engine(engine)
            readers = (
                min(config.database_pool.readers, SQLITE_READERS)
                if config.is_sqlite
                else config.database_pool.readers
            )
            self._database = ThreadedDatabase(engine, reactor, around.clock.monotonic, readers)
            await self._database.write(check_server_name, config.server_name)
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        outside = self._network()
        signers, old_keys = read_keys(config)
        # With one processor there is nothing beside which they could run.
        most = SIDE_BY_SIDE if (os.cpu_count() or 1) > 1 else 0
        self._processes = CheckProcesses(threads.run, around.clock, around.log, most)
        surroundings = Surroundings(
            self._database,
            around.clock,
            around.entropy,
            around.log,
            signers[0],
            threads.run,
            outside.transport,
            signers[1:],
            old_keys,
            outside.http,
            self._registrations,
            outside.appservice_http,
            self._mailer(),
            self._processes,
        )
        extras: list[ExtraRoutes] = [one.routes for one in load_extensions()]
        if web is not None:
            extras.append(web)
        self._app = await build_app(config, surroundings, extras)
        self._app.peering.health.observe(on_contact=outside.transport.heard_from)
        return self._app

    def _network(self) -> Outside:
        if self._outside is None:
            around = self._around
            try:
                self._outside = open_network(self._config, around.reactor, around.clock, around.entropy)
            except ValueError as error:
                raise OperationError(f"outbound.ca_file: {error}") from error
        return self._outside

    def _mailer(self) -> Mailer | None:
        config, around = self._config, self._around
        if config.email is None:
            return None
        return SmtpMailer(
            config.email,
            config.server_name,
            around.reactor,
            around.clock,
            around.entropy,
            around.log,
            config.outbound.ca_file,
        )

    async def start(self, *, development: bool) -> RunningServer:
        """Open everything and listen. In development: the sample community too, on an empty database."""
        check_files(self._config)
        metrics = make_metrics()
        page = PageApi(self._config)

        def web(core: Core, _: object) -> list[Route]:
            around, name = core.around, self._config.server_name
            health = HealthApi(around.database, around.clock, lambda: core.changes.position, name)
            return [*page.routes(), *health.routes(), *MetricsApi(metrics).routes()]

        app = await self._open(web)
        notes: tuple[str, ...] = ()
        if development:
            notes = await seed_development(app, page)
        listeners = Listeners(
            self._around.reactor,
            app.router,
            self._around.clock,
            app.log_failure,
            app.new_error_id,
            observe=metrics.request,
        )
        watch(metrics, app, listeners, self._config)
        app.begin()
        try:
            for listener in self._config.listeners:
                listeners.open(listener)
        except Exception:
            await listeners.stop()
            raise
        return RunningServer(app, listeners, page, notes)

    async def migrate(self, progress: Progress) -> commands.MigrationReport:
        """Bring the database to the newest schema."""
        progress("migrating", 0)
        try:
            before, after, steps = upgrade_engine(engine_to_write(self._config))
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        return commands.MigrationReport(before, after, steps)

    async def check_database(self, progress: Progress) -> commands.CheckReport:
        """Check every invariant."""
        if self._config.is_sqlite and not self._config.sqlite_path.exists():
            raise OperationError(f"there is no database yet: {self._config.sqlite_path}")
        reactor: Any = self._around.reactor
        # Its threads do not keep the process alive, so Ctrl-C ends it at once.
        self._database = ThreadedDatabase(engine_of(self._config), reactor, self._around.clock.monotonic, 1)
        progress("checking", 0)
        try:
            revision = await self._database.read(find_revision)
            if revision is None:
                raise OperationError("there is no database yet: what is there is empty")
            if revision < HEAD:
                raise OperationError(
                    f"the database has the older schema {revision}: `chaos migrate` comes first"
                )
            problems = await self._database.read(check_db)
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        return commands.CheckReport(CHECKED, tuple(problems))

    async def seed(self, progress: Progress) -> commands.SeedReport:
        """Create the sample community."""
        return await seed(await self._open(), progress)

    async def add_user(self, user: str, password: str, *, admin: bool) -> str:
        """Create an account."""
        app = await self._open()
        return await _clearly(app.services.accounts.create_user(self._localpart(user), password, admin))

    async def set_password(self, user: str, password: str, *, log_out: bool) -> str:
        """Set a password."""
        app = await self._open()
        user_id = self._user_id(user)
        await _clearly(app.services.accounts.set_password(user_id, password, log_out=log_out))
        return user_id

    async def set_admin(self, user: str, *, admin: bool) -> str:
        """Make somebody an administrator, or no longer."""
        app = await self._open()
        user_id = self._user_id(user)
        await _clearly(app.services.accounts.set_admin(user_id, admin))
        return user_id

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[commands.UserLine]:
        """Accounts of this server in the order of their ids."""
        app = await self._open()
        found = await app.services.accounts.list_users(after or "", limit)
        return [
            commands.UserLine(one.user_id, bool(one.admin), bool(one.deactivated), one.created_ts_ms)
            for one in found
        ]

    async def create_token(self, token: commands.NewRegistrationToken) -> str:
        """Create a registration token."""
        accounts = (await self._open()).services.accounts
        expires_ts_ms = None
        if token.expires_in_s is not None:
            expires_ts_ms = self._around.clock.now_ms() + 1000 * token.expires_in_s
        return await _clearly(
            accounts.create_registration_token(token.token, token.uses_allowed, expires_ts_ms)
        )

    async def backup(self, target: Path, progress: Progress) -> str:
        """Write database, media and signing key to a new file."""
        config = self._config
        now_ms = self._around.clock.now_ms()
        return await self._at_length(progress, backup.write, config, engine_of(config), target, now_ms)

    async def restore(self, source: Path, progress: Progress) -> str:
        """The reverse, into an empty data folder and database."""
        config = self._config
        return await self._at_length(progress, backup.restore, config, engine_of(config), source)

    async def diagnose(self) -> Sequence[commands.Finding]:
        """Look at everything that commonly goes wrong."""
        config, around, run = self._config, self._around, self._workers().run
        findings = await doctor.diagnose(config, engine_of(config), around, run)
        try:
            outside = self._network()
        except OperationError:
            return findings  # the CA file: it is among them
        way_in = await examine_way_in(config, outside.own_transport, around.clock)
        bucket = await examine_storage(config, outside.appservice_http, run, around.clock)
        return [*findings, *way_in, *bucket]

    async def close(self) -> None:
        """Let go of everything. A second call does nothing."""
        app, self._app = self._app, None
        database, self._database = self._database, None
        try:
            if app is not None:
                await app.stop()
        finally:
            if self._outside is not None:
                self._outside.stop()
            if self._processes is not None:
                self._processes.stop()
            if database is not None:
                database.refuse()
                # In a thread: a database that hangs must not keep the reactor from noticing that time is up.
                await self._workers().run(database.stop)
            self._stop_threads()

    def _workers(self) -> ThreadRunner:
        if self._threads is None:
            reactor: Any = self._around.reactor
            self._threads = ThreadRunner(reactor)
            # A command that is interrupted never comes to its close(), and waiting threads keep a process alive.
            reactor.addSystemEventTrigger("during", "shutdown", self._stop_threads)
        return self._threads

    def _stop_threads(self) -> None:
        self._stopping = True
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.stop()

    async def _at_length(self, progress: Progress, work: Callable[..., str], /, *args: Any) -> str:
        """Long work in a thread, so that the reactor hears Ctrl-C; the work then ends at its next progress."""

        def report(label: str, done: int, total: int | None = None) -> None:
            if self._stopping:
                raise OperationError("interrupted")
            progress(label, done, total)

        return await self._workers().run(work, *args, report)

    def _localpart(self, user: str) -> str:
        if not user.startswith("@"):
            return user
        localpart, _, domain = user[1:].partition(":")
        if domain != self._config.server_name:
            raise WrongInputError(f"{user[:300]} is not a user of {self._config.server_name}")
        return localpart

    def _user_id(self, user: str) -> str:
        return f"@{self._localpart(user)}:{self._config.server_name}"


async def seed_development(app: App, page: PageApi) -> tuple[str, ...]:
    """The sample community where there is nothing yet; its logins on the page, and at the first start as notes."""
    try:
        report = await seed(app)
    except OperationError as error:
        # A developer rather has a server without a community than none.
        return (str(error),)
    logins = await present_logins(app)
    page.show_logins(logins)
    # Whoever has made accounts of their own wants none of it, and need not be told so at each start.
    return report.lines if logins else ()


def watch(metrics: Metrics, app: App, listeners: Listeners, config: Config) -> None:
    """Every size that Prometheus may ask for."""
    core = app.core
    metrics.watch("connections", lambda: listeners.connections)
    metrics.watch("waiting_syncs", lambda: len(core.notifier))
    metrics.watch("active_rooms", lambda: len(core.rooms))
    metrics.watch("stream_position", lambda: core.changes.position)
    metrics.watch("pipeline_depth", lambda: core.committer.waiting)
    metrics.watch("inbox_items", lambda: core.rooms.inbox_items)
    metrics.watch("staged_events", lambda: app.services.incoming.filler.waiting)
    app.outgoing.watch(metrics)
    core.committer.observe = metrics.commit
    core.committer.observe_failure = metrics.commit_failed
    caches: dict[str, ByteLru[Any, Any]] = {
        "events": core.events,
        "client_events": core.client_events,
        "states": core.bases,
    }
    for name, cache in caches.items():
        metrics.watch_cache(name, partial(_reading, cache))
    if config.is_sqlite:
        path = config.sqlite_path
        metrics.watch("database_bytes", partial(_file_size, path), file="database")
        log = path.with_name(f"{path.name}-wal")
        metrics.watch("database_bytes", partial(_file_size, log), file="log")


def _reading(cache: ByteLru[Any, Any]) -> CacheReading:
    return CacheReading(cache.bytes, len(cache), cache.hits, cache.misses)


def _file_size(path: Path) -> float:
    try:
        return path.stat().st_size
    except OSError:
        return 0.0


async def _clearly(work: Awaitable[T]) -> T:
    """What the domain refuses, as one line for a person."""
    try:
        return await work
    except MatrixError as error:
        kind = WrongInputError if error.status == 400 and error.errcode != "M_USER_IN_USE" else OperationError
        raise kind(error.error) from error


def make_operations(config: Config, surroundings: commands.Surroundings) -> commands.Operations:
    """Operations on the server of this configuration. Opens nothing yet. Raises ConfigError for registration files."""
    return ServerOperations(config, surroundings, load_registrations(config))


async def simulate(
    first_seed: int, seeds: int, surroundings: commands.Surroundings, progress: Progress
) -> commands.SimulationReport:
    """Run the simulator of the source tree."""
    return await run_simulator(surroundings.reactor, first_seed, seeds, progress)
