"""Files on the disk: whole, durable, and closed by whoever opened them."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial import unittest

from homeserver.http.errors import MatrixError
from homeserver.media.files import MAX_VARIANTS, MediaFiles
from homeserver.media.repo import check_media_id
from homeserver.media.serving import FileBody
from homeserver.media.thumbnails import Method, next_size
from homeserver.media.types import CROP_SIDES, SCALE_SIZES

NAME = "ab" * 32


class Storing(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.files = MediaFiles(self.folder)

    def test_in_pieces(self) -> None:
        pieces = [b"", b"one", b"x" * 100_000, b"end"]
        spool = self.files.begin("t")
        for piece in pieces:
            spool.write([piece])
        name = self.files.finish(spool, 5.0)
        self.assertEqual((sha256(b"".join(pieces)).hexdigest(), 100_006), (name, spool.size))
        path = self.files.path_of(name)
        self.assertEqual((b"".join(pieces), 5.0), (path.read_bytes(), path.stat().st_mtime))
        self.assertEqual(self.folder / "files" / name[:2] / name[2:4] / name, path)
        self.assertEqual([], os.listdir(self.folder / "incoming"))

    def test_synced_before_it_has_its_name_and_its_folder_after(self) -> None:
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def note_sync(descriptor: int) -> None:
            steps.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            fsync(descriptor)

        def note_replace(path: Path, target: Path) -> Any:
            steps.append("move")
            return replace(path, target)

        self.patch(os, "fsync", note_sync)
        self.patch(Path, "replace", note_replace)
        name = self.files.store("t", [b"data"], 1.0)
        self.assertEqual(["sync t", "move", f"sync {name[2:4]}"], steps[:3])
        self.assertIn(f"sync {name[:2]}", steps)
        self.assertIn("sync files", steps)
        steps.clear()
        self.files.store("t", [b"data"], 1.0)
        self.assertEqual(["sync t", "move", f"sync {name[2:4]}"], steps)

    def test_discarded(self) -> None:
        spool = self.files.begin("t")
        spool.write([b"x"])
        spool.discard()
        spool.discard()
        self.assertEqual([], os.listdir(self.folder / "incoming"))

    def test_a_store_that_fails_leaves_nothing(self) -> None:
        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, self.files.store, "t", [b"x"], 1.0)
        self.assertEqual([], os.listdir(self.folder / "incoming"))
        self.assertFalse((self.folder / "files").exists())

    def test_names_lead_nowhere_else(self) -> None:
        for bad in ("", "..", "ab", "AB" * 32, NAME + "\n", "../" + NAME, "ab/" * 21 + "a"):
            self.assertRaises(ValueError, self.files.path_of, bad)
        for bad in ("", "..", "a/b", "a.b", "%2e", "é", "x" * 256, "a\n"):
            self.assertRaises(MatrixError, check_media_id, bad)
        for bad in ("../x.png", "a.svg", "a", "A.png", "x" * 50 + ".png"):
            self.assertRaises(ValueError, self.files.keep_thumbnail, NAME, bad, "t", b"")

    def test_so_many_thumbnails(self) -> None:
        kept = [self.files.keep_thumbnail(NAME, f"crop-{n}x1.png", "t", b"") for n in range(MAX_VARIANTS + 1)]
        self.assertEqual([True] * MAX_VARIANTS + [False], kept)
        self.assertIsNotNone(self.files.find_thumbnail(NAME, "crop-0x1"))
        self.assertIsNone(self.files.find_thumbnail(NAME, "crop-99x1"))

    def test_the_usual_thumbnails_are_always_kept(self) -> None:
        wanted: list[tuple[int, int, Method]] = [(*size, "scale") for size in SCALE_SIZES]
        wanted += [(side, side, "crop") for side in CROP_SIDES]
        usual = [next_size(*one, animated=animated).name for one in wanted for animated in (False, True)]
        self.assertTrue(self.files.keep_thumbnail(NAME, f"{usual[0]}.png", "t", b""))
        for n in range(MAX_VARIANTS):
            self.assertTrue(self.files.keep_thumbnail(NAME, f"crop-{n}x1.png", "t", b""))
        for name in usual[1:]:
            self.assertTrue(self.files.keep_thumbnail(NAME, f"{name}.png", "t", b""), name)
            self.assertIsNotNone(self.files.find_thumbnail(NAME, name))
        self.assertFalse(self.files.keep_thumbnail(NAME, "crop-99x1.png", "t", b""))

    def test_a_sweep_of_nothing_and_of_what_is_not_ours(self) -> None:
        self.assertEqual(([], 0), (self.files.shelves(), self.files.remove_abandoned(9e9)))
        self.assertEqual([], self.files.older_than("ab", 9e9))
        shelf = self.folder / "files" / "ab"
        (shelf / "ab").mkdir(parents=True)
        (shelf / "notes.txt").write_text("x")
        (shelf / "ab" / "README").write_text("x")
        (self.folder / "files" / "lost+found").mkdir()
        self.assertEqual((["ab"], []), (self.files.shelves(), self.files.older_than("ab", 9e9)))


class Body(unittest.TestCase):
    def body(self, data: bytes, offset: int, length: int) -> tuple[FileBody, Any]:
        path = Path(self.mktemp())
        path.write_bytes(data)
        file = path.open("rb", buffering=0)
        return FileBody(maybeDeferred, file, offset, length), file

    def read(self, body: FileBody) -> bytes:
        async def gather() -> bytes:
            return b"".join([piece async for piece in body])

        return self.successResultOf(Deferred.fromCoroutine(gather()))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 600_000), st.integers(0, 600_000))
    def test_any_part(self, offset: int, length: int) -> None:
        data = bytes(range(256)) * 2400
        body, file = self.body(data, offset, length)
        self.assertEqual(data[offset : offset + length], self.read(body))
        self.successResultOf(Deferred.fromCoroutine(body.aclose()))
        self.assertTrue(file.closed)

    def test_closed_unread_and_twice(self) -> None:
        body, file = self.body(b"x" * 10, 0, 10)
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(body.aclose()))
        self.assertTrue(file.closed)
        self.assertEqual(b"", self.read(body))
