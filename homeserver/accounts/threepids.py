"""The addresses of users: adding, removing, binding at identity servers.

Contract:
1. An address is added on a proof of this server's own letters alone: what an identity server says proves nothing here.
2. An address belongs to one account at most.
3. Where an address was bound, is remembered until it is unbound.
spec: client-server-api#adding-account-administrative-contact-information
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from homeserver.accounts.identity_servers import Account, IdentityServers, canonical
from homeserver.accounts.sessions import proof_is_good
from homeserver.accounts.types import Requester, ended_account
from homeserver.accounts.users import threepid_in_use
from homeserver.accounts.validations import Validations
from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import MatrixError, UserLimitReachedError
from homeserver.runtime.clock import Clock
from homeserver.store import threepids, users
from homeserver.store.threepids import EMAIL, Binding, Threepid, ThreepidInUseError, TooManyThreepidsError
from homeserver.store.validations import ProofUsedUpError, Purpose, Validation, use_up
from homeserver.store.work import Worker


class Threepids:
    """See the module."""

    def __init__(
        self,
        validations: Validations,
        servers: IdentityServers,
        database: Database,
        worker: Worker,
        clock: Clock,
    ) -> None:
        self._validations = validations
        self._servers = servers
        self._database = database
        self._worker = worker
        self._clock = clock

    async def load(self, user_nid: int) -> list[dict[str, Any]]:
        """A user's addresses, as clients are told them."""
        found = await self._database.read(threepids.load_threepids, user_nid)
        return [
            {
                "medium": one.medium,
                "address": one.address,
                "validated_at": one.validated_ts_ms,
                "added_at": one.added_ts_ms,
            }
            for one in found
        ]

    async def add(self, proven: users.Account, sid: str, client_secret: str) -> None:
        """Add a proven address. ``proven``: the account as it was when somebody proved that it is theirs."""
        proof = await self._validations.proven(Purpose.ADD, sid, client_secret)
        if proof is None:
            # COMPAT(FluffyChat, 2026): it asks for the letter that is meant for a new account.
            proof = await self._validations.proven(Purpose.REGISTER, sid, client_secret)
        if proof is None:
            raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "No such address was verified")
        try:
            with proof_is_good():
                await self._worker.work(_add, proven, proof, self._clock.now_ms())
        except ProofUsedUpError:
            raise MatrixError(403, "M_THREEPID_AUTH_FAILED", "No such address was verified") from None
        except ThreepidInUseError:
            raise threepid_in_use() from None
        except TooManyThreepidsError:
            raise UserLimitReachedError("The account has as many addresses as it may have") from None

    async def delete(self, user_nid: int, user_id: str, medium: str, address: str, server: str | None) -> str:
        """Remove an address, and unbind it; the result of the latter."""
        address = canonical(medium, address)
        await self._worker.work(threepids.drop_threepid, user_nid, medium, address)
        return await self.unbind(user_nid, user_id, medium, address, server)

    async def bind(self, requester: Requester, account: Account, sid: str, client_secret: str) -> None:
        """Have an identity server bind an address that it has verified."""
        user_nid, user_id = requester.user_nid, requester.user_id
        binding = await self._servers.bind(account, sid, client_secret, user_id)
        if not await self._worker.work(threepids.store_binding, user_nid, binding):
            await self._unbind_all(user_nid, user_id, [binding])
            raise ended_account(requester)

    async def unbind(self, user_nid: int, user_id: str, medium: str, address: str, server: str | None) -> str:
        """Unbind an address where it is bound: ``success``, or ``no-support`` where it is not known where that is."""
        address = canonical(medium, address)
        bindings = [
            one
            for one in await self._database.read(threepids.load_bindings, user_nid)
            if (one.medium, one.address) == (medium, address) and server in (None, one.id_server)
        ]
        if not bindings and server is not None:
            bindings = [Binding(medium, address, server)]
        return await self._unbind_all(user_nid, user_id, bindings) if bindings else "no-support"

    async def forget_all(
        self,
        user_nid: int,
        user_id: str,
        addresses: Collection[tuple[str, str]] = (),
        server: str | None = None,
    ) -> str:
        """Unbind everything, of an account that ends: where it is known to be bound, and at a ``server`` that was named.

        ``addresses``: media and addresses that the account had. Nobody can say that one of them is bound nowhere, so
        where no server is known for it, that is ``no-support`` too.
        """
        # spec: client-server-api#post_matrixclientv3accountdeactivate
        bindings = set(await self._database.read(threepids.load_bindings, user_nid))
        if server is not None:
            everything = {*addresses, *((one.medium, one.address) for one in bindings)}
            bindings |= {Binding(medium, address, server) for medium, address in everything}
        result = await self._unbind_all(user_nid, user_id, sorted(bindings))
        lost = set(addresses) - {(one.medium, one.address) for one in bindings}
        return "no-support" if lost else result

    async def _unbind_all(self, user_nid: int, user_id: str, bindings: list[Binding]) -> str:
        result = "success"
        silent: set[str] = set()
        for binding in bindings:
            # One that did not answer once is not waited for again.
            if binding.id_server in silent:
                continue
            if await self._servers.unbind(binding, user_id):
                await self._worker.work(threepids.forget_binding, user_nid, binding)
            else:
                result = "no-support"
                silent.add(binding.id_server)
        return result


def proven_threepid(proof: Validation, now_ms: int) -> Threepid:
    """The address that was proven."""
    return Threepid(EMAIL, proof.address, proof.validated_ts_ms or now_ms, now_ms)


def _add(tx: WriteTx, proven: users.Account, proof: Validation, now_ms: int) -> None:
    users.check_unchanged(tx, proven)
    if not use_up(tx, proof.sid):
        raise ProofUsedUpError
    threepids.put_threepid(tx, proven.user_nid, proven_threepid(proof, now_ms))
