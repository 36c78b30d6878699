"""Requests to application services.

Their addresses are the administrator's, so these go through a client of their own without the filter of addresses. The
token travels in a header, and in the query string only where the paths of old drafts are asked, with the old rules.

# spec: application-service-api#homeserver---application-service-api
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from homeserver.appservices.registry import Appservice
from homeserver.http.client import HttpClient, HttpLimits, HttpResponse
from homeserver.http.errors import MatrixError
from homeserver.http.transport import TimedOut, Unreachable
from homeserver.runtime.clock import Clock

TRANSACTION_TIMEOUT_S: Final = 60.0
QUERY_TIMEOUT_S: Final = 15.0
PING_TIMEOUT_S: Final = 30.0
# How long the paths of old drafts are asked first where they were what an application service understood.
LEGACY_S: Final = 3600.0
_MOST_BYTES: Final = 1024 * 1024
_PREFIX: Final = "/_matrix/app/v1"

_encode = msgspec.json.Encoder().encode


class _Error(msgspec.Struct):
    errcode: str = ""


_decode_error = msgspec.json.Decoder(_Error).decode


class Courier:
    """See the module."""

    def __init__(self, http: HttpClient | None, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._legacy: dict[str, float] = {}  # by application service: until when

    async def put_transaction(self, service: Appservice, txn_id: str, body: bytes) -> int:
        """The status of its answer, 0 for none: 200 where it has taken the transaction, 413 where it is too large.

        Never raises but for being cancelled.
        """
        status = 0
        path = f"/transactions/{quote(txn_id, safe='')}"
        limits = HttpLimits(TRANSACTION_TIMEOUT_S, _MOST_BYTES)
        for legacy in self._ways(service):
            try:
                response = await self._request(service, "PUT", path, limits, body=body, legacy=legacy)
            except Unreachable:
                return 0
            status = response.status
            if status == 200:
                self._note(service, legacy=legacy)
            if status in (200, 413):
                break
        return status

    async def get(
        self,
        service: Appservice,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        old: str | None = None,
    ) -> HttpResponse:
        """The answer to a question. ``old``: what old drafts have before the path ("" for none). Raises Unreachable."""
        limits = HttpLimits(QUERY_TIMEOUT_S, _MOST_BYTES)
        found: HttpResponse | None = None
        for legacy in self._ways(service):
            found = await self._request(
                service, "GET", path, limits, query=query, legacy=legacy, old=old or ""
            )
            if not _is_unknown(found):
                return found
        assert found is not None
        return found

    async def ping(self, service: Appservice, transaction_id: str | None) -> int:
        """How many milliseconds its answer took, begun ones counted. Raises the MatrixError that the application service is told."""
        # spec: application-service-api#pinging
        if service.registration.url is None:
            raise MatrixError(400, "M_URL_NOT_SET", "The application service has no URL")
        body = _encode({} if transaction_id is None else {"transaction_id": transaction_id})
        began_s = self._clock.monotonic()
        try:
            response = await self._request(
                service, "POST", "/ping", HttpLimits(PING_TIMEOUT_S, _MOST_BYTES), body=body
            )
        except TimedOut:
            raise MatrixError(
                504, "M_CONNECTION_TIMEOUT", "The application service did not answer in time"
            ) from None
        except Unreachable as error:
            raise MatrixError(502, "M_CONNECTION_FAILED", f"No answer: {error}") from None
        if not 200 <= response.status < 300:
            refused = MatrixError(502, "M_BAD_STATUS", f"Ping returned status {response.status}")
            refused.extra["status"] = response.status
            refused.extra["body"] = response.body[:10_000].decode("utf-8", "replace")
            raise refused
        # Never 0: mautrix takes that for no answer.
        return max(ceil((self._clock.monotonic() - began_s) * 1000), 1)

    # --- ways --------------------------------------------------------------------------------------------

    def _ways(self, service: Appservice) -> tuple[bool, ...]:
        # spec: application-service-api#legacy-routes
        until = self._legacy.get(service.id)
        return (True,) if until is not None and self._clock.monotonic() < until else (False, True)

    def _note(self, service: Appservice, *, legacy: bool) -> None:
        if not legacy:
            self._legacy.pop(service.id, None)
        elif service.id not in self._legacy or self._legacy[service.id] <= self._clock.monotonic():
            self._legacy[service.id] = self._clock.monotonic() + LEGACY_S

    async def _request(
        self,
        service: Appservice,
        method: str,
        path: str,
        limits: HttpLimits,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        legacy: bool = False,
        old: str = "",
    ) -> HttpResponse:
        registration = service.registration
        if self._http is None or registration.url is None:
            raise Unreachable(f"{service.id} cannot be asked from here")
        arguments = {**(query or {}), **({"access_token": registration.hs_token} if legacy else {})}
        where = f"{registration.url}{old if legacy else _PREFIX}{path}"
        url = f"{where}?{urlencode(arguments, doseq=True)}" if arguments else where
        headers = {"Authorization": f"Bearer {registration.hs_token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return await self._http.request(method, url, body=body, headers=headers, limits=limits)


def _is_unknown(response: HttpResponse) -> bool:
    """Whether the path was not understood, as opposed to: there is no such thing."""
    if response.status not in (404, 405, 500, 501):
        return False
    try:
        errcode = _decode_error(response.body).errcode
    except (msgspec.DecodeError, RecursionError):
        return True
    return errcode in ("", "M_UNRECOGNIZED")
