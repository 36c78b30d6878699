"""Identity servers, as users name them: binding addresses there, looking addresses up, leaving invites.

Whoever asks names the server, so it is called behind the address filter, within limits, and believed in nothing but what
it is asked for.
spec: identity-service-api
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeGuard
from urllib.parse import urlencode

import msgspec

from federation.canonical import encode
from federation.errors import Malformed
from federation.ids import ServerName, UserId, parse_server_name, parse_user_id
from federation.signing import Signer
from federation.xmatrix import build
from homeserver.accounts.types import IdentityServerAwayError
from homeserver.http.client import HttpClient, HttpLimits, HttpResponse
from homeserver.http.errors import MatrixError, invalid_param, missing_param, passed_on
from homeserver.http.transport import Unreachable
from homeserver.store.threepids import EMAIL, Binding

_PREFIX: Final = "/_matrix/identity/v2"
_LIMITS: Final = HttpLimits(timeout_s=20.0, max_bytes=64 * 1024, schemes=("https",))
_MAX_KEYS: Final = 20
_MAX_TEXT: Final = 512
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Account:
    """An identity server, and the token with which a user is known there."""

    server: ServerName
    token: str


def parse_id_server(id_server: str) -> ServerName:
    """Refuses (400) what is no server."""
    try:
        return parse_server_name(id_server.removeprefix("https://").rstrip("/"))
    except Malformed:
        raise invalid_param("id_server is not the name of a server") from None


def parse_account(id_server: str, token: str) -> Account:
    """Refuses (400) what is no server, or no token."""
    server = parse_id_server(id_server)
    if not token or not token.isascii() or not token.isprintable() or len(token) > 4096:
        raise invalid_param("id_access_token is not a token")
    return Account(server, token)


@dataclass(frozen=True, slots=True)
class Invited:
    """An address that somebody invites, and where its owner is to be looked up."""

    account: Account
    medium: str
    address: str


def parse_invited(medium: str, address: str, id_server: str | None, token: str | None) -> Invited:
    """Refuses (400) what is no address or no identity server."""
    if id_server is None or token is None:
        raise missing_param("id_server and id_access_token are needed")
    if medium not in ("email", "msisdn") or not _is_text(address):
        raise invalid_param("Only email addresses and phone numbers can be invited")
    return Invited(parse_account(id_server, token), medium, canonical(medium, address))


def canonical(medium: str, address: str) -> str:
    """An address as it is stored, and looked up: capitals make no other mail address."""
    return address.strip().lower() if medium == EMAIL else address


class IdentityServers:
    """Asks them. `http` None: this server calls nobody."""

    def __init__(self, http: HttpClient | None, signer: Signer) -> None:
        self._http = http
        self._signer = signer

    async def bind(self, account: Account, sid: str, client_secret: str, user_id: str) -> Binding:
        """Have a validated address bound to a user; which one it was. What the server refuses, it refuses itself."""
        body = {"sid": sid, "client_secret": client_secret, "mxid": user_id}
        answer = await self._ask(account, "POST", "/3pid/bind", body)
        medium, address = answer.get("medium"), answer.get("address")
        # Both are kept in a key, whose length is bounded.
        if not (_is_text(medium) and _is_text(address) and len((medium + address).encode()) <= _MAX_TEXT):
            raise _no_sense(account.server)
        return Binding(medium, address, account.server)

    async def unbind(self, binding: Binding, user_id: str) -> bool:
        """Take a binding back, in the server's own name; whether it is gone."""
        server = ServerName(binding.id_server)
        uri = f"{_PREFIX}/3pid/unbind"
        body = encode({"mxid": user_id, "threepid": {"medium": binding.medium, "address": binding.address}})
        header = build(self._signer, method="POST", uri=uri, destination=server, canonical_body=body)
        try:
            response = await self._send(server, "POST", "/3pid/unbind", body, header)
        except MatrixError:
            return False
        # A server that does not know of it has nothing left to forget.
        return response.status in (200, 404)

    async def look_up(self, account: Account, medium: str, address: str) -> UserId | None:
        """Whose address it is, as far as the identity server knows."""
        # spec: identity-service-api#association-lookup
        details = await self._ask(account, "GET", "/hash_details", None)
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or len(pepper) > _MAX_TEXT or not isinstance(algorithms, list):
            raise _no_sense(account.server)
        if "sha256" in algorithms:
            algorithm, asked = "sha256", _hash(f"{address} {medium} {pepper}")
        elif "none" in algorithms:
            algorithm, asked = "none", f"{address} {medium}"
        else:
            raise MatrixError(400, "M_INVALID_PARAM", "The identity server speaks no known algorithm")
        body = {"addresses": [asked], "algorithm": algorithm, "pepper": pepper}
        mappings = (await self._ask(account, "POST", "/lookup", body)).get("mappings")
        found = mappings.get(asked) if isinstance(mappings, dict) else None
        if not isinstance(found, str):
            return None
        try:
            return parse_user_id(found)
        except Malformed:
            raise _no_sense(account.server) from None

    async def store_invite(self, account: Account, invite: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Leave an invite for an address that nobody has: its token, and the content of the room's event."""
        # spec: identity-service-api#invitation-storage
        answer = await self._ask(account, "POST", "/store-invite", invite)
        token, name, keys = answer.get("token"), answer.get("display_name"), answer.get("public_keys")
        if not _is_text(token) or not isinstance(keys, list) or not keys:
            raise _no_sense(account.server)
        public_keys = [_key(account.server, key) for key in keys[:_MAX_KEYS]]
        content = {
            "display_name": name if _is_text(name) else "",
            "public_keys": public_keys,
            **public_keys[0],
        }
        return token, content

    async def is_valid(self, url: str, public_key: str) -> bool:
        """Whether an address says that a key is still good."""
        # spec: client-server-api#third-party-invites
        if self._http is None or "#" in url:
            return False
        asked = f"{url}{'&' if '?' in url else '?'}{urlencode({'public_key': public_key})}"
        try:
            response = await self._http.request("GET", asked, limits=_LIMITS)
        except Unreachable:
            return False
        answer = _decode(response.body)
        return response.status == 200 and answer is not None and answer.get("valid") is True

    @property
    def possible(self) -> bool:
        """Whether any can be asked."""
        return self._http is not None

    async def _ask(
        self, account: Account, method: str, path: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        data = None if body is None else _encode(body)
        response = await self._send(account.server, method, path, data, f"Bearer {account.token}")
        answer = _decode(response.body)
        if response.status == 200 and answer is not None:
            return answer
        raise _refused(account.server, response.status, answer)

    async def _send(
        self, server: ServerName, method: str, path: str, body: bytes | None, authorization: str
    ) -> HttpResponse:
        if self._http is None:
            raise MatrixError(400, "M_SERVER_NOT_TRUSTED", "This server asks no identity server")
        headers = {"Authorization": authorization}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"https://{server}{_PREFIX}{path}"
        try:
            return await self._http.request(method, url, body=body, headers=headers, limits=_LIMITS)
        except Unreachable:
            raise IdentityServerAwayError(
                502, "M_UNKNOWN", f"The identity server {server} cannot be reached"
            ) from None


def _hash(text: str) -> str:
    return urlsafe_b64encode(sha256(text.encode("utf-8", "replace")).digest()).rstrip(b"=").decode("ascii")


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()


def _decode(body: bytes) -> dict[str, Any] | None:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _key(server: ServerName, key: Any) -> dict[str, str]:
    public_key = key.get("public_key") if isinstance(key, dict) else None
    url = key.get("key_validity_url") if isinstance(key, dict) else None
    if not _is_text(public_key) or not _is_text(url):
        raise _no_sense(server)
    return {"public_key": public_key, "key_validity_url": url}


def _no_sense(server: ServerName) -> MatrixError:
    return MatrixError(502, "M_UNKNOWN", f"The identity server {server} gave no answer that makes sense")


def _refused(server: ServerName, status: int, answer: Mapping[str, Any] | None) -> MatrixError:
    """What an identity server refuses is told as it says it; that it wants another token is no matter of ours."""
    errcode = None if answer is None else answer.get("errcode")
    if not 400 <= status < 500 or not _is_text(errcode):
        return _no_sense(server)
    error = answer.get("error") if answer is not None else None
    shown = error if _is_text(error) else "The identity server refused it"
    # A 401, and some codes too, would tell a client that its token for *this* server is over.
    return MatrixError(403 if status == 401 else status, passed_on(str(errcode)), str(shown))
