"""What lies in a folder to be at hand, by name: how much it is, who uses it, and what goes when it is too much.

Only the books are kept here; whoever keeps them moves the files. In the order of last use, which a restart forgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

Entry = tuple[str, bool]
"""A name, and whether it is the file or (True) its thumbnails."""


class AtHand:
    """See the module."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._sizes: dict[Entry, int] = {}
        self._used: dict[Entry, int] = {}
        self.bytes = 0

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._sizes

    def found(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """What was there before anything was noted, the oldest first."""
        known, self._sizes = self._sizes, {}
        for entry, size in entries:
            if entry not in known:
                self._sizes[entry] = size
                self.bytes += size
        self._sizes.update(known)

    def note(self, entry: Entry, size: int) -> None:
        """It is there now, and of this size."""
        self.forget(entry)
        self._sizes[entry] = size
        self.bytes += size

    def grow(self, entry: Entry, size: int) -> None:
        """It is so much larger."""
        self.note(entry, self._sizes.get(entry, 0) + size)

    def touch(self, entry: Entry) -> None:
        """Somebody wants it."""
        if entry in self._sizes:
            self._sizes[entry] = self._sizes.pop(entry)

    def forget(self, entry: Entry) -> None:
        """It is not there any more."""
        self.bytes -= self._sizes.pop(entry, 0)

    @contextmanager
    def using(self, entry: Entry) -> Iterator[None]:
        """It does not go while the block runs."""
        self._used[entry] = self._used.get(entry, 0) + 1
        try:
            yield
        finally:
            self._used[entry] -= 1
            if not self._used[entry]:
                del self._used[entry]

    def take_surplus(self) -> list[Entry]:
        """What has to go, taken out of the books: whoever asks removes it."""
        gone: list[Entry] = []
        for entry in list(self._sizes):
            if self.bytes <= self._most_bytes:
                break
            if entry not in self._used:
                self.forget(entry)
                gone.append(entry)
        return gone
