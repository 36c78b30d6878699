"""From an access token to the requester.

Contract:
1. A token that was used recently is answered from memory, without waiting. What is in memory is true up to the log's
   position that was applied: nothing here is dropped because of time, everything because of a change.
2. A request with a token that was revoked before the request began is refused, once the revocation was applied.
3. Memory is bounded by `capacity` tokens.
spec: client-server-api#using-access-tokens
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from homeserver.accounts.standing import check_standing
from homeserver.accounts.types import Requester
from homeserver.db.errors import DatabaseError
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, forbidden, missing_token, unknown_token
from homeserver.http.request import Request
from homeserver.http.route import Auth
from homeserver.runtime.clock import Clock
from homeserver.store.changes import Change, Kind
from homeserver.store.devices import DevicesChanged, Seen, store_last_seen
from homeserver.store.tokens import Holder, drop_older_tokens, hash_token, load_holder
from homeserver.store.work import Worker

__all__ = ["Authenticator", "Requester"]

T = TypeVar("T")

SEEN_INTERVAL_MS = 60_000
"""How often a device's last use is written down, at most."""
_SEEN_DELAY_S = 5.0
_MAX_SEEN_WAITING = 10_000


class ForeignTokens(Protocol):
    """Knows tokens that belong to no login: those of application services."""

    def find(self, request: Request, token_hash: bytes) -> Requester | Awaitable[Requester] | None:
        """Who asks; None where the token is not known here either."""

    def frees(self, user_id: str) -> bool:
        """Whether no rate limit counts a user, with a token of their own either."""


class _Known:
    """A token in memory."""

    __slots__ = ("requester", "seen_ms")

    def __init__(self, requester: Requester) -> None:
        self.requester = requester
        self.seen_ms = 0


class _Load:
    """A look-up under way, and the users whose tokens changed meanwhile: what it finds may be of before."""

    __slots__ = ("touched",)

    def __init__(self) -> None:
        self.touched: set[int] = set()


