"""AccountsWorld: the account services over a real database and the real router, without sockets, threads or waiting.

The committer is the real one; its scheduler runs what is scheduled at once, so a call is over when it returns. Time is
`world.time`, a Twisted test clock; entropy is seeded; password hashes cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial import unittest

from homeserver.accounts.account_data import AccountData
from homeserver.accounts.auth import Authenticator
from homeserver.accounts.devices import Devices
from homeserver.accounts.filters import Filters
from homeserver.accounts.identity_servers import IdentityServers
from homeserver.accounts.login import Identity
from homeserver.accounts.passwords import Cost, PasswordHasher
from homeserver.accounts.profiles import Profiles
from homeserver.accounts.registrar import Registrar
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.uia import InteractiveAuth
from homeserver.accounts.users import Accounts
from homeserver.accounts.validations import Validations
from homeserver.api.client.account import AccountApi
from homeserver.api.client.account_data import AccountDataApi
from homeserver.api.client.appservice_accounts import AppserviceAccounts
from homeserver.api.client.capabilities import CapabilitiesApi
from homeserver.api.client.devices import DevicesApi
from homeserver.api.client.filter import FilterApi
from homeserver.api.client.login import LoginApi
from homeserver.api.client.logout import LogoutApi
from homeserver.api.client.profile import ProfileApi
from homeserver.api.client.refresh import RefreshApi
from homeserver.api.client.register import RegisterApi
from homeserver.api.client.threepids import ThreepidsApi
from homeserver.api.client.versions import VersionsApi
from homeserver.api.client.wellknown import WellKnownApi
from homeserver.appservices.registry import Registry
from homeserver.config.schema import Config, RateLimits, Registration
from homeserver.db.engine import open_engine
from homeserver.db.threads import InlineDatabase
from homeserver.http.errors import MatrixError, UserLimitReachedError
from homeserver.http.ratelimit import LimitClass, RateLimiter
from homeserver.http.route import Route
from homeserver.http.router import Router
from homeserver.rooms.committer import Committer
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.changes import Change
from homeserver.store.ids import LEASE_SIZE, Interner, Nids, lease_nids
from synapse_compat.registration import SharedSecretRegistrationApi
from tests.support.app import test_key
from tests.support.databases import DatabaseCase
from tests.support.http import Answer, HttpHarness

SERVER_NAME = "home.example"
START_S = 1_700_000_000.0
PASSWORD = "correct horse"


class AtOnce:
    """A scheduler for which later is now."""

    def monotonic(self) -> float:
        return 0.0

    def callLater(self, delay: float, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)


def default_config(**changes: Any) -> Config:
    base = Config(
        server_name=SERVER_NAME,
        registration=Registration(mode="open", shared_secret="sesame"),
        rate_limits=RateLimits(enabled=False),
    )
    return replace(base, **changes)


def _translate(error: Exception) -> MatrixError | None:
    """As the whole server does it."""
    if isinstance(error, UserLimitReachedError):
        return error.to_refusal("https://home.example/help")
    return None


class AccountsWorld:
    """Everything about accounts, on the database at `url`."""

    def __init__(self, url: str, config: Config | None = None) -> None:
        self.config = config or default_config()
        self.time = task.Clock()
        self.time.advance(START_S)
        self.clock = TwistedClock(self.time)
        self.entropy = SeededEntropy("accounts")
        self.database = InlineDatabase(open_engine(url))
        self.nids = Nids()
        self.nids.add(now(self.database.write(lease_nids, LEASE_SIZE)))
        self.interner = Interner(self.database, self.nids)
        self.changes: list[Change] = []
        self.worker = Committer(self.database, self.interner, self.nids, self._publish, AtOnce())
        self.auth = Authenticator(self.database, self.worker, self.clock, capacity=100)
        self.failures: list[BaseException] = []
        self._build()

    def _publish(self, changes: list[Change]) -> None:
        self.changes.extend(changes)
        self.auth.apply(changes)

    def _build(self) -> None:
        limits = self.config.rate_limits
        classes = {
            name: LimitClass(rule.per_second, rule.burst)
            for name in ("login", "register", "write", "read", "search")
            for rule in [getattr(limits, name)]
        }
        self.ratelimit = RateLimiter(self.clock, classes, enabled=limits.enabled)
        self.hasher = PasswordHasher(run_at_once, self.entropy, cost=Cost(1, 8192))
        parts = (self.database, self.worker, self.interner)
        self.sessions = Sessions(*parts, self.clock, self.entropy, self.config.sessions)
        self.accounts = Accounts(SERVER_NAME, *parts, self.clock, self.entropy, self.hasher, self.sessions)
        self.identity = Identity(self.accounts, self.hasher, self.sessions, self.ratelimit)
        self.interactive = InteractiveAuth(self.clock, self.entropy, 900, max_sessions=50)
        self.validations = Validations(
            lambda: self.config,
            self.database,
            self.worker,
            None,
            self.ratelimit,
            TaskGroup(self.clock, MemoryLog()),
            self.clock,
            self.entropy,
            MemoryLog(),
        )
        self.threepids = Threepids(
            self.validations,
            IdentityServers(None, test_key(SERVER_NAME)),
            self.database,
            self.worker,
            self.clock,
        )
        self.profiles = Profiles(SERVER_NAME, *parts)
        self.account_data = AccountData(*parts)
        self.router = Router(
            self._routes(),
            authenticate=self.auth.authenticate,
            ratelimit=self.ratelimit,
            new_error_id=lambda: "bug",
            log_failure=self._log_failure,
            translate=_translate,
        )
        self.http = HttpHarness(self.router)

    def _routes(self) -> list[Route]:
        config = self.config
        appservices = AppserviceAccounts(Registry(SERVER_NAME, ()), self.accounts, self.clock)
        apis: list[Any] = [
            VersionsApi(),
            WellKnownApi(config),
            CapabilitiesApi(lambda: config.default_room_version),
            RegisterApi(
                lambda: self.config,
                self.accounts,
                Registrar(
                    lambda: self.config, self.accounts, self.hasher, self.clock, appservices.check_open
                ),
                self.interactive,
                self.ratelimit,
                self.clock,
                appservices,
                self.validations,
            ),
            LoginApi(config, self.identity, self.sessions, self.interactive, appservices),
            RefreshApi(self.sessions),
            LogoutApi(self.sessions),
            AccountApi(
                self.accounts,
                self.identity,
                self.interactive,
                lambda: self.config.passwords,
                self.validations,
                self.threepids,
            ),
            ThreepidsApi(self.validations, self.threepids, self.identity, self.interactive),
            DevicesApi(
                Devices(self.database, self.worker, self.auth.last_seen),
                self.identity,
                self.interactive,
                self.sessions,
            ),
            ProfileApi(self.profiles),
            AccountDataApi(self.account_data),
            FilterApi(Filters(self.database, self.worker)),
            SharedSecretRegistrationApi(
                config.registration.shared_secret,
                self.accounts,
                self.hasher,
                self.clock,
                self.entropy,
            ),
        ]
        return [route for api in apis for route in api.routes()]

    def _log_failure(self, error_id: str, request: Any, error: BaseException) -> None:
        self.failures.append(error)

    def stop(self) -> None:
        self.database.stop()

    # --- what tests do all the time ----------------------------------------------------------------

    def call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Answer:
        """One request to the client-server API; `path` begins after /_matrix/client."""
        answer = self.http.now(
            method, path if path.startswith("/_s") else f"/_matrix/client{path}", *args, **kwargs
        )
        if self.failures:
            raise AssertionError(f"{method} {path} is a bug of ours") from self.failures.pop()
        return answer

    def register(self, username: str, **fields: Any) -> Answer:
        """Register in one request."""
        body = {"username": username, "password": PASSWORD, "auth": {"type": "m.login.dummy"}, **fields}
        return self.call("POST", "/v3/register", body)

    def token_of(self, username: str, **fields: Any) -> str:
        """Register, and give the access token."""
        answer = self.register(username, **fields)
        token: str = answer.json["access_token"]
        return token

    def login(self, username: str, password: str = PASSWORD, **fields: Any) -> Answer:
        identifier = {"type": "m.id.user", "user": username}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **fields}
        return self.call("POST", "/v3/login", body)

    def confirm(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        token: str,
        username: str,
        password: str = PASSWORD,
    ) -> Answer:
        """A request and its confirmation by password."""
        asked = self.call(method, path, body, token)
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": username},
            "password": password,
            "session": asked.json["session"],
        }
        return self.call(method, path, {**body, "auth": auth}, token)

    def works(self, token: str) -> bool:
        """Whether the token is good for a request."""
        return self.call("GET", "/v3/account/whoami", token=token).status == 200


async def run_at_once(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def now(waiting: Any) -> Any:
    """The result of a Deferred or coroutine that does not have to wait."""
    results: list[Any] = []
    deferred = waiting if isinstance(waiting, Deferred) else Deferred.fromCoroutine(waiting)
    deferred.addBoth(results.append)
    if not results:
        raise AssertionError("it is still waiting")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def during_the_check(
    case: unittest.TestCase, hasher: PasswordHasher, act: Callable[[], Awaitable[Any]]
) -> None:
    """Do something while the next password is checked, which has begun with the hash of before."""
    real = hasher.check

    async def check(password: str, stored: str | None) -> bool:
        patched.restore()
        await act()
        return await real(password, stored)

    patched = case.patch(hasher, "check", check)


class WorldCase(DatabaseCase):
    """A test with a world; decorate it with `on_each_database`."""

    def make(self, **changes: Any) -> AccountsWorld:
        world = AccountsWorld(self.new_database(), default_config(**changes))
        self.addCleanup(world.stop)
        return world
