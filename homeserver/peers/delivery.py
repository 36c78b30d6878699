"""One transaction on its way: its bytes, the request, and what the answer means.

Events travel as the bytes that were signed: they are spliced into the body, never encoded again, and ``unsigned`` is
not in them.

# spec: server-server-api#put_matrixfederationv1sendtxnid
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from federation.errors import RemoteError
from federation.ids import ServerName
from federation.queue import Outcome, PduRef, Transaction
from homeserver.db.threads import Database
from homeserver.http.transport import Unreachable, build_uri
from homeserver.peers.types import PeerClient
from homeserver.runtime.log import Log
from homeserver.store.cache import ByteLru
from homeserver.store.outgoing import load_pdus

TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 1024 * 1024
DEFAULT_BUDGET = 16 * 1024 * 1024
_LOGGED_MOST = 5
# These say that this very transaction is no good: another might be. Everything else may pass by itself.
_REFUSALS = frozenset({400, 411, 413, 414, 415, 422})
# What a proxy says in the name of a server that is not there.
_NOBODY_THERE = frozenset({502, 503, 504})

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one attempt ended."""

    outcome: Outcome
    answered: bool = True  # False: as if nobody was there, so that any sign of life is news
    refused: bool = False
    retry_after_ms: int | None = None
    reason: str = ""


class PduBytes(ByteLru[str, bytes]):
    """The bytes of the newest events by their ids, for all destinations together."""

    def __init__(self, budget: int = DEFAULT_BUDGET) -> None:
        super().__init__(budget, lambda text: len(text) + 150)


class Carrier:
    """Makes the request of a transaction and judges the answer."""

    def __init__(
        self, server_name: ServerName, client: PeerClient, database: Database, pdus: PduBytes, log: Log
    ) -> None:
        self._origin = _encode(server_name)
        self._client = client
        self._database = database
        self._pdus = pdus
        self._log = log

    def allows(self, server_name: str) -> bool:
        """Whether the configuration lets us talk with that server at all."""
        return self._client.allows(server_name)

    async def deliver(self, transaction: Transaction, ts_ms: int) -> Delivery:
        """Send it; ``ts_ms`` is when it was made, and the same at each attempt. Raises ``DatabaseError`` alone."""
        body = self._body(transaction, await self._texts(transaction.pdus), ts_ms)
        uri = build_uri("/_matrix/federation/v1/send", transaction.txn_id)
        try:
            answer = await self._client.ask(
                transaction.destination, "PUT", uri, body, timeout_s=TIMEOUT_S, max_bytes=MAX_ANSWER_BYTES
            )
        except Unreachable as error:
            return Delivery(Outcome.RETRY_LATER, answered=False, reason=str(error))
        except RemoteError as error:
            answered = error.status not in _NOBODY_THERE
            refused = error.status in _REFUSALS
            return Delivery(Outcome.RETRY_LATER, answered, refused, error.retry_after_ms, str(error))
        self._note_errors(transaction, answer)
        return Delivery(Outcome.DELIVERED)

    async def _texts(self, refs: Collection[PduRef]) -> list[bytes]:
        found: dict[str, bytes | None] = {ref.event_id: self._pdus.get(ref.event_id) for ref in refs}
        missing = [event_id for event_id, text in found.items() if text is None]
        if missing:
            found.update(await self._database.read(load_pdus, missing))
        # One that is gone meanwhile (a purge) is left out.
        return [text for text in found.values() if text is not None]

    def _body(self, transaction: Transaction, pdus: list[bytes], ts_ms: int) -> bytes:
        edus = (
            b'"edus":[%b],' % b",".join([edu.body for edu in transaction.edus]) if transaction.edus else b""
        )
        return b'{%b"origin":%b,"origin_server_ts":%d,"pdus":[%b]}' % (
            edus,
            self._origin,
            ts_ms,
            b",".join(pdus),
        )

    def _note_errors(self, transaction: Transaction, answer: Mapping[str, Any]) -> None:
        """What the other server could not make anything of is for the log: to send it again would not help."""
        results = answer.get("pdus")
        if type(results) is not dict:
            return
        refused = [
            f"{ref.event_id}: {result['error'][:200]}"
            for ref in transaction.pdus
            if type(result := results.get(ref.event_id)) is dict and type(result.get("error")) is str
        ]
        if refused:
            self._log.info(
                "events refused by another server",
                destination=transaction.destination,
                count=len(refused),
                events=refused[:_LOGGED_MOST],
            )
