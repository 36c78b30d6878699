"""The loop that drives a flow of the protocol core: take a need, look it up, send the answer in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

N = TypeVar("N")
R = TypeVar("R")


async def drive(flow: Generator[N, Any, R], answer: Callable[[N], Awaitable[Any]]) -> R:
    """Run a flow to its end. What ``answer`` raises ends it too, and is raised."""
    reply: Any = None
    while True:
        try:
            need = flow.send(reply)
        except StopIteration as done:
            result: R = done.value
            return result
        try:
            reply = await answer(need)
        except BaseException:
            flow.close()
            raise
