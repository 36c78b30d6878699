"""Profiles. spec: client-server-api#profiles"""

from __future__ import annotations

from typing import Any

from homeserver.accounts.profiles import Profiles
from homeserver.http.errors import MatrixError
from homeserver.http.request import Request
from homeserver.http.response import EMPTY_JSON
from homeserver.http.route import Auth, Route
from homeserver.http.router import default_rate_key
from homeserver.store.remote_profiles import SHOWN

# The whole profile is under 64 KiB, in whatever way its JSON was written.
MAX_BODY = 2 * 65_536


class ProfileApi:
    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def routes(self) -> list[Route]:
        # COMPAT(clients of before v1.16, 2026): MSC4133's own path, which they ask because of its name in `/versions`.
        return [
            route
            for version in ("v3", "unstable/uk.tcpip.msc4133")
            for route in self._routes_of(f"/_matrix/client/{version}/profile/{{user_id:user_id}}")
        ]

    def _routes_of(self, whole: str) -> list[Route]:
        field = f"{whole}/{{key}}"
        return [
            Route(
                method="GET",
                template=whole,
                handler=self.get,
                auth=Auth.NONE,
                limit="read",
                spec="client-server-api#get_matrixclientv3profileuserid",
            ),
            Route(
                method="GET",
                template=field,
                handler=self.get_field,
                # Anybody may ask; but see below.
                auth=Auth.OPTIONAL,
                limit="read",
                spec="client-server-api#get_matrixclientv3profileuseridkeyname",
            ),
            Route(
                method="PUT",
                template=field,
                handler=self.put_field,
                auth=Auth.GUEST_OK,
                limit="write",
                max_body=MAX_BODY,
                spec="client-server-api#put_matrixclientv3profileuseridkeyname",
            ),
            Route(
                method="DELETE",
                template=field,
                handler=self.delete_field,
                auth=Auth.GUEST_OK,
                limit="write",
                spec="client-server-api#delete_matrixclientv3profileuseridkeyname",
            ),
        ]

    async def get(self, request: Request, user_id: str) -> dict[str, Any]:
        return await self._profiles.load(user_id, asker=default_rate_key(request))

    async def get_field(self, request: Request, user_id: str, key: str) -> dict[str, Any]:
        # COMPAT(bridges on mautrix-go, 2026): every server answered so before there were other fields, and what cannot look
        # at a ghost's picture does not give it its first one.
        is_bridge = request.requester is not None and request.requester.appservice_id is not None
        may_lack = SHOWN if is_bridge else frozenset()
        return await self._profiles.load(user_id, key, may_lack=may_lack, asker=default_rate_key(request))

    async def put_field(self, request: Request, user_id: str, key: str) -> bytes:
        _check_guest(request, key)
        await self._profiles.put(request.requester, user_id, key, request.json())
        return EMPTY_JSON

    async def delete_field(self, request: Request, user_id: str, key: str) -> bytes:
        _check_guest(request, key)
        await self._profiles.drop(request.requester, user_id, key)
        return EMPTY_JSON


def _check_guest(request: Request, key: str) -> None:
    # spec: client-server-api#guest-access (guests may only modify their display name)
    if request.requester.is_guest and key != "displayname":
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests have a display name and no more")
