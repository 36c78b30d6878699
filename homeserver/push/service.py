"""Push rules of a requester: reading and changing them. They are kept as account data, so every device hears of it.

# spec: client-server-api#push-rules-events
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import WriteTx
from homeserver.http.errors import UserLimitReachedError
from homeserver.push.readers import PUSH_RULES
from homeserver.push.rulesets import Ruleset, parse_ruleset
from homeserver.store.account_data import TooMuchAccountDataError, load_account_data, put_account_data
from homeserver.store.work import Worker

Edit = Callable[[Ruleset], None]

_ANYBODY: Final = "\0"  # no user's id, and in no rule
_encode = msgspec.json.Encoder().encode


class Owner(Protocol):
    """Whose rules."""

    @property
    def user_id(self) -> str: ...
    @property
    def user_nid(self) -> int: ...


class PushRules:
    """See the module."""

    def __init__(self, database: Database, worker: Worker) -> None:
        self._database = database
        self._worker = worker

    async def load(self, owner: Owner) -> Ruleset:
        """The whole set."""
        stored = await self._database.read(load_account_data, owner.user_nid, 0, PUSH_RULES)
        return parse_ruleset(stored, owner.user_id)

    async def load_content(self, owner: Owner) -> dict[str, Any]:
        """The content of ``m.push_rules``, also for those who never changed a rule."""
        return {"global": (await self.load(owner)).kinds}

    async def edit(self, owner: Owner, edit: Edit) -> None:
        """Change the set. ``edit`` may run twice, each time on a set of its own, and may refuse with MatrixError."""
        try:
            await self._worker.work(_edit, owner.user_nid, owner.user_id, edit)
        except TooMuchAccountDataError:
            raise UserLimitReachedError("There is too much account data already") from None


def _edit(tx: WriteTx, user_nid: int, user_id: str, edit: Edit) -> None:
    ruleset = parse_ruleset(load_account_data(tx, user_nid, 0, PUSH_RULES), user_id)
    edit(ruleset)
    put_account_data(tx, user_nid, 0, PUSH_RULES, ruleset.to_json().decode())


def default_content(user_id: str) -> bytes:
    """The content of ``m.push_rules`` of somebody who never changed a rule, as JSON: for their first sync."""
    return _encode(user_id).join(_around_the_user())


@cache
def _around_the_user() -> tuple[bytes, ...]:
    """What stands around the places in which that content names its user."""
    return tuple(parse_ruleset(None, _ANYBODY).to_json().split(_encode(_ANYBODY)))
