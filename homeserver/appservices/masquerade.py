"""An application service that speaks with its ``as_token`` acts as one of its users, and perhaps as a device of theirs.

1. Who it acts as is answered from memory once it was looked up; a change of that account or its devices drops it.
2. The user of ``sender_localpart`` exists as soon as its application service speaks.

# spec: application-service-api#identity-assertion
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from homeserver.accounts.types import Requester
from homeserver.appservices.registry import Appservice, Registry
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import MatrixError, forbidden, user_deactivated
from homeserver.http.request import Request
from homeserver.store.changes import Change, Kind
from homeserver.store.devices import load_device
from homeserver.store.users import load_accounts

# LIMIT(users and devices that are remembered, some 500 bytes each)
KNOWN_MOST = 50_000
MAX_NAME = 255

MakeSender = Callable[[Appservice], Awaitable[object]]
"""Makes the account of its sender, where there is none yet."""
_Key = tuple[str, str, str | None]


class _Found(NamedTuple):
    """An account as the tables have it, with one of its devices (0: there is none of that name)."""

    user_nid: int
    is_admin: bool
    deactivated: bool
    device_nid: int
    is_suspended: bool
    is_locked: bool


class Masquerade:
    """See the module. ``heard_from`` is told which application service spoke."""

    def __init__(self, registry: Registry, database: Database, make_sender: MakeSender) -> None:
        self._registry = registry
        self._database = database
        self._make_sender = make_sender
        self._known: dict[_Key, Requester] = {}
        self._by_user: dict[int, set[_Key]] = {}
        self._changes = 0  # of accounts and devices so far: what was read before one may be of before
        self.heard_from: Callable[[str], None] = _tell_nobody

    def find(self, request: Request, token_hash: bytes) -> Requester | Awaitable[Requester] | None:
        """Who asks; None where the token is no application service's."""
        service = self._registry.by_hash(token_hash)
        if service is None:
            return None
        self.heard_from(service.id)
        user_id = request.arg("user_id") or service.sender_id
        device_id = request.arg("device_id") or request.arg("org.matrix.msc3202.device_id")
        known = self._known.get((service.id, user_id, device_id))
        return known if known is not None else self._load(service, user_id, device_id, token_hash)

    def frees(self, user_id: str) -> bool:
        """Whether no rate limit counts a user: a sender, or one of a namespace that is exclusive and not limited."""
        # spec: application-service-api#registration (rate_limited)
        return any(
            user_id == one.sender_id or (not one.registration.rate_limited and one.reserves_user(user_id))
            for one in self._registry.all
        )

    async def _load(
        self, service: Appservice, user_id: str, device_id: str | None, token_hash: bytes
    ) -> Requester:
        if len(user_id) > MAX_NAME or not service.owns_user(user_id):
            raise forbidden("The application service may not act as this user")
        before = self._changes
        found = await self._database.read(_load, user_id, device_id)
        if found is None and user_id == service.sender_id:
            await self._make_sender(service)
            before = self._changes
            found = await self._database.read(_load, user_id, device_id)
        if found is None:
            raise forbidden("The application service has not registered this user")
        if found.deactivated:
            raise user_deactivated()
        if device_id is not None and not found.device_nid:
            raise MatrixError(400, "M_UNKNOWN_DEVICE", "The user has no such device")
        requester = Requester(
            user_id=user_id,
            user_nid=found.user_nid,
            device_id=device_id,
            device_nid=found.device_nid,
            is_admin=found.is_admin,
            is_guest=False,
            token_hash=token_hash,
            # spec: application-service-api#registration (rate_limited: the sender is excluded)
            rate_limited=service.registration.rate_limited and user_id != service.sender_id,
            appservice_id=service.id,
            is_suspended=found.is_suspended,
            is_locked=found.is_locked,
        )
        if before == self._changes:
            self._keep((service.id, user_id, device_id), requester)
        return requester

    def _keep(self, key: _Key, requester: Requester) -> None:
        if len(self._known) >= KNOWN_MOST:
            oldest = next(iter(self._known))
            self._by_user[self._known.pop(oldest).user_nid].discard(oldest)
        self._known[key] = requester
        self._by_user.setdefault(requester.user_nid, set()).add(key)

    kinds = frozenset({Kind.DEVICES, Kind.ACCOUNT})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: forget what changed."""
        for change in changes:
            if change.kind in (Kind.DEVICES, Kind.ACCOUNT):
                self._changes += 1
                for key in self._by_user.pop(-change.topic, ()):
                    del self._known[key]


def _load(tx: Tx, user_id: str, device_id: str | None) -> _Found | None:
    account = load_accounts(tx, [user_id]).get(user_id)
    if account is None:
        return None
    device = None if device_id is None else load_device(tx, account.user_nid, device_id)
    return _Found(
        account.user_nid,
        bool(account.admin),
        bool(account.deactivated),
        0 if device is None else device.nid,
        bool(account.suspended),
        bool(account.locked),
    )


def _tell_nobody(_service_id: str) -> None:
    pass
