"""Everything that a user has written is redacted, in the background."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from federation.ids import UserId, domain_of, parse_room_id
from homeserver.accounts.users import Accounts
from homeserver.http.errors import bad_json, not_found
from homeserver.http.request import Request
from homeserver.http.route import Route
from homeserver.moderation.tasks import ModerationTasks
from homeserver.rooms.user_redactions import FAILED
from homeserver.store.moderation_tasks import Task, TaskKind
from synapse_compat.gate import admin_route, find_local

_LIMIT: Final = 1_000
# LIMIT(events of one room)
_LIMIT_MOST: Final = 1_000_000
_REASON_MOST: Final = 10_000
_TIME_MOST: Final = 2**53


class RedactBody(msgspec.Struct):
    """``rooms``: an empty list is all in which the user is or was."""

    rooms: list[str]
    reason: str | None = None
    limit: int = _LIMIT
    use_admin: bool = False
    after_ts: int | None = None
    before_ts: int | None = None


class UserRedactionsApi:
    """See the module."""

    def __init__(self, accounts: Accounts, tasks: ModerationTasks) -> None:
        self._accounts = accounts
        self._tasks = tasks

    def routes(self) -> list[Route]:
        status = "/v1/user/redact_status/{redact_id}"
        return [
            admin_route("POST", "/v1/user/{user_id:member_id}/redact", self.redact, "users"),
            admin_route("GET", status, self.status, "users"),
        ]

    async def redact(self, request: Request, user_id: UserId) -> dict[str, str]:
        """Begin; by its id can be asked how far it is."""
        body = request.json(RedactBody)
        wishes = _wishes(body)
        if domain_of(user_id) == self._accounts.server_name:
            await find_local(self._accounts, user_id)
        task_id = await self._tasks.begin(request.requester, TaskKind.REDACT_USER, user_id, wishes)
        return {"redact_id": task_id}

    async def status(self, _: Request, redact_id: str) -> dict[str, Any]:
        """How far it is, until a day after its end."""
        task = await self._tasks.find(TaskKind.REDACT_USER, redact_id)
        if task is None:
            raise not_found("There is no such redaction")
        return {"status": status_of(task), FAILED: task.result.get(FAILED, {})}


def status_of(task: Task) -> str:
    """The word of the documentation."""
    if task.ended_ts_ms is None:
        return "active"
    return "complete" if task.error is None else "failed"


def _wishes(body: RedactBody) -> dict[str, Any]:
    if body.reason is not None and ("\0" in body.reason or len(body.reason) > _REASON_MOST):
        raise bad_json(f"The reason has more than {_REASON_MOST} characters, or a NUL")
    if not 0 < body.limit <= _LIMIT_MOST:
        raise bad_json(f"limit is between 1 and {_LIMIT_MOST}")
    for moment in (body.after_ts, body.before_ts):
        if moment is not None and not 0 <= moment <= _TIME_MOST:
            raise bad_json("A time is given in milliseconds since 1970")
    wishes: dict[str, Any] = msgspec.to_builtins(body)
    return {**wishes, "rooms": [str(parse_room_id(room_id)) for room_id in dict.fromkeys(body.rooms)]}
