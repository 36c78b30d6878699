"""The `chaos` command's process: the only place that touches the reactor, the environment and the exit status."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

from twisted.internet import reactor

from homeserver.cli.host import Host
from homeserver.cli.lazy import load_application
from homeserver.cli.main import run_command
from homeserver.runtime.clock import ReactorClock
from homeserver.runtime.entropy import OsEntropy
from homeserver.runtime.process import Reactor


def main() -> None:
    """The entry point of the distribution."""
    real = cast(Reactor, reactor)
    host = Host(
        reactor=real,
        clock=ReactorClock(real),
        entropy=OsEntropy(),
        environment=os.environ,
        folder=Path.cwd(),
        log_stream=sys.stderr,
        application=load_application,
    )
    sys.exit(run_command(sys.argv[1:], host))


if __name__ == "__main__":
    main()
