"""What a row gets that has a server of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.figures import Scale
from tests.interop.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Crowd:
    """See above."""

    server: ServerProcess
    fill: Callable[[str, int], None]  # puts so many into a room of the stopped server
    scale: Scale
