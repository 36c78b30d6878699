"""What a user may do here. spec: client-server-api#capabilities-negotiation"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from federation.versions import ROOM_VERSIONS
from homeserver.http.request import Request
from homeserver.http.route import Auth, Route


class CapabilitiesApi:
    """`default_room_version` is asked each time, as the configuration may be reloaded."""

    def __init__(
        self,
        default_room_version: Callable[[], str],
        extra: Mapping[str, Any] = MappingProxyType({}),
        *,
        threepids: bool = False,
    ) -> None:
        self._threepids = threepids
        self._default_room_version = default_room_version
        self._extra = dict(extra)
        self._available = {
            version: "stable" if rules.stable else "unstable" for version, rules in ROOM_VERSIONS.items()
        }

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                template="/_matrix/client/v3/capabilities",
                handler=self.capabilities,
                auth=Auth.USER,
                limit="read",
                spec="client-server-api#get_matrixclientv3capabilities",
            )
        ]

    async def capabilities(self, request: Request) -> dict[str, Any]:
        moderation = (
            {"m.account_moderation": {"suspend": True, "lock": True}} if request.requester.is_admin else {}
        )
        versions = {"default": self._default_room_version(), "available": self._available}
        return {
            "capabilities": {
                "m.room_versions": versions,
                "m.change_password": {"enabled": True},
                "m.profile_fields": {"enabled": True},
                "m.set_displayname": {"enabled": True},
                "m.set_avatar_url": {"enabled": True},
                "m.3pid_changes": {"enabled": self._threepids},
                "m.get_login_token": {"enabled": True},
                "m.forget_forced_upon_leave": {"enabled": False},
                **moderation,
                **self._extra,
            }
        }
