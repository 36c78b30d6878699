"""Accounts that are locked or suspended: what they may still do, and who may say so.

Contract:
1. A locked account can do nothing but log out; its tokens stay, for the day on which it is unlocked.
2. A suspended account reads, keeps its keys and devices in order, leaves rooms and redacts what it wrote. Every other
   change is refused: an endpoint is refused until its route says otherwise (``Route.suspended_may``). What takes its time
   is looked at once more in the end (``types.check_still``).
3. Whether somebody may ask at all is decided before any account is looked up: the answers tell strangers nothing.
spec: client-server-api#account-moderation
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from federation.ids import UserId, domain_of
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import forbidden, invalid_param, not_found, user_locked, user_suspended
from homeserver.http.route import Route
from homeserver.store import users
from homeserver.store.devices import Device, Seen, load_devices
from homeserver.store.users import Account
from homeserver.store.work import Worker


def check_standing(requester: Requester, route: Route) -> None:
    """Refuse what a locked or suspended account may not do."""
    if requester.is_locked and not route.locked_may:
        raise user_locked()
    if requester.is_suspended and not route.suspended_may and route.method != "GET":
        raise user_suspended()


class Moderation:
    """What administrators see of accounts, and do to them."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        last_seen: Callable[[int], Seen | None],
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._worker = worker
        self._last_seen = last_seen  # a device's last use, where it waits to be written down

    async def find(self, requester: Requester, user_id: UserId) -> Account:
        """The account that an administrator asks about."""
        if not requester.is_admin:
            raise forbidden("You are not a server administrator")
        if domain_of(user_id) != self._server_name:
            raise invalid_param("The user is not of this server")
        account = (await self._database.read(users.load_accounts, [user_id])).get(user_id)
        if account is None or account.deactivated:
            raise not_found("There is no such account")
        if account.admin and account.user_nid != requester.user_nid:
            raise forbidden("The user is an administrator too")
        return account

    async def set_standing(
        self,
        requester: Requester,
        user_id: UserId,
        *,
        suspended: bool | None = None,
        locked: bool | None = None,
    ) -> None:
        """Suspend or lock an account, or no longer; None leaves it as it is."""
        account = await self.find(requester, user_id)
        if account.user_nid == requester.user_nid:
            raise forbidden("You cannot do this to your own account")
        done = await self._worker.work(
            users.set_standing, account.user_nid, suspended=suspended, locked=locked
        )
        if not done:
            raise not_found("There is no such account")

    async def whois(self, requester: Requester, user_id: UserId) -> dict[str, Any]:
        """From where a user's devices were last used: for the user, and for administrators."""
        # spec: client-server-api#get_matrixclientv3adminwhoisuserid
        if user_id != requester.user_id and not requester.is_admin:
            raise forbidden("Only administrators may ask about others")
        if domain_of(user_id) != self._server_name:
            raise invalid_param("The user is not of this server")
        account = (await self._database.read(users.load_accounts, [user_id])).get(user_id)
        if account is None:
            raise not_found("There is no such account")
        found = await self._database.read(load_devices, account.user_nid)
        used = [device.used(self._last_seen(device.nid)) for device in found]
        devices = {one.device_id: {"sessions": [{"connections": _connections(one)}]} for one in used}
        return {"user_id": user_id, "devices": devices}


def _connections(use: Device) -> list[dict[str, Any]]:
    """The last connection of a device, as far as it is known: none where it was never used."""
    if use.last_seen_ts_ms is None:
        return []
    found = {"ip": use.last_seen_ip, "last_seen": use.last_seen_ts_ms, "user_agent": use.user_agent}
    return [{name: value for name, value in found.items() if value is not None}]