class Authenticator:
    """Follows access tokens in memory. `authenticate` is the router's gate; `apply` hears of the log's changes."""

    def __init__(self, database: Database, worker: Worker, clock: Clock, *, capacity: int = 100_000) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._capacity = capacity
        # In the order of use, oldest first.
        self._known: dict[bytes, _Known] = {}
        self._by_user: dict[int, set[bytes]] = {}
        self._loads: set[_Load] = set()
        self._seen: dict[int, Seen] = {}
        self._writing: dict[int, Seen] = {}
        self._seen_timer = False
        self.foreign: ForeignTokens | None = None

    # --- the gate --------------------------------------------------------------------------------

    def authenticate(self, request: Request, auth: Auth) -> Requester | Awaitable[Requester] | None:
        """The requester at once where the token is in memory, else an awaitable of it. None only for OPTIONAL."""
        token = request.access_token()
        if token is None:
            if auth is Auth.OPTIONAL:
                return None
            raise missing_token()
        token_hash = hash_token(token)
        known = self._known.get(token_hash)
        if known is None:
            foreign = None if self.foreign is None else self.foreign.find(request, token_hash)
            if foreign is None:
                return self._load(request, auth, token_hash)
            if isinstance(foreign, Requester):
                return self._admit_foreign(request, auth, foreign)
            return self._await_foreign(request, auth, foreign)
        return self._admit(request, auth, token_hash, known)

    def _admit(self, request: Request, auth: Auth, token_hash: bytes, known: _Known) -> Requester:
        requester = known.requester
        now_ms = self._clock.now_ms()
        if requester.expires_ts_ms is not None and requester.expires_ts_ms <= now_ms:
            # The device is still there, and its refresh token too: the client need not forget its keys.
            raise unknown_token(soft_logout=True)
        if now_ms - known.seen_ms >= SEEN_INTERVAL_MS:
            known.seen_ms = now_ms
            # Once a minute is often enough for the order of eviction too.
            if token_hash in self._known:
                self._known[token_hash] = self._known.pop(token_hash)
            self._note_seen(request, requester, now_ms)
        return _permit(requester, auth, request)

    async def _await_foreign(self, request: Request, auth: Auth, foreign: Awaitable[Requester]) -> Requester:
        return self._admit_foreign(request, auth, await foreign)

    def _admit_foreign(self, request: Request, auth: Auth, requester: Requester) -> Requester:
        self._note_seen(request, requester, self._clock.now_ms())
        return _permit(requester, auth, request)

    async def _load(self, request: Request, auth: Auth, token_hash: bytes) -> Requester:
        load = _Load()
        self._loads.add(load)
        try:
            found = await self._database.read(load_holder, token_hash)
        finally:
            self._loads.discard(load)
        if found is None:
            raise unknown_token()
        holder, ends_older = found
        if ends_older:
            # spec: client-server-api#refreshing-access-tokens (the old pair ends with the first use of the new one)
            await self._worker.work(
                drop_older_tokens, token_hash, holder.user_nid, holder.device_nid, holder.generation
            )
        known = self._known.get(token_hash)  # a request beside this one may have been faster
        if known is None:
            known = _Known(self._requester(holder, token_hash))
            # Where that unit of work ran, or anything else happened to the user's tokens, the next request looks again.
            if not ends_older and holder.user_nid not in load.touched:
                self._keep(token_hash, known)
        return self._admit(request, auth, token_hash, known)

    def _requester(self, holder: Holder, token_hash: bytes) -> Requester:
        # What an administrator has set for somebody comes before what a registration says.
        is_free = (
            holder.rate_per_second is None and self.foreign is not None and self.foreign.frees(holder.user_id)
        )
        rate = (
            None if not holder.rate_per_second else (holder.rate_per_second, max(1, holder.rate_burst or 0))
        )
        return Requester(
            user_id=holder.user_id,
            user_nid=holder.user_nid,
            device_id=holder.device_id,
            device_nid=holder.device_nid,
            is_admin=bool(holder.admin),
            is_guest=bool(holder.guest),
            token_hash=token_hash,
            expires_ts_ms=holder.expires_ts_ms,
            is_suspended=bool(holder.suspended),
            is_locked=bool(holder.locked),
            rate_limited=holder.rate_per_second != 0 and not is_free,
            rate=rate,
        )

    def _keep(self, token_hash: bytes, known: _Known) -> None:
        if len(self._known) >= self._capacity:
            self._forget(next(iter(self._known)))
        self._known[token_hash] = known
        self._by_user.setdefault(known.requester.user_nid, set()).add(token_hash)

    def _forget(self, token_hash: bytes) -> None:
        user_nid = self._known.pop(token_hash).requester.user_nid
        hashes = self._by_user[user_nid]
        hashes.discard(token_hash)
        if not hashes:
            del self._by_user[user_nid]

    # --- following the log -----------------------------------------------------------------------

    kinds = frozenset({Kind.DEVICES, Kind.ACCOUNT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Forget what changed, and know the token of a login. Without a payload, of other processes, all is forgotten."""
        for change in changes:
            payload = change.payload
            if isinstance(payload, DevicesChanged) and not payload.removed:
                # A client's first request comes right after its login.
                if payload.token is not None:
                    token_hash, holder = payload.token
                    self._keep(token_hash, _Known(self._requester(holder, token_hash)))
            elif change.kind == Kind.DEVICES or change.kind == Kind.ACCOUNT:
                user_nid = -change.topic
                for load in self._loads:
                    load.touched.add(user_nid)
                for token_hash in self._by_user.pop(user_nid, ()):
                    del self._known[token_hash]

    # --- last seen -------------------------------------------------------------------------------

    def _note_seen(self, request: Request, requester: Requester, now_ms: int) -> None:
        if requester.device_nid == 0 or len(self._seen) >= _MAX_SEEN_WAITING:
            return
        # PostgreSQL stores no NUL, and a header may hold one.
        agent = request.user_agent.replace("\0", "")[:255]
        self._seen[requester.device_nid] = Seen(requester.device_nid, now_ms, request.client_ip, agent)
        if not self._seen_timer:
            self._seen_timer = True
            self._clock.callLater(_SEEN_DELAY_S, self._write_seen)

    def _write_seen(self) -> None:
        self._seen_timer = False
        writing = self._writing = self._seen
        self._seen = {}
        seen = sorted(writing.values(), key=lambda one: one.device_nid)
        # A last use that cannot be written is written a minute later, with the next one.
        done = self._worker.work(store_last_seen, seen)
        done.addBoth(self._written, writing).addErrback(lambda failure: failure.trap(DatabaseError))

    def _written(self, outcome: T, writing: dict[int, Seen]) -> T:
        if self._writing is writing:
            self._writing = {}
        return outcome

    def last_seen(self, device_nid: int) -> Seen | None:
        """A device's last use, where it waits to be written down."""
        return self._seen.get(device_nid) or self._writing.get(device_nid)

    @property
    def size(self) -> int:
        """How many tokens are in memory."""
        return len(self._known)


def _permit(requester: Requester, auth: Auth, request: Request) -> Requester:
    """Whether a route is for this requester."""
    if requester.is_locked or requester.is_suspended:
        check_standing(requester, request.route)
    if auth is Auth.GUEST_OK or auth is Auth.OPTIONAL:
        return requester
    if requester.is_guest:
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this")
    if auth is Auth.USER:
        return requester
    if auth is Auth.ADMIN:
        if requester.is_admin:
            return requester
        raise forbidden("You are not a server administrator")
    if auth is Auth.APPSERVICE and requester.appservice_id is not None:
        return requester
    # Application services and servers are not recognised by a user's token.
    raise forbidden("This needs another kind of authentication")
