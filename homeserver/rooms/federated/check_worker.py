"""The program of a process that checks events for the server: what others sent goes in, what passed comes out.

It is started by its path, and imports nothing but `federation` and what that needs. On standard input and output go frames
(``read_frame``): first an empty one, when it is ready; then an answer for each job. It ends with its input.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from typing import BinaryIO, Final

import msgspec

from federation.flows.join_events import Checked, Terms, check_events

MIB: Final = 1024 * 1024
# LIMIT(a frame: a chunk of the largest events there are, and the keys of as many servers as an answer may name)
MAX_FRAME_BYTES: Final = 128 * MIB
_MEMORY_BYTES: Final = 1024 * MIB
# So that it never has a processor that the server itself could use.
_NICENESS: Final = 5


class Job(msgspec.Struct, array_like=True, frozen=True):
    """Texts to be checked. By the terms of the job before, where it brings none."""

    texts: list[bytes]
    terms: Terms | None


def read_frame(source: BinaryIO) -> bytes | None:
    """What comes next: four bytes of length, then so many. None: that was all. Raises ValueError."""
    head = source.read(4)
    if len(head) < 4:
        return None
    length = int.from_bytes(head, "big")
    if length > MAX_FRAME_BYTES:
        raise ValueError("a frame that is too long")
    data = source.read(length)
    return data if len(data) == length else None


def write_frame(sink: BinaryIO, data: bytes) -> None:
    """Raises ValueError, OSError."""
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError("a frame that is too long")
    sink.write(len(data).to_bytes(4, "big"))
    sink.write(data)
    sink.flush()


def limit_resources() -> None:
    """No large memory, no files, no core dumps, and behind the server itself."""
    for kind, limit in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):
            # The administrator's own limit is lower still, or this system does not know this one.
            continue
    os.nice(_NICENESS)


def main(source: BinaryIO, sink: BinaryIO) -> None:
    """Until the input ends."""
    limit_resources()
    gc.freeze()
    decode, encode = msgspec.msgpack.Decoder(Job).decode, msgspec.msgpack.Encoder().encode
    terms: Terms | None = None
    write_frame(sink, b"")
    while (frame := read_frame(source)) is not None:
        job = decode(frame)
        terms = job.terms or terms
        checked = Checked([], []) if terms is None else check_events(job.texts, terms)
        write_frame(sink, encode(checked))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
