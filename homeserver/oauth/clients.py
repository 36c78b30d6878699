"""Apps register themselves, and are found again.

The id of an app is made of what it says of itself: the same app has one row, however many people use it.

# spec: client-server-api#client-registration
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from urllib.parse import SplitResult

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.oauth.types import GRANT_TYPES, Client, OAuthError
from homeserver.oauth.uris import check_client_uri, check_page, check_redirect
from homeserver.runtime.clock import Clock
from homeserver.store.oauth_clients import load_client, put_client, trim_clients
from homeserver.store.oauth_sessions import load_clients_of
from homeserver.store.work import Worker

REDIRECTS_MOST: Final = 20
NAME_LENGTH_MOST: Final = 200
# An app that nobody is logged in with is forgotten after so long; it registers anew when somebody logs in.
_UNUSED_MS: Final = 86_400_000
# LIMIT(what anybody may leave here for a day: so much, so often; the newest stay, as people are just logging in by them)
_METADATA_MOST: Final = 8192
UNUSED_MOST: Final = 10_000
_TRIM_EVERY: Final = 100

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Clients:
    """See the module. ``with_loopback``: apps at http://localhost may register as web apps (development)."""

    def __init__(self, database: Database, worker: Worker, clock: Clock, *, with_loopback: bool) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._with_loopback = with_loopback
        self._registered = 0

    async def register(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is registered, with the id. Raises OAuthError."""
        # spec: client-server-api#dynamic-client-registration-flow
        metadata = self._check(said)
        text = _encode(metadata)
        if len(text) > _METADATA_MOST:
            raise OAuthError("invalid_client_metadata", "The app says too much of itself")
        client_id = b32encode(sha256(text).digest()[:16]).decode().rstrip("=")
        now_ms = self._clock.now_ms()
        await self._worker.work(put_client, client_id, text.decode(), now_ms, now_ms - _UNUSED_MS)
        self._registered += 1
        if self._registered % _TRIM_EVERY == 0:
            await self._worker.work(trim_clients, UNUSED_MOST, 2 * _TRIM_EVERY)
        return {"client_id": client_id, **metadata}

    async def find(self, client_id: str) -> Client | None:
        """An app by its id."""
        if len(client_id) > 64 or "\0" in client_id:
            return None
        text = await self._database.read(load_client, client_id)
        return None if text is None else _client(client_id, _decode(text))

    async def of_devices(self, user_nid: int) -> dict[str, Client]:
        """The apps by which a user's devices logged in, by the devices' ids; others have none."""
        return await self._database.read(_load_of_devices, user_nid)

    def _check(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of what an app says of itself; fields that mean nothing here are left out."""
        if said.get("client_uri") is None:
            raise OAuthError("invalid_client_metadata", "client_uri is missing")
        uri = check_client_uri(said["client_uri"], with_loopback=self._with_loopback)
        kind = said.get("application_type") or "web"
        if kind not in ("web", "native"):
            raise OAuthError("invalid_client_metadata", "application_type must be web or native")
        grants = _some(said, "grant_types", GRANT_TYPES, ["authorization_code"])
        kept: dict[str, Any] = {
            "client_uri": said["client_uri"],
            "application_type": kind,
            "grant_types": grants,
            "response_types": _response_types(said, grants),
            # Whatever was asked for: no app gets a secret that all who have the app could read.
            "token_endpoint_auth_method": "none",
            "redirect_uris": _redirects(said, uri, is_native=kind == "native"),
        }
        if "authorization_code" in grants and not kept["redirect_uris"]:
            raise OAuthError(
                "invalid_redirect_uri", "Somebody who logs in must come back: redirect_uris is missing"
            )
        name = said.get("client_name")
        if name is not None:
            kept["client_name"] = _name(name)
        for field in ("logo_uri", "tos_uri", "policy_uri"):
            if said.get(field) is not None:
                kept[field] = check_page(said[field], field, uri)
        return kept


def _load_of_devices(tx: Tx, user_nid: int) -> dict[str, Client]:
    ids = load_clients_of(tx, user_nid)
    texts = {client_id: load_client(tx, client_id) for client_id in sorted(set(ids.values()))}
    known = {client_id: _client(client_id, _decode(text)) for client_id, text in texts.items() if text}
    return {device_id: known[client_id] for device_id, client_id in ids.items() if client_id in known}


def _response_types(said: Mapping[str, Any], grants: Sequence[str]) -> list[str]:
    """``code``, which the authorization code needs; who does without that may name nothing that is known here."""
    # spec: client-server-api#client-registration (response_types)
    if "authorization_code" in grants:
        return _some(said, "response_types", ("code",), ["code"])
    wanted = _strings(said, "response_types", "invalid_client_metadata")
    return ["code"] if wanted is None or "code" in wanted else []


def _name(name: Any) -> str:
    if (
        not isinstance(name, str)
        or not name.strip()
        or len(name) > NAME_LENGTH_MOST
        or not name.isprintable()
    ):
        raise OAuthError("invalid_client_metadata", "client_name must be a short text")
    return name


def _strings(said: Mapping[str, Any], field: str, error: str) -> list[str] | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise OAuthError(error, f"{field} must be a list of strings")
    return value


def _some(said: Mapping[str, Any], field: str, known: tuple[str, ...], default: list[str]) -> list[str]:
    """Those values that mean something here."""
    value = _strings(said, field, "invalid_client_metadata")
    found = default if value is None else [one for one in known if one in value]
    if not found:
        raise OAuthError("invalid_client_metadata", f"{field} holds nothing that is supported here")
    return found


def _redirects(said: Mapping[str, Any], client: SplitResult, *, is_native: bool) -> list[str]:
    uris = _strings(said, "redirect_uris", "invalid_redirect_uri") or []
    if len(uris) > REDIRECTS_MOST:
        raise OAuthError("invalid_redirect_uri", f"At most {REDIRECTS_MOST} redirect URIs")
    return [check_redirect(one, client, is_native=is_native) for one in uris]


def _client(client_id: str, metadata: dict[str, Any]) -> Client:
    return Client(
        client_id,
        metadata["client_uri"],
        metadata.get("client_name") or metadata["client_uri"].split("/")[2],
        tuple(metadata["redirect_uris"]),
        tuple(metadata["grant_types"]),
        metadata.get("tos_uri"),
        metadata.get("policy_uri"),
    )
