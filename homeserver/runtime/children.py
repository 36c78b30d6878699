"""Processes of our own beside the server: what those who start one have in common."""

from __future__ import annotations

import subprocess


def bury(process: subprocess.Popen[bytes]) -> None:
    """After a kill: collect it and close its pipes. Blocks until it is gone."""
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                # What waited in the pipe for a dead reader.
                continue
