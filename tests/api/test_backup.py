"""Backup and restore: the same server comes back, on either database, and nothing else ever does."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from homeserver import backup
from homeserver.cli.operations import OperationError, Progress
from homeserver.config.schema import Config
from homeserver.config.signing_key import StoredKey, write_signing_key
from homeserver.db.engine import Engine, PostgresEngine, SqliteEngine
from homeserver.db.errors import DatabaseUnavailable
from homeserver.db.tx import Row, Tx
from homeserver.seed.making import seed
from homeserver.store.changes import SKIPPED, Kind
from homeserver.store.dump import read_table, table_names
from homeserver.store.facts import check_server_name
from tests.support.app import START_S, TestApp, test_config
from tests.support.bucket import s3_settings
from tests.support.databases import (
    POSTGRESQL,
    SQLITE,
    DatabaseCase,
    make_database,
    no_schema,
    on_each_database,
    problems_in,
)

V3 = "/_matrix/client/v3"
NOW_MS = int(START_S * 1000)
Member = tuple[tarfile.TarInfo, bytes]


def quietly(label: str, done: int, total: int | None = None) -> None:
    """A progress that nobody sees."""


def contents(engine: Engine) -> dict[str, list[Row]]:
    """Every row of every table."""
    session = engine.reader()
    try:
        return session.run(_read_all)
    finally:
        session.close()


def members_of(source: Path) -> list[Member]:
    """Every member with its content."""
    with tarfile.open(source) as archive:
        return [(info, _content(archive, info)) for info in archive]


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return file.read() if file is not None else b""


def written(path: Path, members: list[Member]) -> Path:
    """An archive of these members."""
    with tarfile.open(path, "w:gz") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def forged(source: Path, name: str, data: bytes) -> Path:
    """A backup whose manifest is right about a member that is not."""
    members = members_of(source)
    manifest = msgspec.json.decode(members[-1][1])
    before = len(msgspec.msgpack.decode(next(old for info, old in members if info.name == name)))
    table = name.split("/")[1]
    manifest["rows"][table] += len(msgspec.msgpack.decode(data)) - before
    manifest["members"][name] = [len(data), sha256(data).hexdigest()]
    replaced = {name: data, backup.MANIFEST_NAME: msgspec.json.encode(manifest)}
    for number, (info, old) in enumerate(members):
        new = replaced.get(info.name, old)
        info.size = len(new)
        members[number] = (info, new)
    return written(source.with_name(f"{source.name}-forged"), members)


def _read_all(tx: Tx) -> dict[str, list[Row]]:
    return {name: [tuple(row) for page in read_table(tx, name) for row in page] for name in table_names()}


class BackupCase(DatabaseCase):
    """A server with the sample community, a file and a key."""

    def new_config(self, url: str | None = None, **changes: Any) -> tuple[Config, Engine]:
        """A server that does not exist yet."""
        folder = Path(self.mktemp()).absolute()
        config = replace(test_config(data_dir=folder, database=url or "sqlite"), **changes)
        if url is None:
            folder.mkdir()
            return config, SqliteEngine(str(config.sqlite_path))
        return config, PostgresEngine(url)

    def new_target(self, dialect: str) -> tuple[Config, Engine]:
        """An empty place of one kind."""
        if dialect == SQLITE:
            return self.new_config()
        database = make_database(dialect, no_schema)
        self.addCleanup(database.drop)
        return self.new_config(database.url)

    def new_server(self) -> tuple[Config, Engine]:
        """A server that lives."""
        config, engine = self.new_config(None if self.dialect == SQLITE else self.new_database())
        url = f"sqlite:{config.sqlite_path}" if self.dialect == SQLITE else config.database
        config.data_dir.mkdir(exist_ok=True)
        write_signing_key(config.signing_key_path, StoredKey("test", b"\x01" * 32))
        self.app = TestApp(self, database=url, config=config)
        self.app.wait(Deferred.fromCoroutine(seed(self.app.app)))
        for name, content in (("files/ab/cdef", b"picture"), ("files/empty", b""), ("incoming/half", b"no")):
            path = backup.media_folder(config) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return config, engine

    def write(self, config: Config, engine: Engine) -> Path:
        target = Path(self.mktemp())
        backup.write(config, engine, target, NOW_MS, quietly)
        return target

    def broken_off(self, config: Config, engine: Engine, source: Path, progress: Progress = quietly) -> None:
        """A restore that fails where it puts what it has read in its place, and takes back what it has put."""
        with self.assertRaises(OSError):
            backup.restore(config, engine, source, progress)
        self.assertFalse(config.signing_key_path.exists())
        if self.dialect == POSTGRESQL:
            self.assertEqual(contents(engine)["rooms"], [])

    def refused(self, config: Config, engine: Engine, source: Path, why: str) -> None:
        """A restore that must fail, and leave nothing."""
        before = sorted(config.data_dir.rglob("*"))
        with self.assertRaises(OperationError) as caught:
            backup.restore(config, engine, source, quietly)
        self.assertRegex(str(caught.exception), why)
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(sorted(config.data_dir.rglob("*")), before)


class InABucket(BackupCase):
    """What is in a bucket stays there."""

    def in_bucket(self, config: Config) -> Config:
        return replace(config, media=replace(config.media, storage="s3", s3=s3_settings()))

    def test_without_media(self) -> None:
        config, engine = self.new_server()
        source = self.write(self.in_bucket(config), engine)
        other, other_engine = self.new_config()
        line = backup.restore(self.in_bucket(other), other_engine, source, quietly)
        self.assertIn("no media (they are in the bucket) and the signing key", line)
        self.assertNotIn("copy", line)
        third, third_engine = self.new_config()
        line = backup.restore(third, third_engine, source, quietly)
        self.assertIn("copy what the bucket has under files/ to", line)

    def test_media_that_would_have_no_place(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_config()
        self.refused(self.in_bucket(other), other_engine, source, "2 media files, and media.storage is s3")


@on_each_database
class RoundTrip(BackupCase):
    """What was written comes back."""

    def check_round_trip(self, dialect: str) -> None:
        config, engine = self.new_server()
        # The server runs: this connection is open, and so are the app's.
        source = self.write(config, engine)
        other_config, other_engine = self.new_target(dialect)
        line = backup.restore(other_config, other_engine, source, quietly)
        self.assertIn("2 media files", line)
        mine, theirs = contents(engine), contents(other_engine)
        ((_, before),), ((_, after),) = mine.pop("stream"), theirs.pop("stream")
        self.assertEqual(before + SKIPPED, after)
        theirs["changes"].remove((after, int(Kind.RESTORED), 0, 0))
        theirs["server_facts"].remove(("skipped", f"[[{before + 1},{after - 1}]]"))
        self.assertEqual(
            {name: sorted(rows) for name, rows in mine.items()},
            {name: sorted(rows) for name, rows in theirs.items()},
        )
        self.assertGreater(sum(map(len, mine.values())), 1000)
        self.assertEqual(other_config.signing_key_path.read_text(), config.signing_key_path.read_text())
        self.assertEqual(stat.S_IMODE(other_config.signing_key_path.stat().st_mode), 0o600)
        media = backup.media_folder(other_config)
        found = {
            str(path.relative_to(media)): path.read_bytes() for path in media.rglob("*") if path.is_file()
        }
        self.assertEqual(found, {"files/ab/cdef": b"picture", "files/empty": b""})

    def test_to_the_same_kind(self) -> None:
        self.check_round_trip(self.dialect)

    def test_to_the_other_kind(self) -> None:
        self.check_round_trip(POSTGRESQL if self.dialect == SQLITE else SQLITE)

    def test_the_restored_server_goes_on(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        backup.restore(other, other_engine, source, quietly)
        url = f"sqlite:{other.sqlite_path}" if self.dialect == SQLITE else other.database
        app = TestApp(self, database=url, config=other, seed=2)
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "otto"},
            "password": "chaos",
        }
        token = app.ok("POST", "/_matrix/client/v3/login", body)["access_token"]
        room_id = app.ok("GET", "/_matrix/client/v3/joined_rooms", token=token)["joined_rooms"][0]
        rooms = app.ok("GET", "/_matrix/client/v3/sync", token=token)["rooms"]["join"]
        self.assertEqual(len(rooms), 9)
        self.assertIn(room_id, rooms)
        app.ok("POST", "/_matrix/client/v3/createRoom", {"name": "after the fire"}, token)

    def test_whoever_comes_with_a_position_of_after_the_backup(self) -> None:
        config, engine = self.new_server()
        token, other = self.app.register("zoe", device_id="PHONE"), self.app.register("yan")
        room_id = self.app.ok("POST", f"{V3}/createRoom", {"preset": "public_chat"}, token)["room_id"]
        self.app.ok("POST", f"{V3}/join/{room_id}", {}, other)
        source = self.write(config, engine)
        for number in range(9):
            self.app.ok("PUT", f"{V3}/rooms/{room_id}/send/m.x/lost{number}", {}, other)
        since = self.app.ok("GET", f"{V3}/sync", token=token)["next_batch"]
        target, target_engine = self.new_target(self.dialect)
        backup.restore(target, target_engine, source, quietly)
        url = f"sqlite:{target.sqlite_path}" if self.dialect == SQLITE else target.database
        app = TestApp(self, database=url, config=target, seed=2)
        said = app.ok("PUT", f"{V3}/rooms/{room_id}/send/m.x/new", {}, other)["event_id"]
        sent = {"messages": {"@zoe:test.example": {"PHONE": {"a": "key"}}}}
        app.ok("PUT", f"{V3}/sendToDevice/m.room_key/1", sent, other)
        # Even the first time that somebody comes: they were beyond these, as they count.
        found = app.ok("GET", f"{V3}/sync", token=token, query={"since": since})
        shown = [event["event_id"] for event in found["rooms"]["join"][room_id]["timeline"]["events"]]
        self.assertEqual([said], shown)
        self.assertEqual([{"a": "key"}], [event["content"] for event in found["to_device"]["events"]])
        self.assertEqual([], problems_in(url))
        # And once more: a restored server's backup.
        third, third_engine = self.new_target(self.dialect)
        again = self.write(target, target_engine)
        backup.restore(third, third_engine, again, quietly)
        url = f"sqlite:{third.sqlite_path}" if self.dialect == SQLITE else third.database
        app = TestApp(self, database=url, config=third, seed=3)
        app.ok("PUT", f"{V3}/rooms/{room_id}/send/m.x/newer", {}, other)
        self.assertEqual([], problems_in(url))

    def test_a_snapshot_while_others_write(self) -> None:
        config, engine = self.new_server()
        token = self.app.register("zoe")
        written = 0

        def write_meanwhile(label: str, done: int, total: int | None = None) -> None:
            nonlocal written
            if label == "tables":
                written += 1
                self.app.ok("POST", "/_matrix/client/v3/createRoom", {"name": f"room {written}"}, token)

        target = Path(self.mktemp())
        backup.write(config, engine, target, NOW_MS, write_meanwhile)
        self.assertGreater(written, 10)
        other, other_engine = self.new_target(self.dialect)
        # It checks every invariant.
        backup.restore(other, other_engine, target, quietly)
        self.assertLess(len(contents(other_engine)["rooms"]), 9 + written)

    def test_a_database_in_use_is_left_alone(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        if self.dialect == SQLITE:
            self.refused(config, engine, source, "media is not empty")
            for path in sorted(backup.media_folder(config).rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            self.refused(config, engine, source, "chaos.sqlite3 exists already")
            # Its log without it would be put into the new one.
            config.sqlite_path.rename(config.sqlite_path.with_name("chaos.sqlite3-wal"))
            self.refused(config, engine, source, "chaos.sqlite3-wal exists already")
        else:
            other, _ = self.new_config(config.database)
            other.data_dir.mkdir()
            self.refused(other, engine, source, "the database is not empty")

    def test_media_on_another_disk(self) -> None:
        """A folder that cannot be replaced: a link to one here, where a volume is mounted elsewhere."""
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        other.data_dir.mkdir(exist_ok=True)
        disk, media = Path(self.mktemp()).absolute(), backup.media_folder(other)
        disk.mkdir()
        media.symlink_to(disk)
        backup.restore(other, other_engine, source, quietly)
        self.assertTrue(media.is_symlink())
        found = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
        self.assertEqual(found, ["files", "files/ab", "files/ab/cdef", "files/empty"])

    def test_a_key_without_a_place(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        other.data_dir.mkdir(exist_ok=True)
        keys = other.data_dir / "keys"
        other = replace(other, signing_key_file=keys / "signing.key")
        keys.write_bytes(b"no folder")
        self.broken_off(other, other_engine, source)
        keys.unlink()
        backup.restore(other, other_engine, source, quietly)
        self.assertEqual(other.signing_key_path.read_text(), config.signing_key_path.read_text())

    def test_media_without_a_place(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        in_the_way = backup.media_folder(other) / "files/ab"

        def put_in_the_way(label: str, done: int, total: int | None = None) -> None:
            if label == "checking":
                in_the_way.mkdir(parents=True)

        other.data_dir.mkdir(exist_ok=True)
        before = sorted(other.data_dir.rglob("*"))
        self.broken_off(other, other_engine, source, put_in_the_way)
        in_the_way.rmdir()
        in_the_way.parent.rmdir()
        backup.media_folder(other).rmdir()
        self.assertEqual(sorted(other.data_dir.rglob("*")), before)
        backup.restore(other, other_engine, source, quietly)

    def test_a_database_that_is_not_committed(self) -> None:
        config, engine = self.new_server()
        source = self.write(config, engine)
        other, other_engine = self.new_target(self.dialect)
        other.data_dir.mkdir(exist_ok=True)
        before = sorted(other.data_dir.rglob("*"))
        in_the_way = other.sqlite_path / "x"

        def lose(sql: str) -> None:
            if sql == "COMMIT" and other.signing_key_path.exists():
                raise DatabaseUnavailable("the connection is lost")

        def put_in_the_way(label: str, done: int, total: int | None = None) -> None:
            if label == "checking" and self.dialect == SQLITE:
                in_the_way.mkdir(parents=True)

        other_engine.hook = lose
        error = OSError if self.dialect == SQLITE else OperationError
        with self.assertRaises(error):
            backup.restore(other, other_engine, source, put_in_the_way)
        other_engine.hook = None
        if self.dialect == SQLITE:
            in_the_way.rmdir()
            in_the_way.parent.rmdir()
        self.assertEqual(sorted(other.data_dir.rglob("*")), before)
        backup.restore(other, other_engine, source, quietly)

    def test_a_broken_database_does_not_come_back(self) -> None:
        config, engine = self.new_server()
        source = forged(
            self.write(config, engine), "database/event_json/000000.msgpack", msgspec.msgpack.encode([])
        )
        other, other_engine = self.new_target(self.dialect)
        other.data_dir.mkdir(exist_ok=True)
        self.refused(other, other_engine, source, "holds a broken database")
        if self.dialect == POSTGRESQL:
            self.assertEqual(contents(other_engine)["rooms"], [])
            # And once more, with one that is whole: the attempt has left nothing in the way.
            backup.restore(other, other_engine, self.write(config, engine), quietly)

    def test_large_rows(self) -> None:
        """They were one member a page, which a restore took for damage."""
        config, engine = self.new_server()
        token = self.app.register("zoe")
        for number in range(40):
            path = f"{V3}/user/@zoe:test.example/account_data/x{number:02}"
            self.app.ok("PUT", path, {"a": "x" * 250_000}, token)
        source = self.write(config, engine)
        sizes = {info.name: info.size for info, _ in members_of(source) if info.name.startswith("database/")}
        self.assertLess(max(sizes.values()), backup.CHUNK_BYTES + 300_000)
        self.assertGreater(sum("/account_data/" in name for name in sizes), 2)
        session = engine.reader()
        pages = session.run(lambda tx: [len(page) for page in read_table(tx, "account_data")])
        session.close()
        self.assertLess(max(pages), 20)
        other, other_engine = self.new_target(self.dialect)
        backup.restore(other, other_engine, source, quietly)
        self.assertEqual(contents(engine)["account_data"], contents(other_engine)["account_data"])


def _insert(info: tarfile.TarInfo, members: list[Member]) -> None:
    members.insert(1, (info, b""))


class Files(BackupCase):
    """The file: how it is written, and what is not taken for one."""

    def setUp(self) -> None:
        self.config, self.engine = self.new_server()
        self.source = self.write(self.config, self.engine)

    def rebuilt(self, change: Callable[[list[Member]], None]) -> Path:
        """The backup with other members."""
        members = members_of(self.source)
        change(members)
        return written(Path(self.mktemp()), members)

    def test_only_its_owner_may_read_it(self) -> None:
        self.assertEqual(stat.S_IMODE(self.source.stat().st_mode), 0o600)

    def test_nothing_is_overwritten(self) -> None:
        content = self.source.read_bytes()
        with self.assertRaisesRegex(OperationError, "exists already"):
            backup.write(self.config, self.engine, self.source, NOW_MS, quietly)
        self.assertEqual(self.source.read_bytes(), content)

    def test_an_interrupted_backup_leaves_nothing(self) -> None:
        def interrupt(label: str, done: int, total: int | None = None) -> None:
            raise OperationError("interrupted")

        target = Path(self.mktemp())
        with self.assertRaisesRegex(OperationError, "interrupted"):
            backup.write(self.config, self.engine, target, NOW_MS, interrupt)
        self.assertEqual(list(target.parent.glob(f"{target.name}*")), [])

    def test_what_could_not_be_restored(self) -> None:
        target = Path(self.mktemp())
        for name in ("_CHUNK_MOST", "_SMALL_MOST"):
            with self.subTest(name):
                patched = self.patch(backup, name, 10)
                with self.assertRaisesRegex(OperationError, "could not be restored"):
                    backup.write(self.config, self.engine, target, NOW_MS, quietly)
                patched.restore()
                self.assertEqual(list(target.parent.glob(f"{target.name}*")), [])

    def test_what_cannot_be_backed_up(self) -> None:
        config, engine = self.new_config()
        with self.assertRaisesRegex(OperationError, "no database yet"):
            backup.write(config, engine, Path(self.mktemp()), NOW_MS, quietly)
        self.app.wait(self.app.database.write(check_server_name, "test.example"))
        renamed = replace(self.config, server_name="other.example")
        with self.assertRaisesRegex(OperationError, "belongs to"):
            backup.write(renamed, self.engine, Path(self.mktemp()), NOW_MS, quietly)

    def test_rows_of_the_wrong_width_or_kind(self) -> None:
        config, engine = self.new_config()
        for rows in ([[1]], [], "text", [1, 2], {"a": 1}, [["1", "2"]], [[1, b"2"]], [[1, None]]):
            data = msgspec.msgpack.encode(rows)
            source = forged(self.source, "database/stream/000000.msgpack", data)
            self.refused(config, engine, source, "damaged|broken database")

    def test_another_server_name(self) -> None:
        config, engine = self.new_config(server_name="other.example")
        self.refused(config, engine, self.source, "backup of test.example, and this server is other.example")

    def test_another_key_is_there(self) -> None:
        config, engine = self.new_config()
        write_signing_key(config.signing_key_path, StoredKey("other", b"\x02" * 32))
        self.refused(config, engine, self.source, "is another key")

    def test_the_same_key_is_there(self) -> None:
        config, engine = self.new_config()
        write_signing_key(config.signing_key_path, StoredKey("test", b"\x01" * 32))
        backup.restore(config, engine, self.source, quietly)

    def test_every_truncation_is_found(self) -> None:
        config, engine = self.new_config()
        whole = self.source.read_bytes()
        cut = Path(self.mktemp())
        for length in (
            0,
            1,
            9,
            20,
            *range(1000, len(whole), len(whole) // 12),
            len(whole) - 9,
            len(whole) - 1,
        ):
            cut.write_bytes(whole[:length])
            self.refused(config, engine, cut, "damaged|no backup")

    def test_every_truncated_archive_is_found(self) -> None:
        # The gzip layer is whole here: only the end of the archive is missing.
        config, engine = self.new_config()
        plain = gzip.decompress(self.source.read_bytes())
        cut = Path(self.mktemp())
        for length in range(0, len(plain.rstrip(b"\0")) - 1, 512 * 37):
            cut.write_bytes(gzip.compress(plain[:length]))
            self.refused(config, engine, cut, "damaged|no backup")

    def test_every_flipped_byte_is_found(self) -> None:
        config, engine = self.new_config()
        plain = bytearray(gzip.decompress(self.source.read_bytes()))
        damaged = Path(self.mktemp())
        with tarfile.open(self.source) as archive:
            places = [info.offset_data for info in archive if info.size]
        for place in places[::4]:
            plain[place] ^= 0x40
            damaged.write_bytes(gzip.compress(bytes(plain), 1))
            self.refused(config, engine, damaged, "damaged|no backup|has format|has schema")
            plain[place] ^= 0x40

    def test_names_that_lead_elsewhere(self) -> None:
        config, engine = self.new_config()
        outside = config.data_dir.parent / "escaped"
        for name in (
            "media/../../escaped",
            f"{outside}",
            "media//escaped",
            "media/..\\escaped",
            "../escaped",
            "database/nowhere/000000.msgpack",
            "unknown",
        ):
            info = tarfile.TarInfo(name)
            self.refused(
                config,
                engine,
                self.rebuilt(partial(_insert, info)),
                "unexpected entry",
            )
        self.assertFalse(outside.exists())

    def test_entries_that_are_no_files(self) -> None:
        config, engine = self.new_config()
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("media/files/trap")
            info.type, info.linkname = kind, "/etc/passwd"
            self.refused(
                config,
                engine,
                self.rebuilt(partial(_insert, info)),
                "unexpected entry",
            )

    def test_members_that_the_manifest_does_not_know(self) -> None:
        config, engine = self.new_config()
        info = tarfile.TarInfo("media/files/extra")
        self.refused(
            config,
            engine,
            self.rebuilt(lambda members: members.insert(2, (info, b""))),
            "not what its manifest",
        )
        self.refused(
            config, engine, self.rebuilt(lambda members: members.append((info, b""))), "follows its end"
        )
        self.refused(
            config, engine, self.rebuilt(lambda members: members.insert(2, members[1])), "unexpected entry"
        )
        self.refused(
            config, engine, self.rebuilt(lambda members: members.__delitem__(1)), "not what its manifest"
        )
        self.refused(config, engine, self.rebuilt(lambda members: members.__delitem__(0)), "no backup")

    def test_other_files(self) -> None:
        config, engine = self.new_config()
        other = Path(self.mktemp())
        for content in (b"", b"hello", gzip.compress(b""), gzip.compress(b"hello" * 1000), b"\x1f\x8b\x08"):
            other.write_bytes(content)
            self.refused(config, engine, other, "damaged|no backup")
