"""The requester's own account. spec: client-server-api#legacy-account-management"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from homeserver.accounts.identity_servers import parse_id_server
from homeserver.accounts.login import PASSWORD, Identity
from homeserver.accounts.lost_passwords import find_by_proof
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.threepids import Threepids
from homeserver.accounts.types import Requester
from homeserver.accounts.uia import InteractiveAuth, Offer
from homeserver.accounts.users import Accounts
from homeserver.accounts.validations import STAGE, Validations
from homeserver.config.schema import Passwords
from homeserver.http.errors import MatrixError, missing_param, missing_token
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.store.users import Account
from homeserver.store.validations import Purpose, Validation


class PasswordBody(msgspec.Struct):
    new_password: str | None = None
    logout_devices: bool | None = None


class DeactivateBody(msgspec.Struct):
    erase: bool | None = None
    id_server: str | None = None


class AccountApi:
    """`policy` is asked each time, as the configuration may be reloaded."""

    def __init__(
        self,
        accounts: Accounts,
        identity: Identity,
        interactive: InteractiveAuth,
        policy: Callable[[], Passwords],
        validations: Validations,
        threepids: Threepids,
    ) -> None:
        self._accounts = accounts
        self._identity = identity
        self._interactive = interactive
        self._policy = policy
        self._validations = validations
        self._threepids = threepids

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
                auth=Auth.OPTIONAL,
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3accountpassword",
                suspended_may=True,
            ),
            Route(
                method="POST",
                template="/_matrix/client/v3/account/deactivate",
                handler=self.deactivate,
                auth=Auth.USER,
                limit="write",
                max_body=65_536,
                spec="client-server-api#post_matrixclientv3accountdeactivate",
                suspended_may=True,
            ),
        ]

    async def whoami(self, request: Request) -> dict[str, Any]:
        requester: Requester = request.requester
        answer: dict[str, Any] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            answer["device_id"] = requester.device_id
        return answer

    async def password(self, request: Request) -> bytes:
        """Change the password; by default every other login ends. Who has forgotten it proves their address."""
        # spec: client-server-api#password-management
        requester: Requester | None = request.requester
        if requester is not None and requester.is_guest:
            raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests have no password")
        body = request.json(PasswordBody)
        if body.new_password is not None:
            check_new_password(body.new_password, self._policy())
        account, proof = await self._confirm_password(request, requester)
        if body.new_password is None:
            raise missing_param("new_password is missing")
        await self._accounts.set_password(
            account.user_id,
            body.new_password,
            log_out=body.logout_devices is not False,
            keep_device_nid=0 if requester is None else requester.device_nid,
            proof=proof,
            # A letter was not asked for by the old password, so it is good whatever became of that.
            proven=account if proof is None else None,
        )
        return EMPTY_JSON

    async def _confirm_password(
        self, request: Request, requester: Requester | None
    ) -> tuple[Account, Validation | None]:
        """Whose password is to be changed: the requester's, or that of the account whose address was proven.

        The requester's is as it was when they proved it.
        """
        if requester is None and not self._validations.possible:
            raise missing_token()
        offer = Offer([], {}) if requester is None else self._identity.password_offer(requester)
        if self._validations.possible:
            by_mail = self._validations.stage(Purpose.PASSWORD)
            offer = replace(offer, flows=[*offer.flows, [STAGE]], stages={**offer.stages, STAGE: by_mail})
        user_nid = 0 if requester is None else requester.user_nid
        whole = request.json(allow_empty=True)
        results = await self._interactive.confirm(request, whole, offer, user_nid=user_nid)
        proof: Validation | None = results.get(STAGE)
        if proof is None:
            return results[PASSWORD], None  # the other flow
        of_nid = None if requester is None else requester.user_nid
        return await find_by_proof(self._accounts, proof, of_nid), proof

    async def deactivate(self, request: Request) -> dict[str, str]:
        """End the account for good."""
        # spec: client-server-api#account-deactivation
        requester: Requester = request.requester
        body = request.json(DeactivateBody, allow_empty=True)
        server = None if body.id_server is None else parse_id_server(body.id_server)
        proven = await self._confirm(request)
        addresses = await self._accounts.deactivate(requester.user_id, erase=bool(body.erase), proven=proven)
        result = await self._threepids.forget_all(requester.user_nid, requester.user_id, addresses, server)
        return {"id_server_unbind_result": result}

    async def _confirm(self, request: Request) -> Account:
        """The account as it was when somebody proved that it is theirs."""
        requester: Requester = request.requester
        offer = self._identity.password_offer(requester)
        whole = request.json(allow_empty=True)
        results = await self._interactive.confirm(request, whole, offer, user_nid=requester.user_nid)
        proven: Account = results[PASSWORD]
        return proven
