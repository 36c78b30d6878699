"""Who may be invited at all, before the room's own rules are asked.

spec: client-server-api#invite-permission
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from federation.ids import UserId, domain_of
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, forbidden
from homeserver.moderation.types import INVITE_TYPES, Invite, parse_permission
from homeserver.store.account_data import load_types_of_users
from homeserver.store.ids import Interner


class InviteGate:
    """Asked before every invite of a local user: by /invite, /createRoom and a member event set as state."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        interner: Interner,
        allows: Callable[[str], bool],
        try_user: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._server_name = server_name
        self._allows = allows  # whether this server speaks with another one
        self._database = database
        self._interner = interner
        self._try_user = try_user  # has an application service make its users who are not there

    def is_local(self, user_id: UserId) -> bool:
        """Whether the user's home is here."""
        return domain_of(user_id) == self._server_name

    async def make(self, user_id: UserId) -> None:
        """Have an application service make a user of this server who may not be there, as far as it can now."""
        # spec: application-service-api#get_matrixappv1usersuserid (an invite is what it is asked for)
        if self._try_user is not None:
            await self._try_user(user_id)

    async def check(self, sender_id: str, user_ids: Sequence[UserId]) -> None:
        """Refuse (403) where one of them cannot be reached, or wants no invites of the sender.

        Who ignores the sender does not refuse: the invite is made, and never shown (``sync/ignored.py``).
        """
        if not user_ids:
            return
        for user_id in user_ids:
            if not self.is_local(user_id) and not self._allows(domain_of(user_id)):
                raise forbidden(f"{user_id} cannot be reached: this server does not speak with theirs")
        for user_id in user_ids:
            if self.is_local(user_id):
                await self.make(user_id)
        # What users of other servers want, their servers say.
        nids = await self._interner.find_users([user_id for user_id in user_ids if self.is_local(user_id)])
        stored = await self._database.read(load_types_of_users, list(nids.values()), INVITE_TYPES)
        for name, nid in nids.items():
            if parse_permission(stored.get(nid, {})).decide(sender_id) is Invite.BLOCK:
                raise MatrixError(403, "M_INVITE_BLOCKED", f"{name} does not accept your invites")
