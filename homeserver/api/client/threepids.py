"""Addresses of accounts. spec: client-server-api#adding-account-administrative-contact-information"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from homeserver.accounts.identity_servers import parse_account, parse_id_server
from homeserver.accounts.login import PASSWORD, Identity
from homeserver.accounts.text import check_text
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth
from homeserver.accounts.validations import Validations
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.store.validations import Purpose

_V3 = "/_matrix/client/v3"
_MAX_BODY = 65_536
MAX_ATTEMPT = 2**53 - 1
MAX_ADDRESS_TEXT = 1000


class TokenBody(msgspec.Struct):
    """A request for a letter. What it says of an identity server is not read: this server verifies addresses itself."""

    client_secret: str
    email: str
    send_attempt: int
    next_link: str | None = None


class AddBody(msgspec.Struct):
    client_secret: str
    sid: str


class _Credentials(msgspec.Struct):
    client_secret: str
    sid: str


class OldAddBody(msgspec.Struct):
    three_pid_creds: _Credentials


class BindBody(msgspec.Struct):
    client_secret: str
    sid: str
    id_server: str
    id_access_token: str


class RemoveBody(msgspec.Struct):
    medium: Literal["email", "msisdn"]
    address: str
    id_server: str | None = None


class ThreepidsApi:
    def __init__(
        self, validations: Validations, threepids: Threepids, identity: Identity, interactive: InteractiveAuth
    ) -> None:
        self._validations = validations
        self._threepids = threepids
        self._identity = identity
        self._interactive = interactive

    def routes(self) -> list[Route]:
        tokens = [
            *_token_routes("register", self.register_token, self.no_phone),
            *_token_routes("account/3pid", self.add_token, self.no_phone),
            *_token_routes("account/password", self.password_token, self.no_phone),
        ]
        return [
            *tokens,
            _route("GET", "", self.get, "get_matrixclientv3account3pid"),
            _route("POST", "", self.old_add, "post_matrixclientv3account3pid", suspended_may=True),
            _route("POST", "/add", self.add, "post_matrixclientv3account3pidadd", suspended_may=True),
            _route("POST", "/bind", self.bind, "post_matrixclientv3account3pidbind"),
            _route("POST", "/delete", self.delete, "post_matrixclientv3account3piddelete"),
            _route("POST", "/unbind", self.unbind, "post_matrixclientv3account3pidunbind"),
        ]

    async def register_token(self, request: Request) -> dict[str, str]:
        return await self._begin(request, Purpose.REGISTER)

    async def add_token(self, request: Request) -> dict[str, str]:
        return await self._begin(request, Purpose.ADD)

    async def password_token(self, request: Request) -> dict[str, str]:
        return await self._begin(request, Purpose.PASSWORD)

    async def _begin(self, request: Request, purpose: Purpose) -> dict[str, str]:
        body = request.json(TokenBody)
        # Numbers beyond what a column holds come only from those who want to see what happens.
        attempt = max(-MAX_ATTEMPT, min(body.send_attempt, MAX_ATTEMPT))
        sid = await self._validations.begin(
            purpose, body.email, body.client_secret, attempt, body.next_link or None
        )
        return {"sid": sid}

    async def no_phone(self, request: Request) -> bytes:
        """Phone numbers have no use here: no message can be sent to them."""
        request.json()
        raise MatrixError(
            400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "Phone numbers cannot be used on this server"
        )

    async def get(self, request: Request) -> dict[str, Any]:
        return {"threepids": await self._threepids.load(request.requester.user_nid)}

    async def old_add(self, request: Request) -> bytes:
        """The deprecated form: what an identity server has verified is refused, as it proves nothing here.

        The password is asked for as in the new form, since an address sets passwords, whichever way it came.
        """
        creds = request.json(OldAddBody).three_pid_creds
        return await self._add(request, creds.sid, creds.client_secret)

    async def add(self, request: Request) -> bytes:
        body = request.json(AddBody)
        return await self._add(request, body.sid, body.client_secret)

    async def _add(self, request: Request, sid: str, client_secret: str) -> bytes:
        requester: Requester = request.requester
        offer = self._identity.password_offer(requester)
        results = await self._interactive.confirm(request, request.json(), offer, user_nid=requester.user_nid)
        await self._threepids.add(results[PASSWORD], sid, client_secret)
        return EMPTY_JSON

    async def bind(self, request: Request) -> bytes:
        requester: Requester = request.requester
        body = request.json(BindBody)
        account = parse_account(body.id_server, body.id_access_token)
        await self._threepids.bind(requester, account, body.sid, body.client_secret)
        return EMPTY_JSON

    async def delete(self, request: Request) -> dict[str, str]:
        return {"id_server_unbind_result": await self._threepids.delete(*_removal(request))}

    async def unbind(self, request: Request) -> dict[str, str]:
        return {"id_server_unbind_result": await self._threepids.unbind(*_removal(request))}


def _removal(request: Request) -> tuple[int, str, str, str, str | None]:
    requester: Requester = request.requester
    body = request.json(RemoveBody)
    address = check_text(body.address, "address", MAX_ADDRESS_TEXT)
    server = None if body.id_server is None else parse_id_server(body.id_server)
    return requester.user_nid, requester.user_id, body.medium, address, server


def _route(method: str, path: str, handler: Any, anchor: str, *, suspended_may: bool = False) -> Route:
    # Who is suspended may add an address, and take none away.
    return Route(
        method=method,
        template=f"{_V3}/account/3pid{path}",
        handler=handler,
        auth=Auth.USER,
        limit="read" if method == "GET" else "write",
        max_body=_MAX_BODY,
        spec=f"client-server-api#{anchor}",
        suspended_may=suspended_may,
    )


def _token_routes(prefix: str, by_mail: Any, by_phone: Any) -> list[Route]:
    return [
        Route(
            method="POST",
            template=f"{_V3}/{prefix}/{medium}/requestToken",
            handler=handler,
            auth=Auth.NONE,
            limit="register",
            max_body=_MAX_BODY,
            spec=f"client-server-api#post_matrixclientv3{prefix.replace('/', '')}{medium}requesttoken",
        )
        for medium, handler in (("email", by_mail), ("msisdn", by_phone))
    ]
