"""The links in mails that end them: no login, for who reads the mail may end it.

A link is good for one address of one user and nothing else: it carries a signature of the server's over the two, so
nothing is stored for it.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from typing import Final
from urllib.parse import urlencode

from federation.signing import Signer
from homeserver.push.pushers import EMAIL_APP_ID
from homeserver.store.ids import Interner
from homeserver.store.pushers import drop_pusher
from homeserver.store.work import Worker

PATH: Final = "/_chaos/unsubscribe"
# No event and no request that this key signs begins like that: those are JSON.
_PURPOSE: Final = b"unsubscribe\n"


class Unsubscribing:
    """See the module."""

    def __init__(self, signer: Signer, base_url: str, interner: Interner, worker: Worker) -> None:
        self._signer = signer
        self._base_url = base_url
        self._interner = interner
        self._worker = worker

    def link(self, user_id: str, address: str) -> str:
        """Where mails to an address are ended."""
        query = urlencode({"user": user_id, "address": address, "token": self._token(user_id, address)})
        return f"{self._base_url}{PATH}?{query}"

    def is_good(self, user_id: str, address: str, token: str) -> bool:
        """Whether a link is one of ours."""
        return hmac.compare_digest(self._token(user_id, address).encode(), token.encode())

    async def end(self, user_id: str, address: str) -> None:
        """Send no more mail there."""
        user_nid = await self._interner.find_user(user_id)
        if user_nid is not None:
            await self._worker.work(drop_pusher, user_nid, EMAIL_APP_ID, address)

    def _token(self, user_id: str, address: str) -> str:
        signed = self._signer.sign(_PURPOSE + user_id.encode() + b"\n" + address.encode())
        return urlsafe_b64encode(signed).rstrip(b"=").decode()
