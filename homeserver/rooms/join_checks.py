"""The driver of ``federation.flows.join``: verifies an answer to ``send_join`` in chunks, off the reactor.

Keys are asked for in bulk before anything is checked; what cannot be had then is missing, and the events that need it
are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from federation.errors import Malformed
from federation.event import Event, parse_untrusted
from federation.flows.join import Conclusion, JoinAnswer, Lot, read_answer, read_state, signers_of
from federation.flows.keys import Wanted
from federation.ids import KeyId, ServerName
from federation.signing import with_signatures
from federation.versions import RoomRules
from homeserver.peers.types import EventKeys
from homeserver.rooms.signed import is_signed

CHUNK = 400

RunInThread = Callable[..., Deferred[Any]]


@dataclass(frozen=True, slots=True)
class Verified:
    """An answer that holds: the join as it is to be stored, the events, and the state before the join."""

    server: ServerName
    join: Event
    lot: Lot
    conclusion: Conclusion


class JoinChecks:
    """Raises ``Malformed`` for an answer that does not hold."""

    def __init__(self, keys: EventKeys, run_in_thread: RunInThread) -> None:
        self._keys = keys
        self._run = run_in_thread

    async def verify(self, server: ServerName, join: Event, body: bytes) -> Verified:
        """Verify the answer of a server to our join."""
        answer: JoinAnswer = await self._run(read_answer, body)
        lot = await self._check(answer, join)
        join = await self._cosigned(join, answer.event)
        return await self._conclude(server, join, lot)

    async def verify_state(self, server: ServerName, join: Event, body: bytes) -> Verified:
        """Verify what a server says of the whole state before our join."""
        lot = await self._check(await self._run(read_state, body), join)
        return await self._conclude(server, join, lot)

    async def _check(self, answer: JoinAnswer, join: Event) -> Lot:
        lot = Lot(answer, join.room_id, join.rules)
        await self._fetch_keys(lot, join.rules)
        for start in range(0, lot.size, CHUNK):
            parsed = await self._run(lot.parse, start, CHUNK)
            keys = [await self._keys_for(event) for _, event in parsed]
            await self._run(lot.verify, parsed, keys)
        await self._run(lot.sort)
        problem = await self._run(lot.find_create)
        if problem is not None:
            raise Malformed(problem)
        for start in range(0, len(lot), CHUNK):
            await self._run(lot.judge, start, CHUNK)
        return lot

    async def _conclude(self, server: ServerName, join: Event, lot: Lot) -> Verified:
        conclusion = await self._run(lot.conclude, join, partial=lot.members_omitted)
        if conclusion.problem is not None:
            raise Malformed(conclusion.problem)
        return Verified(server, join, lot, conclusion)

    async def _fetch_keys(self, lot: Lot, rules: RoomRules) -> None:
        signatures = await self._run(lot.peek)
        await self._keys.fetch_many(
            [
                Wanted(one.server, one.key_ids, one.newest_ts_ms if rules.enforce_key_validity else 0)
                for one in signatures
            ]
        )

    async def _keys_for(self, event: Event) -> dict[ServerName, Mapping[KeyId, bytes]]:
        found: dict[ServerName, Mapping[KeyId, bytes]] = {}
        for server, key_ids in signers_of(event):
            keys = self._keys.known_for_event(server, key_ids, event.origin_server_ts, event.rules)
            if keys is None and key_ids:
                # Not fetched again: an answer could name servers without end.
                keys = await self._keys.for_event(
                    server, key_ids, event.origin_server_ts, event.rules, fetch=False
                )
            found[server] = keys or {}
        return found

    async def _cosigned(self, join: Event, text: bytes) -> Event:
        """The join with the signature of the server that let us in, where the room wants one.

        # spec: server-server-api#restricted-rooms
        """
        needed = [name for name, key_ids in signers_of(join) if not key_ids]
        if not needed:
            return join
        try:
            data = msgspec.json.decode(text or b"{}", type=dict[str, Any])
            returned = parse_untrusted(data, join.rules)
        except (msgspec.MsgspecError, Malformed, RecursionError):
            raise Malformed("it does not give the event back that it signed") from None
        if returned.event_id != join.event_id:
            raise Malformed("it gives another event back than ours")
        signed = with_signatures(join, {name: returned.json["signatures"].get(name, {}) for name in needed})
        if not await is_signed(signed, needed, self._keys):
            raise Malformed("it did not sign the event")
        return signed
