"""What is done to one account: ended, suspended, given a password or a rate, used in its user's name; and its rooms."""

from __future__ import annotations

from typing import Any

import msgspec

from federation.ids import UserId, domain_of
from homeserver.accounts.administration import AccountDesk
from homeserver.appservices.registry import Registry
from homeserver.http.errors import MatrixError, bad_json, forbidden, invalid_param
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.moderation.evidence import Evidence
from homeserver.runtime.log import Log
from homeserver.store.placement import Membership
from homeserver.store.users import Rate
from synapse_compat.gate import admin_route, find_local

_V1 = "/v1/users/{user_id:member_id}"
_RATE = _V1 + "/override_ratelimit"
_MOST = 2**53 - 1


class DeactivateBody(msgspec.Struct):
    erase: bool = False


class SuspendBody(msgspec.Struct):
    suspend: bool


class PasswordBody(msgspec.Struct):
    new_password: str
    logout_devices: bool = True


class RateBody(msgspec.Struct):
    messages_per_second: int = 0
    burst_count: int = 0


class LoginBody(msgspec.Struct):
    valid_until_ms: int | None = None


class UserActionsApi:
    """See the module."""

    def __init__(self, desk: AccountDesk, evidence: Evidence, registry: Registry, log: Log) -> None:
        self._desk = desk
        self._accounts = desk.accounts
        self._evidence = evidence
        self._registry = registry
        self._log = log

    def routes(self) -> list[Route]:
        return [
            admin_route("POST", "/v1/deactivate/{user_id:member_id}", self.deactivate, "users"),
            admin_route("PUT", "/v1/suspend/{user_id:member_id}", self.suspend, "users"),
            admin_route("POST", "/v1/reset_password/{user_id:member_id}", self.reset_password, "users"),
            admin_route("GET", _V1 + "/joined_rooms", self.joined_rooms, "users"),
            admin_route("GET", _V1 + "/memberships", self.memberships, "users"),
            admin_route("GET", _RATE, self.get_rate, "users"),
            admin_route("POST", _RATE, self.set_rate, "users"),
            admin_route("DELETE", _RATE, self.drop_rate, "users"),
            admin_route("POST", _V1 + "/login", self.log_in, "users"),
            admin_route("GET", "/v1/username_available", self.is_available, "users"),
        ]

    async def deactivate(self, request: Request, user_id: UserId) -> dict[str, str]:
        """End an account for good."""
        body = request.json(DeactivateBody, allow_empty=True)
        account = await find_local(self._accounts, user_id)
        _check_other(request, user_id)
        result = await self._desk.deactivate(account, erase=body.erase)
        return {"id_server_unbind_result": result}

    async def suspend(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """Suspend an account, or no longer."""
        suspended = request.json(SuspendBody).suspend
        account = await find_local(self._accounts, user_id)
        _check_other(request, user_id)
        await self._desk.set_standing(account, suspended=suspended)
        return {f"user_{user_id}_suspended": suspended}

    async def reset_password(self, request: Request, user_id: UserId) -> dict[str, Any]:
        """Give somebody another password; every login ends with the old one, unless the body says no."""
        body = request.json(PasswordBody)
        await find_local(self._accounts, user_id)
        await self._accounts.set_password(user_id, body.new_password, log_out=body.logout_devices)
        return {}

    async def joined_rooms(self, _: Request, user_id: UserId) -> dict[str, Any]:
        """The rooms that somebody is in; of users of other servers, as far as it is known here."""
        found = await self._memberships(user_id)
        joined = [room_id for room_id, membership in found.items() if membership is Membership.JOIN]
        return {"joined_rooms": joined, "total": len(joined)}

    async def memberships(self, _: Request, user_id: UserId) -> dict[str, Any]:
        """What somebody is to which rooms."""
        found = await self._memberships(user_id)
        return {"memberships": {room_id: one.word for room_id, one in found.items()}}

    async def _memberships(self, user_id: UserId) -> dict[str, Membership]:
        if domain_of(user_id) == self._accounts.server_name:
            await find_local(self._accounts, user_id)
        return await self._evidence.memberships(user_id) or {}

    async def get_rate(self, _: Request, user_id: UserId) -> dict[str, int]:
        """What a user may do instead of what the configuration says; empty: nothing of the kind."""
        rate = await self._desk.rate(await find_local(self._accounts, user_id))
        return {} if rate is None else _rate(rate)

    async def set_rate(self, request: Request, user_id: UserId) -> dict[str, int]:
        """Let a user do so much; 0 a second: as much as they like."""
        body = request.json(RateBody, allow_empty=True)
        rate = Rate(body.messages_per_second, body.burst_count)
        if not all(0 <= number <= _MOST for number in rate):
            raise bad_json("A rate is no less than 0")
        await self._desk.set_rate(await find_local(self._accounts, user_id), rate)
        return _rate(rate)

    async def drop_rate(self, _: Request, user_id: UserId) -> dict[str, Any]:
        """What the configuration says counts again."""
        await self._desk.set_rate(await find_local(self._accounts, user_id), None)
        return {}

    async def log_in(self, request: Request, user_id: UserId) -> dict[str, str]:
        """A token with which the administrator acts as the user."""
        body = request.json(LoginBody, allow_empty=True)
        if body.valid_until_ms is not None and body.valid_until_ms > _MOST:
            raise invalid_param("valid_until_ms is too far away")
        account = await find_local(self._accounts, user_id)
        _check_other(request, user_id)
        token = await self._desk.log_in_as(account, body.valid_until_ms)
        self._log.info("administrator acts as a user", by=request.requester.user_id, user_id=user_id)
        return {"access_token": token}

    async def is_available(self, request: Request) -> dict[str, bool]:
        """Whether a name is free, whoever may register."""
        user_id = self._accounts.check_username(request.required_arg("username"))
        if self._registry.is_user_reserved(user_id, None):
            raise MatrixError(400, "M_EXCLUSIVE", f"{user_id} belongs to an application service")
        await self._accounts.check_free(user_id)
        return {"available": True}


def _check_other(request: Request, user_id: str) -> None:
    if user_id == request.requester.user_id:
        raise forbidden("You cannot do this to your own account")


def _rate(rate: Rate) -> dict[str, int]:
    return {"messages_per_second": rate.per_second, "burst_count": rate.burst}
