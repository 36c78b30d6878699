"""Our own keys, as we publish them. spec: server-server-api#publishing-keys"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from federation.ids import KeyId, ServerName
from federation.keyring import MAX_VALIDITY_MS, ServerKeys, VerifyKey, build_key_response, parse_key_response
from federation.signing import Signer
from homeserver.runtime.clock import Clock

# The answer is signed anew after this time, so that what others get is always good for nearly a week.
RENEW_MS = 3600 * 1000


class OwnKeys:
    """The current keys (the first one signs) and those of the past."""

    def __init__(self, signers: Sequence[Signer], old: Sequence[VerifyKey], clock: Clock) -> None:
        self._signers = tuple(signers)
        current = {signer.key_id for signer in signers}
        self._old = tuple(key for key in old if key.key_id not in current)
        self._clock = clock
        self._response: dict[str, Any] = {}
        self._answer = b""
        self._keys: ServerKeys | None = None
        self._made_ts_ms = 0

    @property
    def server_name(self) -> ServerName:
        return self._signers[0].server_name

    @property
    def signer(self) -> Signer:
        """Who signs for us."""
        return self._signers[0]

    def response(self) -> Mapping[str, Any]:
        """The signed object of `GET /_matrix/key/v2/server`."""
        self._renew()
        return self._response

    def answer(self) -> bytes:
        """The same as JSON."""
        self._renew()
        return self._answer

    def keys(self) -> ServerKeys:
        """What another server would know of us."""
        return self._renew()

    def for_requests(self) -> Mapping[KeyId, bytes]:
        """The keys that sign requests."""
        return {signer.key_id: signer.public_key for signer in self._signers}

    def _renew(self) -> ServerKeys:
        now_ms = self._clock.now_ms()
        # The machine's clock may be set back, too.
        if self._keys is None or not self._made_ts_ms <= now_ms < self._made_ts_ms + RENEW_MS:
            self._response = build_key_response(self._signers, self._old, now_ms + MAX_VALIDITY_MS)
            # In the form that is signed, so that the signature holds for the bytes without further ado.
            self._answer = msgspec.json.encode(self._response, order="sorted")
            self._keys = parse_key_response(self._response, self.server_name, now_ms)
            self._made_ts_ms = now_ms
        return self._keys
