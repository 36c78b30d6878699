"""The requester's own account. spec: client-server-api#legacy-account-management"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from homeserver.accounts.login import Identity
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth
from homeserver.accounts.users import Accounts
from homeserver.config.schema import Passwords
from homeserver.http.errors import missing_param
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route


class PasswordBody(msgspec.Struct):
    new_password: str | None = None
    logout_devices: bool | None = None


class DeactivateBody(msgspec.Struct):
    erase: bool | None = None


# spec-partial: POST /_matrix/client/v3/account/deactivate: erase leaves events as they are for who joins later
class AccountApi:
    """`policy` is asked each time, as the configuration may be reloaded."""

    def __init__(
        self,
        accounts: Accounts,
        identity: Identity,
        interactive: InteractiveAuth,
        policy: Callable[[], Passwords],
    ) -> None:
        self._accounts = accounts
        self._identity = identity
        self._interactive = interactive
        self._policy = policy

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/account/whoami",
                handler=self.whoami,
                auth=Auth.GUEST_OK,
                limit="read",
                spec="client-server-api#get_matrixclientv3accountwhoami",
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/account/password",
                handler=self.password,
                auth=Auth.USER,
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3accountpassword",
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/account/deactivate",
                handler=self.deactivate,
                auth=Auth.USER,
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3accountdeactivate",
            ),
            Route(
                method="GET",
                template="/_matrix/client/v3/account/3pid",
                handler=self.threepids,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3account3pid",
            ),
        ]

    async def whoami(self, request: Request) -> dict[str, Any]:
        requester: Requester = request.requester
        answer: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            answer["device_id"] = requester.device_id
        return answer

    async def password(self, request: Request) -> bytes:
        """Change the password; by default every other login ends."""
        requester: Requester = request.requester
        body = request.json(PasswordBody)
        if body.new_password is not None:
            check_new_password(body.new_password, self._policy())
        await self._confirm(request)
        if body.new_password is None:
            raise missing_param("new_password is missing")
        await self._accounts.set_password(
            requester.user_id,
            body.new_password,
            log_out=body.logout_devices is not False,
            keep_device_nid=requester.device_nid,
        )
        return EMPTY_JSON

    async def deactivate(self, request: Request) -> dict[str, str]:
        """End the account for good."""
        # spec: client-server-api#account-deactivation
        requester: Requester = request.requester
        body = request.json(DeactivateBody, allow_empty=True)
        await self._confirm(request)
        await self._accounts.deactivate(requester.user_id, erase=bool(body.erase))
        # There are no addresses bound to accounts, so none is left bound.
        return {"id_server_unbind_result": "success"}

    async def threepids(self, _: Request) -> dict[str, list[Any]]:
        # Addresses cannot be bound here, as the capability m.3pid_changes says.
        return {"threepids": []}

    async def _confirm(self, request: Request) -> None:
        requester: Requester = request.requester
        offer = self._identity.password_offer(requester)
        whole = request.json(allow_empty=True)
        await self._interactive.confirm(request, whole, offer, user_nid=requester.user_nid)
