"""The files on the disk: named by their SHA-256, written beside and moved into place, never changed afterwards.

1. A file under its name is whole and durable: bytes and directory entry are synced before anybody is told the name.
2. Everything here blocks, so it runs in a thread, in bounded pieces.
3. Times of files are the server's clock's, so that ages can be compared with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from homeserver.media.types import CROP_SIDES, SCALE_SIZES, thumbnail_name

_HASH = re.compile(r"[0-9a-f]{64}")
_VARIANT = re.compile(r"[a-z0-9-]{1,40}\.(?:jpeg|png|webp)")
_USUAL = frozenset(
    thumbnail_name(method, width, height, animated=animated)
    for method, sizes in (("scale", SCALE_SIZES), ("crop", tuple((side, side) for side in CROP_SIDES)))
    for width, height in sizes
    for animated in (False, True)
)
# LIMIT(a file has so many thumbnails of invented sizes; those of the usual ones are always kept)
MAX_VARIANTS = 16


class Spool:
    """A file on its way in. One thread at a time; `close` or `discard` ends it."""

    __slots__ = ("_digest", "_file", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = sha256()
        self._file: BinaryIO = path.open("xb", buffering=0)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append; what was written is part of the hash."""
        for piece in pieces:
            self._digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
            self.size += len(piece)

    def close(self, now_s: float) -> str:
        """Make the bytes durable; the name of what they are."""
        os.utime(self._file.fileno(), (now_s, now_s))
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Nobody wants it. May be called again, and after `close`."""
        self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


class MediaFiles:
    """The folder. Two levels of 256 folders each keep directories small."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._incoming = folder / "incoming"
        self._thumbnails = folder / "thumbnails"
        # Between "is it old?" and its removal nobody may move the same content into place again.
        # LIMIT(threads of one process: several that share a folder must leave the sweep to one of them)
        self._moving = Lock()

    def path_of(self, name: str) -> Path:
        """Where the file of this hash is."""
        return _below(self._files, name)

    def begin(self, token: str) -> Spool:
        """A new file under a name that nobody else uses."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        return Spool(self._incoming / token)

    def store(self, token: str, pieces: Sequence[bytes], now_s: float) -> str:
        """A whole file in one go."""
        spool = self.begin(token)
        try:
            spool.write(pieces)
            return self.finish(spool, now_s)
        except BaseException:
            spool.discard()
            raise

    def finish(self, spool: Spool, now_s: float) -> str:
        """Move a complete file into place, durably. The same content may be there already: the newer one stays."""
        name = spool.close(now_s)
        self.place(spool, name)
        return name

    def place(self, spool: Spool, name: str) -> None:
        """The second half of `finish`, after ``spool.close``."""
        source, target = spool.path, self.path_of(name)
        new = _make_folders(target.parent)
        with self._moving:
            source.replace(target)
        for folder in (target.parent, *new):
            sync_folder(folder)

    # --- thumbnails: made again when lost, so they are not synced ---

    def find_thumbnail(self, name: str, variant: str) -> Path | None:
        """A thumbnail that was made before; ``variant`` is without the ending."""
        folder = _below(self._thumbnails, name)
        for ending in ("jpeg", "png", "webp"):
            path = folder / f"{variant}.{ending}"
            if path.is_file():
                return path
        return None

    def keep_thumbnail(self, name: str, variant: str, token: str, data: bytes) -> bool:
        """Keep one, unless its size is invented and the file has many of these already; whether it was kept."""
        if _VARIANT.fullmatch(variant) is None:
            raise ValueError(f"not a name of a thumbnail: {variant}")
        folder = _below(self._thumbnails, name)
        _make_folders(folder)
        if _is_invented(variant) and sum(map(_is_invented, os.listdir(folder))) >= MAX_VARIANTS:
            return False
        self._incoming.mkdir(parents=True, exist_ok=True)
        beside = self._incoming / token
        try:
            beside.write_bytes(data)
            beside.replace(folder / variant)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        return True

    # --- of files that are elsewhere too, and here to be at hand ---

    def inventory(self) -> list[tuple[float, str, int, bool]]:
        """Age, name and size of each file, and of the thumbnails of each file together (True), the oldest first."""
        found: list[tuple[float, str, int, bool]] = []
        for shelf in self.shelves():
            for path in _children(self._files / shelf):
                if _HASH.fullmatch(path.name):
                    with suppress(FileNotFoundError):
                        known = path.stat()
                        found.append((known.st_mtime, path.name, known.st_size, False))
            for folder in _children(self._thumbnails / shelf):
                if _HASH.fullmatch(folder.name):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        size = sum((folder / one).stat().st_size for one in os.listdir(folder))
                        found.append((folder.stat().st_mtime, folder.name, size, True))
        return sorted(found)

    def drop(self, name: str, *, thumbnails: bool) -> None:
        """Remove a file, or its thumbnails, to make room."""
        if thumbnails:
            self._remove_thumbnails(name)
        else:
            self.path_of(name).unlink(missing_ok=True)

    def _remove_thumbnails(self, name: str) -> None:
        folder = _below(self._thumbnails, name)
        with suppress(FileNotFoundError):
            for variant in os.listdir(folder):
                (folder / variant).unlink(missing_ok=True)
            folder.rmdir()

    # --- the sweep ---

    def shelves(self) -> list[str]:
        """The first two digits of all names there are: the sweep goes through them one by one."""
        found: set[str] = set()
        for top in (self._files, self._thumbnails):
            with suppress(OSError):
                found.update(os.listdir(top))
        return sorted(name for name in found if re.fullmatch(r"[0-9a-f]{2}", name))

    def older_than(self, shelf: str, before_s: float) -> list[str]:
        """The names on a shelf of files from before then, and of thumbnails whose file is not there."""
        names: set[str] = set()
        for path in _children(self._files / shelf):
            if _HASH.fullmatch(path.name) and _is_older(path, before_s):
                names.add(path.name)
        for folder in _children(self._thumbnails / shelf):
            if _HASH.fullmatch(folder.name) and not self.path_of(folder.name).exists():
                names.add(folder.name)
        return sorted(names)

    def remove(self, names: Sequence[str], before_s: float) -> int:
        """Remove files that are still from before then, with their thumbnails; how many files went."""
        removed = 0
        for name in names:
            path = self.path_of(name)
            with self._moving:
                if path.exists() and not _is_older(path, before_s):
                    continue
                if path.exists():
                    path.unlink()
                    removed += 1
            self._remove_thumbnails(name)
        return removed

    def remove_abandoned(self, before_s: float) -> int:
        """Remove what began to come in before then and never arrived."""
        removed = 0
        with suppress(FileNotFoundError):
            for name in os.listdir(self._incoming):
                path = self._incoming / name
                if _is_older(path, before_s):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def open_file(path: Path) -> BinaryIO:
    """For reading; OSError where it is not there."""
    return path.open("rb", buffering=0)


def read_piece(file: BinaryIO, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset``; fewer only at the end."""
    file.seek(offset)
    parts: list[bytes] = []
    while length > 0:
        part = file.read(length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _below(top: Path, name: str) -> Path:
    if _HASH.fullmatch(name) is None:
        raise ValueError("not the name of a file")
    return top / name[:2] / name[2:4] / name


def _is_invented(variant: str) -> bool:
    return variant.partition(".")[0] not in _USUAL


def _children(shelf: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for sub in sorted(os.listdir(shelf)):
            with suppress(FileNotFoundError, NotADirectoryError):
                for name in sorted(os.listdir(shelf / sub)):
                    yield shelf / sub / name


def _is_older(path: Path, before_s: float) -> bool:
    try:
        return path.stat().st_mtime < before_s
    except FileNotFoundError:
        return False


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; the folders that got a new entry by that."""
    changed: list[Path] = []
    at = folder
    while not at.exists():
        changed.append(at.parent)
        at = at.parent
    folder.mkdir(parents=True, exist_ok=True)
    return changed


def sync_folder(folder: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
