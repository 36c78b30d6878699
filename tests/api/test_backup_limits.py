"""Backup and restore where the disk is full, and where there is more than fits into memory."""

from __future__ import annotations

import errno
import os
import resource
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from homeserver import backup
from homeserver.cli.operations import OperationError
from homeserver.db.engine import SqliteSession
from tests.api.test_backup import BackupCase, contents, quietly
from tests.support.databases import POSTGRESQL, on_each_database


@contextmanager
def full_disk(largest: int = 0) -> Iterator[None]:
    """No file grows beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullDisk(BackupCase):
    """A restore that needs more than there is comes back whole, or not at all."""

    def setUp(self) -> None:
        self.config, self.engine = self.new_server()
        self.source = self.write(self.config, self.engine)

    def test_before_the_rows_are_committed(self) -> None:
        other, other_engine = self.new_config()

        with ExitStack() as filled:

            def fill(label: str, done: int, total: int | None = None) -> None:
                if label == "checking":
                    staged = other.sqlite_path.with_name(f"{other.sqlite_path.name}.restoring")
                    filled.enter_context(full_disk(staged.stat().st_size))

            with self.assertRaises(OperationError):
                backup.restore(other, other_engine, self.source, fill)
        self.assertEqual([], list(other.data_dir.iterdir()))
        backup.restore(other, other_engine, self.source, quietly)

    def test_after_the_rows_were_committed(self) -> None:
        other, other_engine = self.new_config()
        close, is_checked = SqliteSession.close, False

        def note(label: str, done: int, total: int | None = None) -> None:
            nonlocal is_checked
            is_checked = is_checked or label == "checking"

        def close_on_full_disk(session: SqliteSession) -> None:
            with full_disk() if is_checked else nullcontext():
                close(session)

        patched = self.patch(SqliteSession, "close", close_on_full_disk)
        backup.restore(other, other_engine, self.source, note)
        patched.restore()
        self.assertTrue(is_checked)
        self.assertEqual(contents(self.engine)["events"], contents(other_engine)["events"])
        self.assertEqual(
            ["chaos.sqlite3", "media", "signing.key"], sorted(path.name for path in other.data_dir.iterdir())
        )


@on_each_database
class Folders(BackupCase):
    """What is not known to be on the disk is taken back."""

    def test_a_folder_that_is_not_written(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        other.data_dir.mkdir(exist_ok=True)
        folders = [other.data_dir, backup.media_folder(other)]
        if self.dialect != POSTGRESQL:
            folders.append(other.data_dir)
        written: list[Path] = []
        good = 0

        def write(folder: Path) -> None:
            if len(written) == good:
                raise OSError("the disk is gone")
            written.append(folder)

        self.patch(backup, "sync_folder", write)
        for good in range(len(folders)):  # noqa: B007 (read by the function above)
            written.clear()
            self.broken_off(other, other_engine, source)
            self.assertEqual([], list(other.data_dir.iterdir()))
        written.clear()
        good = len(folders)
        backup.restore(other, other_engine, source, quietly)
        self.assertEqual(folders, written)


class ManyFiles(BackupCase):
    """A backup of millions of files."""

    def test_members_are_forgotten(self) -> None:
        config, engine = self.new_server()
        add = tarfile.TarFile.addfile
        remembered: list[int] = []

        def add_and_count(archive: tarfile.TarFile, info: tarfile.TarInfo, file: Any) -> None:
            remembered.append(len(archive.members))  # type: ignore[attr-defined]
            add(archive, info, file)

        self.patch(tarfile.TarFile, "addfile", add_and_count)
        self.write(config, engine)
        self.assertGreater(len(remembered), 10)
        self.assertEqual({0}, set(remembered))

    def test_a_folder_that_cannot_be_read(self) -> None:
        config, engine = self.new_server()
        scan = os.scandir

        def fail(path: Any) -> Any:
            if Path(path).name == "ab":
                raise OSError(errno.EIO, "the disk is dying", str(path))
            return scan(path)

        self.patch(os, "scandir", fail)
        with self.assertRaisesRegex(OSError, "the disk is dying"):
            self.write(config, engine)

    def test_links_are_left_where_they_are(self) -> None:
        config, engine = self.new_server()
        files = backup.media_folder(config) / "files"
        (files / "link").symlink_to(files / "ab" / "cdef")
        (files / "shelf").symlink_to(files / "ab")
        with tarfile.open(self.write(config, engine)) as archive:
            names = {name for name in archive.getnames() if name.startswith("media/")}
        self.assertEqual({"media/files/empty", "media/files/ab/cdef"}, names)
