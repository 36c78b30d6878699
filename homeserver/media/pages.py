"""Pages of strangers, read by a process of its own for each: it is gone before the next one comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

READ_LIMIT_S: Final = 5.0
# LIMIT(what stands in a page beyond this is not read: descriptions are at its head)
MAX_PAGE_BYTES: Final = 1024 * 1024
_PROGRAM = Path(__file__).with_name("page_worker.py")


class Page(msgspec.Struct, frozen=True):
    """What a page says of itself; addresses are as they stand there."""

    properties: dict[str, str] = {}
    plain: dict[str, str] = {}  # what else it could be called by
    images: list[str] = []
    picture: str = ""  # the first that it shows
    oembed: str = ""  # where its site says more
    base: str = ""


def read_page(
    body: bytes, charset: str, program: Path = _PROGRAM, limit_s: float = READ_LIMIT_S
) -> Page | None:
    """Blocks, so it runs in a thread. None: the page is too much for whoever reads it, or nonsense."""
    head = msgspec.json.encode({"charset": charset}) + b"\n"
    try:
        done = subprocess.run(  # noqa: S603 (our own program, by its path)
            # -I, -S: neither the environment nor the current folder can add to what it imports.
            [sys.executable, "-I", "-S", str(program)],
            input=head + body[:MAX_PAGE_BYTES],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            cwd="/",
            env={},
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Page)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError):
        return None
