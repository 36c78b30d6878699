"""Transactions: how other servers send us events and EDUs. spec: server-server-api#transactions"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from homeserver.http.errors import invalid_param, too_large
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route
from homeserver.rooms.federated.receive import TransactionReceiver

# spec: server-server-api#transactions
MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
# Fifty events of 65,536 bytes and a hundred EDUs as large, with room for `unsigned` and for how JSON is written.
MAX_BODY: Final = 16 * 1024 * 1024
# LIMIT(identifiers of transactions are short: this one is stored)
MAX_TXN_ID: Final = 255


class _Body(msgspec.Struct):
    """The transaction. Its ``origin`` is not looked at: who signed the request is who sent it."""

    pdus: list[Any]
    edus: list[Any] = []


class TransactionsApi:
    def __init__(self, receiver: TransactionReceiver) -> None:
        self._receiver = receiver

    def routes(self) -> list[Route]:
        return [
            Route(
                method="PUT",
                template="/_matrix/federation/v1/send/{txn_id}",
                handler=self.send,
                auth=Auth.FEDERATION,
                serve="federation",
                max_body=MAX_BODY,
                spec="server-server-api#put_matrixfederationv1sendtxnid",
            )
        ]

    async def send(self, request: Request, txn_id: str) -> bytes:
        if len(txn_id) > MAX_TXN_ID:
            raise invalid_param("The transaction id is too long")
        body = request.json(_Body)
        if len(body.pdus) > MAX_PDUS or len(body.edus) > MAX_EDUS:
            raise too_large(f"A transaction holds at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs")
        answer = await self._receiver.receive(request.requester.origin, txn_id, body.pdus, body.edus)
        return answer.encode()
