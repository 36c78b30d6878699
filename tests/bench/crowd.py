"""What a row gets that has a server of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from tests.bench.figures import Scale
from tests.interop.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Crowd:
    """See above."""

    server: ServerProcess
    product: str  # CHAOS or Synapse: whose tables they are
    open_database: Callable[[], Engine]  # of the server, while it is stopped
    scale: Scale
