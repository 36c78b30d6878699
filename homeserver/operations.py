"""What the command line does with a server: puts the ``App`` on the network, and works on its data.

Implements ``homeserver.cli.operations.Operations`` over the composition root.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from federation.ids import domain_of
from federation.signing import SigningKey
from homeserver import backup, doctor, seed
from homeserver.app import App, Surroundings, build_app
from homeserver.cli import operations as commands
from homeserver.cli.operations import Listening, OperationError, Progress, WrongInputError
from homeserver.config.schema import Config
from homeserver.config.signing_key import read_signing_keys
from homeserver.db.engine import Engine, PostgresEngine, SqliteEngine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrate import upgrade_engine
from homeserver.db.threads import InlineDatabase, ThreadedDatabase
from homeserver.extensions import load_extensions
from homeserver.http.errors import MatrixError
from homeserver.listening import Listeners
from homeserver.runtime.threads import ThreadRunner
from homeserver.store.check import check_db
from homeserver.store.facts import check_server_name


def engine_of(config: Config) -> Engine:
    """The configured database."""
    if config.is_sqlite:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        return SqliteEngine(str(config.sqlite_path), power_loss_safe=config.database_pool.power_loss_safe)
    return PostgresEngine(config.database)


class RunningServer:
    """A server that answers."""

    def __init__(self, app: App, listeners: Listeners, notes: Sequence[str]) -> None:
        self.app = app
        self._listeners = listeners
        self.notes = notes

    @property
    def listening(self) -> Sequence[Listening]:
        """The open listeners."""
        return self._listeners.listening

    async def stop(self) -> None:
        """Accept nothing more, finish what was accepted, let go of everything."""
        self.app.release_waiters()
        await self._listeners.stop()
        await self.app.stop()

    def reload(self, config: Config) -> None:
        """Go on with this configuration."""
        self.app.reload(config)


class ServerOperations:
    """One command's hold of a server. Everything is opened when first needed."""

    def __init__(self, config: Config, around: commands.Surroundings) -> None:
        self._config = config
        self._around = around
        self._app: App | None = None
        self._database: ThreadedDatabase | None = None
        self._threads: ThreadRunner | None = None

    async def _open(self) -> App:
        """The app over the configured database, brought to the current schema."""
        if self._app is not None:
            return self._app
        config, around = self._config, self._around
        engine = engine_of(config)
        try:
            upgrade_engine(engine)
            reactor: Any = around.reactor
            self._database = ThreadedDatabase(engine, reactor, config.database_pool.readers)
            await self._database.write(check_server_name, config.server_name)
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        self._threads = ThreadRunner(reactor)
        stored = read_signing_keys(config.signing_key_path)[0]
        signer = SigningKey.from_seed(config.parsed_server_name, stored.version, stored.seed)
        surroundings = Surroundings(
            self._database, around.clock, around.entropy, around.log, signer, self._threads.run
        )
        extras = [one.routes for one in load_extensions()]
        self._app = await build_app(config, surroundings, extras)
        return self._app

    async def start(self, *, development: bool) -> RunningServer:
        """Open everything and listen. In development: the sample community too, on an empty database."""
        app = await self._open()
        notes: tuple[str, ...] = ()
        if development:
            notes = (await seed.seed(app)).lines
        app.begin()
        listeners = Listeners(
            self._around.reactor, app.router, self._around.clock, app.log_failure, app.new_error_id
        )
        for listener in self._config.listeners:
            listeners.open(listener)
        return RunningServer(app, listeners, notes)

    async def migrate(self, progress: Progress) -> commands.MigrationReport:
        """Bring the database to the newest schema."""
        progress("migrating", 0, None)
        try:
            before, after, steps = upgrade_engine(engine_of(self._config))
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        return commands.MigrationReport(before, after, steps)

    async def check_database(self, progress: Progress) -> commands.CheckReport:
        """Check every invariant."""
        database = InlineDatabase(engine_of(self._config))
        progress("checking", 0, None)
        try:
            problems = await database.read(check_db)
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        finally:
            database.stop()
        return commands.CheckReport(len(problems), tuple(problems))

    async def seed(self, progress: Progress) -> commands.SeedReport:
        """Create the sample community."""
        return await seed.seed(await self._open(), progress)

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
        found = await app.services.accounts.list_users(after, limit)
        return [commands.UserLine(one.user_id, one.admin, one.deactivated, one.created_ts_ms) for one in found]

    async def create_token(self, token: commands.NewRegistrationToken) -> str:
        """Create a registration token."""
        app = await self._open()
        expires = None if token.expires_in_s is None else self._around.clock.now_ms() + 1000 * token.expires_in_s
        return await _clearly(app.services.accounts.create_registration_token(token.token, token.uses_allowed, expires))

    async def backup(self, target: Path, progress: Progress) -> str:
        """Write database, media and signing key to a new file."""
        return backup.write(self._config, target, progress)

    async def restore(self, source: Path, progress: Progress) -> str:
        """The reverse, into an empty data folder and database."""
        return backup.restore(self._config, source, progress)

    async def diagnose(self) -> Sequence[commands.Finding]:
        """Look at everything that commonly goes wrong."""
        return await doctor.diagnose(self._config, self._around)

    async def close(self) -> None:
        """Let go of everything."""
        if self._app is not None:
            await self._app.stop()
        if self._database is not None:
            self._database.stop()
        if self._threads is not None:
            self._threads.stop()

    def _localpart(self, user: str) -> str:
        if not user.startswith("@"):
            return user
        if domain_of(user) != self._config.server_name:
            raise WrongInputError(f"{user} is not a user of {self._config.server_name}")
        return user[1:].partition(":")[0]

    def _user_id(self, user: str) -> str:
        return f"@{self._localpart(user)}:{self._config.server_name}"


async def _clearly(work: Any) -> Any:
    try:
        return await work
    except MatrixError as error:
        raise OperationError(str(error)) from error


def make_operations(config: Config, surroundings: commands.Surroundings) -> commands.Operations:
    """Operations on the server of this configuration. Opens nothing yet."""
    return ServerOperations(config, surroundings)
