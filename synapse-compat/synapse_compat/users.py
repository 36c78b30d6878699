"""Accounts: listed, looked at, made, changed."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from federation.ids import UserId, domain_of
from homeserver.accounts.administration import AccountDesk, AccountWishes, Shown
from homeserver.http.errors import forbidden, invalid_param
from homeserver.http.request import Request
from homeserver.http.response import Response, json_response
from homeserver.http.route import Route
from homeserver.store.user_listing import ORDERS, ListedUser, UsersWanted
from synapse_compat.gate import (
    admin_route,
    find_local,
    is_backwards,
    next_token,
    optional_flag,
    page_bounds,
)

_USER = "/v2/users/{user_id:member_id}"


class ThreepidItem(msgspec.Struct):
    medium: str
    address: str


class UserBody(msgspec.Struct):
    """What is to be so; what is not there stays as it is."""

    password: str | None = None
    logout_devices: bool = True
    displayname: str | None = None
    avatar_url: str | None = None
    threepids: list[ThreepidItem] | None = None
    external_ids: list[Any] | None = None
    admin: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None
    user_type: str | UnsetType | None = UNSET


class UsersApi:
    """See the module."""

    def __init__(self, desk: AccountDesk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        return [
            admin_route("GET", "/v2/users", self.list_v2, "users"),
            admin_route("GET", "/v3/users", self.list_v3, "users"),
            admin_route("GET", _USER, self.get, "users"),
            admin_route("PUT", _USER, self.put, "users"),
        ]

    async def list_v2(self, request: Request) -> dict[str, Any]:
        """A page of the accounts; those that have ended only where they are asked for."""
        with_ended = request.bool_arg("deactivated", False)
        return await self._list(request, None if with_ended else False)

    async def list_v3(self, request: Request) -> dict[str, Any]:
        """A page of the accounts: all, those that have ended, or the others."""
        return await self._list(request, optional_flag(request, "deactivated"))

    async def _list(self, request: Request, deactivated: bool | None) -> dict[str, Any]:
        order_by = request.arg("order_by", "name")
        if order_by not in ORDERS:
            raise invalid_param("Query parameter order_by is none of those that there are")
        wanted = UsersWanted(
            user_id=request.arg("user_id", ""),
            name=request.arg("name", ""),
            guest=None if request.bool_arg("guests", True) else False,
            admin=optional_flag(request, "admins"),
            deactivated=deactivated,
            locked=None if request.bool_arg("locked", False) else False,
            not_types=tuple(request.query.get("not_user_type", ())),
            order_by=order_by,
            backwards=is_backwards(request, default=False),
        )
        skip, most = page_bounds(request)
        found, total = await self._desk.page(wanted, skip, most)
        following = next_token(skip, len(found), total)
        return {
            "users": [{**_shown(user), "last_seen_ts": user.last_seen_ts_ms} for user in found],
            "total": total,
            # Of this list the documentation has it as a text.
            **{name: str(value) for name, value in following.items()},
        }

    async def get(self, _: Request, user_id: UserId) -> dict[str, Any]:
        """One account."""
        return _details(await self._desk.show(await find_local(self._desk.accounts, user_id)))

    async def put(self, request: Request, user_id: UserId) -> Response:
        """Make an account (201), or change one (200)."""
        accounts = self._desk.accounts
        body = request.json(UserBody)
        wishes = _wishes(body)
        if domain_of(user_id) != accounts.server_name:
            raise invalid_param("The user is not of this server")
        account = await accounts.find(user_id)
        if account is None:
            await self._desk.make(user_id, wishes)
        else:
            _check_own(request, user_id, wishes)
            if account.deactivated and body.deactivated is False:
                raise invalid_param("An account that was deactivated has ended for good")
            await self._desk.change(account, wishes)
        shown = await self._desk.show(await find_local(accounts, user_id))
        return json_response(_details(shown), 201 if account is None else 200)


def _check_own(request: Request, user_id: str, wishes: AccountWishes) -> None:
    """Nobody puts themselves out by mistake."""
    if user_id == request.requester.user_id and (wishes.admin is False or wishes.deactivate or wishes.locked):
        raise forbidden("You cannot do this to your own account")


def _wishes(body: UserBody) -> AccountWishes:
    if body.external_ids:
        raise invalid_param("This server has no other identity providers")
    threepids = body.threepids
    profile = {"displayname": body.displayname, "avatar_url": body.avatar_url}
    return AccountWishes(
        password=body.password,
        log_out=body.logout_devices,
        admin=body.admin,
        locked=body.locked,
        deactivate=bool(body.deactivated),
        user_type=body.user_type,
        threepids=None if threepids is None else [(one.medium, one.address) for one in threepids],
        profile={name: value for name, value in profile.items() if value is not None},
    )


def _shown(user: ListedUser) -> dict[str, Any]:
    return {
        "name": user.user_id,
        "is_guest": bool(user.guest),
        "admin": bool(user.admin),
        "user_type": user.user_type,
        "deactivated": bool(user.deactivated),
        "erased": bool(user.erased),
        "shadow_banned": False,
        "displayname": user.display_name,
        "avatar_url": user.avatar_url,
        "creation_ts": user.created_ts_ms,
        "locked": bool(user.locked),
        "suspended": bool(user.suspended),
    }


def _details(shown: Shown) -> dict[str, Any]:
    user = shown.user
    threepids = [
        {
            "medium": one.medium,
            "address": one.address,
            "validated_at": one.validated_ts_ms,
            "added_at": one.added_ts_ms,
        }
        for one in shown.threepids
    ]
    return {
        **_shown(user),
        # COMPAT(Draupnir 3.1): it wants a number here, also of somebody who was never seen.
        "last_seen_ts": user.last_seen_ts_ms or 0,
        "threepids": threepids,
        "external_ids": [],
        "appservice_id": user.appservice_id,
        "consent_server_notice_sent": None,
        "consent_version": None,
        "consent_ts": None,
    }
