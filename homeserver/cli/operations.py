"""What the commands need from the server: the seam that `homeserver.operations` implements.

Contract:
1. Every method is a coroutine that runs in the reactor's thread. `close()` is called at the end, always.
2. Expected failures are `OperationError` (exit status 1) or `WrongInputError` (status 2), with one clear line
   for a person. Anything else is a fault in our code and is shown as one.
3. Commands on accounts work while the server runs on the same database, and while it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from homeserver.config.schema import Config
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.process import Reactor


class OperationError(Exception):
    """The command cannot do what it was asked for. The text is one line."""

    status = 1


class WrongInputError(OperationError):
    """What the command was given is wrong."""

    status = 2


class Progress(Protocol):
    """How far a long command is. `total` is None where nobody knows."""

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        """Show it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process gives to the server."""

    reactor: Reactor
    clock: Clock
    entropy: Entropy
    log: Log


@dataclass(frozen=True, slots=True)
class Listening:
    """One listener that is open. `port` is the real one where the configuration said 0."""

    scheme: Literal["http", "https"]
    bind: str
    port: int
    serve: tuple[str, ...]


class RunningServer(Protocol):
    """A server that answers."""

    @property
    def listening(self) -> Sequence[Listening]:
        """The open listeners, in the order of the configuration."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines to show after the start (the logins of the sample community)."""

    async def stop(self) -> None:
        """Accept nothing more, finish what was accepted, let go of everything."""

    @property
    def ending(self) -> str:
        """What a stop waits for now."""

    def reload(self, config: Config) -> None:
        """Go on with this configuration, which differs in reloadable keys only."""

    def renew_certificates(self) -> Sequence[str]:
        """Serve what is in the listeners' TLS files now; what could not be used, one line each."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """Schema revisions; `before` is None for a new database. `steps` were applied in this order."""

    before: str | None
    after: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How many invariants were checked and each violation as one line."""

    checked: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeedReport:
    """`lines` tell the logins, or why it was not `created`: none, where the whole sample community was there already."""

    created: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserLine:
    user_id: str
    admin: bool
    deactivated: bool
    created_ts_ms: int


@dataclass(frozen=True, slots=True)
class NewRegistrationToken:
    """spec: client-server-api#token-authenticated-registration. `token` None draws one."""

    token: str | None = None
    uses_allowed: int | None = None
    expires_in_s: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `chaos doctor`."""

    level: Literal["ok", "warning", "error"]
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """`failed` maps a seed to what went wrong, as one line each."""

    seeds: int
    events: int
    failed: dict[int, str] = field(default_factory=dict)


class Operations(Protocol):
    """Everything that commands do with a server's data."""

    async def start(self, *, development: bool) -> RunningServer:
        """Open everything and listen. In development: the sample community too, on an empty database."""

    async def migrate(self, progress: Progress) -> MigrationReport:
        """Bring the database to the newest schema."""

    async def check_database(self, progress: Progress) -> CheckReport:
        """Check every invariant."""

    async def seed(self, progress: Progress) -> SeedReport:
        """Create the sample community."""

    async def add_user(self, user: str, password: str, *, admin: bool) -> str:
        """Create an account from a localpart or user ID; returns the user ID."""

    async def set_password(self, user: str, password: str, *, log_out: bool) -> str:
        """Set a password and, if asked, end all sessions; returns the user ID."""

    async def set_admin(self, user: str, *, admin: bool) -> str:
        """Make somebody an administrator, or no longer; returns the user ID."""

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[UserLine]:
        """Accounts of this server in the order of their IDs, from the one after `after`."""

    async def create_token(self, token: NewRegistrationToken) -> str:
        """Create a registration token and return it."""

    async def backup(self, target: Path, progress: Progress) -> str:
        """Write database, media and signing key to a new file; returns one line that says what is in it."""

    async def restore(self, source: Path, progress: Progress) -> str:
        """The reverse, into an empty data folder and database; returns one line."""

    async def diagnose(self) -> Sequence[Finding]:
        """Look at everything that commonly goes wrong."""

    async def close(self) -> None:
        """Let go of everything."""


class Application(Protocol):
    """What `homeserver.operations` offers the commands, as a module or (in tests) as an object."""

    def make_operations(self, config: Config, surroundings: Surroundings) -> Operations:
        """Operations on the server of this configuration. Opens nothing yet."""

    async def simulate(
        self, first_seed: int, seeds: int, surroundings: Surroundings, progress: Progress
    ) -> SimulationReport:
        """Run simulations of so many seeds from the first one."""
