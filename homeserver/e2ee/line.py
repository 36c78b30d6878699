"""Questions to many servers that stand in line for places, one line for all that one client asks for.

A line waits for one place at a time, and joins the queue anew for the next: so each of the many requests that a client
makes at once gets its share, and however many servers each of them needs, none fills the queue for the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from homeserver.e2ee.types import Failure, failed
from homeserver.runtime.slots import Full, Slots
from homeserver.runtime.tasks import TaskGroup

Question = TypeVar("Question")


@dataclass(slots=True)
class Line(Generic[Question]):
    """What one client wants to have asked and is not asked yet; each is either asked or refused, or nobody waits for it."""

    asker: str
    ask: Callable[[Question], Coroutine[Any, Any, None]]
    refuse: Callable[[Question, Failure], None]
    questions: deque[Question] = field(default_factory=deque)

    def give_up(self, failure: Failure) -> None:
        """Ask nothing more. What is under way goes on."""
        while self.questions:
            self.refuse(self.questions.popleft(), failure)


async def ask_in_turn(line: Line[Any], places: Slots, tasks: TaskGroup) -> None:
    """Ask one question after the other, as places become free."""
    while line.questions:
        try:
            await places.take(line.asker)
        except Full:
            line.give_up(failed("M_LIMIT_EXCEEDED", "Too many questions wait to be asked"))
            return
        if tasks.stopped or not line.questions:
            places.release(line.asker)
            return
        # As a task: whoever asked first may go away, and others wait for the same answer.
        tasks.spawn("ask a server for keys", _ask(line, line.questions.popleft(), places))


async def _ask(line: Line[Any], question: Any, places: Slots) -> None:
    try:
        await line.ask(question)
    finally:
        places.release(line.asker)
