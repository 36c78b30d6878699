"""Work that takes its time: begun by those in charge, carried on by this process or the next one.

1. What was begun is stored before anybody hears of it, and again and again from then on until it has ended: so whoever
   does it must find out what is done already, and may be stopped anywhere.
2. What a room or a server refuses is part of the result, or (as a MatrixError) ends the work with an error. A full inbox,
   an absent database or a fault of ours lets it wait, and be tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred

from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, limit_exceeded
from homeserver.runtime.clock import Clock
from homeserver.runtime.entropy import Entropy
from homeserver.runtime.log import Log
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.moderation_tasks import (
    Task,
    TaskKind,
    TaskUnderWayError,
    TooManyTasksError,
    end_task,
    find_task,
    insert_task,
    load_tasks,
    load_unfinished,
    set_result,
)
from homeserver.store.work import Worker

KEPT_MS: Final = 86_400_000  # after its end
_RETRY_AFTER_MS: Final = 60_000

Save = Callable[[dict[str, Any]], Awaitable[None]]
"""Stores what has come of the work so far."""
Do = Callable[[Task, Save], Awaitable[None]]


class ModerationTasks:
    """See the module. ``doers`` does each kind of work."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        tasks: TaskGroup,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        doers: Mapping[TaskKind, Do],
    ) -> None:
        self._database = database
        self._worker = worker
        self._tasks = tasks
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._doers = doers
        self._running: dict[str, Deferred[None]] = {}

    def start(self) -> None:
        """Go on with what an earlier process began."""
        self._tasks.spawn_restarting("moderation left over", self._resume)

    async def begin(
        self,
        requester: Requester,
        kind: TaskKind,
        subject: str,
        wishes: dict[str, Any],
        *,
        alone: bool = False,
    ) -> str:
        """Begin some work, which is stored then; its name. ``alone``: not while the same is being done (400)."""
        now_ms = self._clock.now_ms()
        task = Task(self._entropy.token(18), kind, subject, requester.user_nid, wishes, {}, now_ms)
        try:
            await self._worker.work(insert_task, task, now_ms - KEPT_MS, alone=alone)
        except TooManyTasksError:
            raise limit_exceeded(_RETRY_AFTER_MS) from None
        except TaskUnderWayError:
            raise MatrixError(400, "M_UNKNOWN", "This is being done already") from None
        self._log.info("moderation begun", what=kind.name, subject=subject, by=requester.user_id)
        self._run(task.task_id)
        return task.task_id

    async def find(self, kind: TaskKind, task_id: str) -> Task | None:
        """Some work of a kind by its name, for a day after its end."""
        task = await self._database.read(find_task, task_id)
        return task if task is not None and task.kind is kind else None

    async def about(self, kind: TaskKind, subject: str) -> list[Task]:
        """The work of a kind about somebody or something, the oldest first."""
        return await self._database.read(load_tasks, kind, subject)

    async def ended(self, task_id: str) -> None:
        """Wait until some work has ended."""
        running = self._running.get(task_id)
        if running is not None:
            waiting: Deferred[None] = Deferred()
            running.addBoth(lambda _: waiting.callback(None))
            await waiting

    async def _resume(self) -> None:
        for task_id in await self._database.read(load_unfinished):
            self._run(task_id)

    def _run(self, task_id: str) -> None:
        if task_id in self._running or self._tasks.stopped:
            return
        running = self._running[task_id] = self._tasks.spawn_restarting(
            "moderation", partial(self._do, task_id)
        )

        def ended(_: object) -> None:
            self._running.pop(task_id, None)

        running.addBoth(ended)

    async def _do(self, task_id: str) -> None:
        task = await self._database.read(find_task, task_id)
        if task is None or task.ended_ts_ms is not None:
            return

        async def save(result: dict[str, Any]) -> None:
            await self._worker.work(set_result, task_id, result)

        error = None
        try:
            await self._doers[task.kind](task, save)
        except MatrixError as refused:
            if refused.passes:
                raise
            error = refused.error
            self._log.warning("moderation failed", what=task.kind.name, subject=task.subject, error=error)
        await self._worker.work(end_task, task_id, self._clock.now_ms(), error)
