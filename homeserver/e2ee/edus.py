"""What other servers tell of their users' devices, without being asked.

1. Each of these returns when what it says is stored (or has been before), so that the sender may be told so.
2. What it says of users whom nobody here shares a room with is passed over: a server may not fill our tables.
3. An update that does not follow on what is known makes the list stale; it is fetched again in the background.

# spec: server-server-api#device-management
# spec: server-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.canonical import encode_checked
from federation.edus import DeviceListUpdate, DirectToDevice, SigningKeyUpdate
from federation.errors import Malformed
from federation.ids import ServerName, domain_of
from homeserver.db.threads import Database
from homeserver.e2ee.foreign import read_device
from homeserver.e2ee.remote import RemoteLists
from homeserver.e2ee.shapes import foreign_signing_key, is_name
from homeserver.e2ee.to_device import MAX_MESSAGE_BYTES, build_message
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.store.cross_signing import MASTER, SELF_SIGNING
from homeserver.store.device_lists import load_rooms_of
from homeserver.store.ids import Interner
from homeserver.store.remote_lists import Update, apply_signing_keys, apply_update
from homeserver.store.to_device import Received, ToDevice, receive
from homeserver.store.work import Worker
from homeserver.stream.index import MembershipIndex


class KeyEdus:
    """See the module. The origin of each EDU was checked: it speaks about its own users."""

    def __init__(
        self,
        server_name: str,
        remote: RemoteLists,
        database: Database,
        worker: Worker,
        interner: Interner,
        index: MembershipIndex,
        clock: Clock,
        log: Log,
    ) -> None:
        self._server_name = server_name
        self._remote = remote
        self._database = database
        self._worker = worker
        self._interner = interner
        self._index = index
        self._clock = clock
        self._log = log

    async def direct_to_device(self, origin: ServerName, edus: Sequence[DirectToDevice]) -> None:
        """Put messages into the inboxes of our users' devices, in the order of the sender."""
        users = {
            one.user_id for edu in edus for one in edu.messages if domain_of(one.user_id) == self._server_name
        }
        found = await self._interner.find_users(users)
        nids = {user_id: nid for user_id, nid in found.items() if self._index.is_local(nid)}
        received: list[Received] = []
        for edu in edus:
            messages = _messages(edu, nids)
            if messages and "\0" not in edu.message_id:
                received.append(Received(edu.message_id, messages))
        if received:
            await self._worker.work(receive, origin, received, self._clock.now_ms())

    async def device_list_update(self, origin: ServerName, edu: DeviceListUpdate) -> None:
        """A device of another server's user came, changed or went."""
        nid = await self._known(edu.user_id)
        if nid is None or not is_name(edu.device_id):
            return
        device = None
        if not edu.deleted and edu.keys is not None:
            device = read_device(edu.user_id, nid, edu.device_id, edu.keys, edu.display_name)
            if device is None:
                # Whatever it is, what comes after it does not follow on what we have.
                self._log.debug("device keys of no known shape", server=origin)
                return
        update = Update(nid, edu.device_id, edu.stream_id, edu.prev_ids, device)
        if not await self._worker.work(apply_update, update):
            self._remote.resync_soon(edu.user_id)

    async def signing_key_update(self, origin: ServerName, edu: SigningKeyUpdate) -> None:  # noqa: ARG002 (as its user)
        """Another server's user has other cross-signing keys."""
        nid = await self._known(edu.user_id)
        if nid is None:
            return
        keys = [
            foreign_signing_key(key, edu.user_id, usage, nid)
            for key, usage in ((edu.master_key, MASTER), (edu.self_signing_key, SELF_SIGNING))
            if key is not None
        ]
        known = [one for one in keys if one is not None]
        if known:
            await self._worker.work(apply_signing_keys, nid, known)

    async def _known(self, user_id: str) -> int | None:
        """A user of another server with whom somebody here shares a room."""
        nid = await self._interner.find_user(user_id)
        if nid is None:
            return None
        rooms = await self._database.read(load_rooms_of, nid)
        return nid if any(self._index.local_members(room_nid) for room_nid in rooms) else None


def _messages(edu: DirectToDevice, nids: Mapping[str, int]) -> list[ToDevice]:
    """What is for our users, as far as it is something that a device can be given."""
    found: list[ToDevice] = []
    for one in edu.messages:
        nid = nids.get(one.user_id)
        if nid is None or not is_name(one.device_id):
            continue
        try:
            size = len(encode_checked(one.content, strict=False))
        except Malformed:
            continue
        if size <= MAX_MESSAGE_BYTES:
            found.append(ToDevice(nid, one.device_id, build_message(edu.sender, edu.type, one.content)))
    return found
