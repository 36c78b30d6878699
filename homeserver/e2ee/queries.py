"""Whose keys are which, and keys to begin a conversation with: for clients, and for other servers about our users.

1. Of users of this server the tables are asked, of others their servers (``remote.py``), all at the same time; a server
   that does not answer is named among the failures and holds up nobody else's keys.
2. Other servers are told of our own users alone, and nothing that is only for somebody's own eyes.

# spec: client-server-api#post_matrixclientv3keysquery
# spec: server-server-api#end-to-end-encryption
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from federation.errors import Malformed
from federation.ids import domain_of, parse_user_id
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.e2ee.assembly import Viewer, load_local, read_keys
from homeserver.e2ee.claims import ClaimDesk
from homeserver.e2ee.shapes import is_name, public_key_of
from homeserver.e2ee.types import Claims, Found, FoundKeys, RemoteKeys, Requester, UserKeys, Wanted
from homeserver.http.errors import not_found, too_large
from homeserver.store.cross_signing import MASTER, load_signatures
from homeserver.store.device_lists import load_stream_id
from homeserver.store.ids import Interner
from homeserver.store.key_claims import Wanted as WantedKey
from homeserver.store.work import GatheringWorker
from homeserver.stream.index import MembershipIndex

# LIMIT(most clients ask for some hundred at a time; some for all whom they do not know, or for a key of every device in a
# room, and for the same once more where that is refused. Memory counts a user's list: `types.py`)
MAX_USERS = 10_000
MAX_CLAIMS = 20_000


class KeyQueries:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: GatheringWorker,
        interner: Interner,
        index: MembershipIndex,
        remote: RemoteKeys,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._desk = ClaimDesk(worker)
        self._interner = interner
        self._index = index
        self._remote = remote

    # --- for clients ---------------------------------------------------------------------------------------------

    async def query(self, requester: Requester, wanted: Wanted, timeout_s: float) -> Found:
        """The keys of users, as the requester may see them. 413 where there are too many of them.

        Where it is their keys that are too many, some of the largest lists are left out and their servers named.
        """
        if len(wanted) > MAX_USERS:
            raise too_large(f"More than {MAX_USERS} users in one request")
        local, remote = self._split(wanted)
        found = Found()
        if remote:
            theirs = {name: wanted[name] for name in remote}
            found = await self._remote.query(requester.user_id, theirs, timeout_s)
            await self._add_signatures(requester, found)
        viewer = Viewer(requester.user_nid, requester.user_id)
        await self._add_local({name: wanted[name] for name in local}, viewer, found)
        return found

    async def _add_signatures(self, requester: Requester, found: Found) -> None:
        """What the requester signed of other servers' users is known here and nowhere else."""
        nids = await self._interner.find_users(found.users)
        if not nids:
            return
        signatures = await self._database.read(load_signatures, list(nids.values()))
        for user_id, nid in nids.items():
            keys = found.users[user_id]
            master = keys.signing.get(MASTER)
            public_key = None if master is None else public_key_of(master)
            own = {
                one.key_id: one.signature
                for one in signatures.get((nid, public_key or ""), ())
                if one.signer_nid == requester.user_nid
            }
            if master is not None and own:
                # A copy: others who asked meanwhile have the same answer, and are not to see whom the requester knows.
                # spec: client-server-api#key-and-signature-security
                by_user = {**master.get("signatures", {}), requester.user_id: own}
                signed = {**master, "signatures": by_user}
                found.users[user_id] = UserKeys(keys.devices, {**keys.signing, MASTER: signed}, keys.size)

    async def claim(self, requester: Requester, claims: Claims, timeout_s: float) -> FoundKeys:
        """A key for each device that has one. 413 where there are too many of them."""
        if len(claims) > MAX_CLAIMS:
            raise too_large(f"More than {MAX_CLAIMS} keys in one request")
        local, remote = self._split({user_id: () for user_id, _, _ in claims})
        found = FoundKeys()
        if remote:
            asked = set(remote)
            theirs = [one for one in claims if one[0] in asked]
            found = await self._remote.claim(requester.user_id, theirs, timeout_s)
        found.keys.update(await self._claim_of(local, claims))
        return found

    def _split(self, wanted: Wanted) -> tuple[list[str], list[str]]:
        """Users of this server, and of others; what is no user id names nobody."""
        local: list[str] = []
        remote: list[str] = []
        for user_id in wanted:
            nid = self._interner.known_user(user_id)
            if nid is not None and self._index.is_local(nid):
                local.append(user_id)  # as nearly always; what names an account need not be looked at
                continue
            try:
                domain = domain_of(parse_user_id(user_id))
            except Malformed:
                continue
            (local if domain == self._server_name else remote).append(user_id)
        return local, remote

    # --- for other servers ---------------------------------------------------------------------------------------

    async def query_local(self, wanted: Wanted) -> dict[str, UserKeys]:
        """The keys of our users, as another server may see them."""
        local, _ = self._split(wanted)
        found = Found()
        await self._add_local({name: wanted[name] for name in local}, Viewer(), found)
        return found.users

    async def claim_local(self, claims: Claims) -> dict[str, dict[str, dict[str, Any]]]:
        """A key for each of our devices that has one: by user, device and name."""
        local, _ = self._split({user_id: () for user_id, _, _ in claims})
        return await self._claim_of(local, claims)

    async def _claim_of(self, local: Sequence[str], claims: Claims) -> dict[str, dict[str, dict[str, Any]]]:
        nids = await self._accounts(local)
        asked = [
            WantedKey(nids[user_id], device_id, algorithm)
            for user_id, device_id, algorithm in claims
            if user_id in nids and is_name(device_id) and is_name(algorithm)
        ]
        found: dict[str, dict[str, dict[str, Any]]] = {}
        names = {nid: user_id for user_id, nid in nids.items()}
        for one in await self._desk.take(asked):
            if one is not None:
                by_device = found.setdefault(names[one.user_nid], {})
                by_device.setdefault(one.device_id, {})[one.name] = msgspec.Raw(one.key.encode())
        return found

    async def device_list(self, user_id: str) -> tuple[int, UserKeys]:
        """The whole list of a user of this server's, and the ``stream_id`` that it is of; 404 for another server's.

        Who has no account has no devices. Dendrite takes an error for the server's, and asks for nobody's list for an
        hour.
        """
        if domain_of(user_id) != self._server_name:
            raise not_found("This is no user of this server's")
        nid = (await self._accounts([user_id])).get(user_id)
        return (0, UserKeys()) if nid is None else await self._database.read(_load_list, nid, user_id)

    async def _add_local(self, wanted: Wanted, viewer: Viewer, found: Found) -> None:
        names = {nid: user_id for user_id, nid in (await self._accounts(list(wanted))).items()}
        await read_keys(self._database, load_local, names, viewer, wanted, found)

    async def _accounts(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """Those of the users who have an account here."""
        found = await self._interner.find_users(user_ids)
        return {user_id: nid for user_id, nid in found.items() if self._index.is_local(nid)}


def _load_list(tx: Tx, nid: int, user_id: str) -> tuple[int, UserKeys]:
    # One snapshot of the database for both: an update that the list has not is one that is still to be sent.
    stream_id = load_stream_id(tx, nid, 2**62)
    return stream_id, load_local(tx, {nid: user_id}, Viewer())[nid]
