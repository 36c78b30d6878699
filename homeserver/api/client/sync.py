"""``GET /sync``. spec: client-server-api#get_matrixclientv3sync"""

from __future__ import annotations

from collections.abc import Callable

from homeserver.db.threads import Database
from homeserver.http.errors import invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.store.cache import ByteLru
from homeserver.store.filters import load_filter
from homeserver.sync.filters import SyncFilter, parse_filter
from homeserver.sync.types import Requester
from homeserver.sync.v3 import SyncService
from homeserver.sync.work import Ask

# LIMIT(a connection that waits longer is one that something on the way has forgotten)
MAX_TIMEOUT_MS = 120_000
# LIMIT(memory: some 2,500 as clients have them; one may be made that takes more than a megabyte)
_FILTER_BYTES = 16 * 1024 * 1024
_UNSTABLE_STATE_AFTER = "org.matrix.msc4222.use_state_after"
PRESENCE = frozenset(("online", "offline", "unavailable", "org.matrix.msc3026.busy"))
_BODY_LIMIT_BYTES = 65_536

SetPresence = Callable[[Requester, str], None]


class SyncApi:
    """``set_presence(requester, state)`` hears of every sync: a client that syncs is there."""

    def __init__(
        self, sync: SyncService, database: Database, set_presence: SetPresence | None = None
    ) -> None:
        self._sync = sync
        self._database = database
        self._set_presence = set_presence
        self._filters: ByteLru[str | tuple[int, int], SyncFilter] = ByteLru(
            _FILTER_BYTES, lambda one: one.weight
        )
        self._no_filter = parse_filter("{}")

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template=f"/_matrix/client/{version}/sync",
                handler=self.sync,
                auth=Auth.GUEST_OK,
                limit="sync",
                spec="client-server-api#get_matrixclientv3sync",
                cancel_on_disconnect=True,
            )
            for version in ("v3", "r0")  # COMPAT(clients of before v1.1, always)
        ]

    async def sync(self, request: Request) -> bytes:
        requester: Requester = request.requester
        since = request.arg("since")
        at = self._sync.parse_token(since) if since else None
        timeout_ms = request.int_arg("timeout", 0, 0, MAX_TIMEOUT_MS, clamp=True)
        full_state = request.bool_arg("full_state")
        presence = request.arg("set_presence", "online")
        if presence not in PRESENCE:
            raise invalid_param("set_presence must be online, offline or unavailable")
        text = request.arg("filter")
        filter_ = self._known_filter(requester, text) if text else self._no_filter
        if filter_ is None:
            filter_ = await self._load_filter(requester, text or "")
        if self._set_presence is not None:
            self._set_presence(requester, presence)
        state_name = b"state"
        if request.bool_arg("use_state_after"):
            state_name = b"state_after"
        elif request.bool_arg(_UNSTABLE_STATE_AFTER):
            state_name = b"org.matrix.msc4222.state_after"
        return await self._sync.sync(Ask(requester, filter_, at, timeout_ms / 1000, full_state, state_name))

    def _known_filter(self, requester: Requester, text: str) -> SyncFilter | None:
        """A filter by its id or its JSON: it is an object if it begins like one."""
        if text[0] == "{":
            found = self._filters.get(text)
            if found is None:
                if len(text) > _BODY_LIMIT_BYTES:
                    raise invalid_param("The filter is too long")
                found = parse_filter(text)
                self._filters.put(text, found)
            return found
        return self._filters.get((requester.user_nid, _filter_id(text)))

    async def _load_filter(self, requester: Requester, text: str) -> SyncFilter:
        filter_id = _filter_id(text)
        stored = await self._database.read(load_filter, requester.user_nid, filter_id)
        if stored is None:
            raise invalid_param("No such filter")
        found = parse_filter(stored)
        # A filter never changes, and its number is never given to another.
        self._filters.put((requester.user_nid, filter_id), found)
        return found


def _filter_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid_param("No such filter")
    return int(text)
