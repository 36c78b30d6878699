"""Backup and restore: everything that a server is, in one file.

The file is a gzipped tar: `backup.json` (whose it is), the tables as rows in MessagePack, the media folder (where media
are in a bucket they stay there), the signing key, and at the end `manifest.json` with the size and SHA-256 of each. Rows are the same for both databases, so a backup
of SQLite may be restored into PostgreSQL and the reverse.

Rules:
1. The server may run while a backup is written: tables are read in one snapshot, and media, which are written once and
   before the rows that name them, are copied after it.
2. Both end whole or not at all: a backup gets its name when it is on the disk, and a restored database its place when
   `check_db` finds nothing. Media and key get theirs as the last step of the transaction that holds the rows, and are
   taken back where it fails.
3. A file to be restored is not trusted: sizes are bounded, names cannot leave the media folder, hashes are verified
   before the first byte is used. What would be refused for its size or name is not written either.
4. A restored server gives no position that the one before it may have given after the backup: `skip_positions`.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import msgspec

from homeserver.cli.operations import OperationError, Progress
from homeserver.config.schema import Config
from homeserver.config.signing_key import (
    SigningKeyError,
    create_private_file,
    parse_signing_keys,
    read_signing_keys,
)
from homeserver.db.engine import Engine, SqliteEngine
from homeserver.db.errors import DatabaseError, IntegrityViolation
from homeserver.db.migrate import HEAD, upgrade_engine
from homeserver.db.tx import Row, Tx
from homeserver.media.files import sync_folder
from homeserver.store.changes import skip_positions
from homeserver.store.check import check_db
from homeserver.store.dump import (
    clear_tables,
    column_names,
    insert_rows,
    is_row,
    is_used,
    read_table,
    table_names,
)
from homeserver.store.facts import load_fact

FORMAT: Final = 1
HEAD_NAME: Final = "backup.json"
KEY_NAME: Final = "signing.key"
MANIFEST_NAME: Final = "manifest.json"
CHUNK_BYTES: Final = 4 * 1024 * 1024
_COMPRESSION: Final = 3
# LIMIT(a chunk ends with the row that fills it, of some MiB at most; older programs added a whole page of rows to one)
_CHUNK_MOST: Final = 256 * 1024 * 1024
_MANIFEST_MOST: Final = 512 * 1024 * 1024
_SMALL_MOST: Final = 64 * 1024
_PIECE: Final = 1024 * 1024


class _Head(msgspec.Struct):
    format: int
    server_name: str
    schema: str
    created_ts_ms: int
    database: str
    columns: dict[str, list[str]]
    media: str = "file_system"  # `media.storage`; older programs wrote nothing, and knew nothing else


class _Member(msgspec.Struct, array_like=True):
    size: int
    sha256: str


class _Manifest(msgspec.Struct):
    rows: dict[str, int]
    media_files: int
    members: dict[str, _Member]


def media_folder(config: Config) -> Path:
    """Where the bytes of media are, if they are on this machine."""
    return config.data_dir / "media"


# --- backup --------------------------------------------------------------------------------------


def write(config: Config, engine: Engine, target: Path, now_ms: int, progress: Progress) -> str:
    """Write a backup to a file that does not exist; returns one line that says what is in it."""
    if config.is_sqlite and not config.sqlite_path.exists():
        raise OperationError(f"there is no database yet: {config.sqlite_path}")
    if target.exists():
        raise OperationError(f"{target} exists already")
    unfinished = target.with_name(f"{target.name}.partial")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OperationError(
            f"{unfinished} exists: another backup is at work, or one broke off; remove it"
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=_COMPRESSION) as archive:
                line = _Writer(archive, now_ms, progress).run(config, engine)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return f"{target}: {line}, {_size_text(size)}"


class _Writer:
    """One backup being written."""

    def __init__(self, archive: tarfile.TarFile, now_ms: int, progress: Progress) -> None:
        self._archive = archive
        self._now_ms = now_ms
        self._progress = progress
        self._manifest = _Manifest({}, 0, {})
        self._rows = 0

    def run(self, config: Config, engine: Engine) -> str:
        session = engine.reader()
        try:
            session.run(self._add_database, config, engine.dialect)
        except DatabaseError as error:
            raise OperationError(str(error)) from error
        finally:
            session.close()
        if config.media.s3 is None:
            self._add_media(media_folder(config))
        self._add(KEY_NAME, config.signing_key_path.read_bytes())
        manifest, self._manifest = self._manifest, _Manifest({}, 0, {})
        self._add(MANIFEST_NAME, msgspec.json.encode(manifest))
        return _contents(manifest, config.media.storage)

    def _add_database(self, tx: Tx, config: Config, dialect: str) -> None:
        schema, server_name = load_fact(tx, "schema"), load_fact(tx, "server_name")
        if schema != HEAD:
            raise OperationError(
                f"the database has schema {schema}, this program {HEAD}: run chaos migrate first"
            )
        if server_name not in (None, config.server_name):
            raise OperationError(f"this database belongs to {server_name}, not to {config.server_name}")
        columns = {name: list(column_names(name)) for name in table_names()}
        head = _Head(FORMAT, config.server_name, schema, self._now_ms, dialect, columns, config.media.storage)
        self._add(HEAD_NAME, msgspec.json.encode(head))
        for name in table_names():
            self._add_table(tx, name)

    def _add_table(self, tx: Tx, name: str) -> None:
        rows: list[bytes] = []
        count = size = chunks = 0
        encoder = msgspec.msgpack.Encoder()
        for page in read_table(tx, name):
            for row in map(encoder.encode, page):
                rows.append(row)
                size += len(row)
                if size >= CHUNK_BYTES:
                    self._add_chunk(name, chunks, rows)
                    chunks += 1
                    size = 0
                    rows = []
            count += len(page)
            self._rows += len(page)
            self._progress("tables", self._rows)
        if rows:
            self._add_chunk(name, chunks, rows)
        self._manifest.rows[name] = count

    def _add_chunk(self, name: str, number: int, encoded_rows: list[bytes]) -> None:
        # A MessagePack array with a 32-bit length, put together from rows that are encoded already.
        data = b"\xdd" + len(encoded_rows).to_bytes(4, "big") + b"".join(encoded_rows)
        self._add(f"database/{name}/{number:06}.msgpack", data)

    def _add_media(self, folder: Path) -> None:
        # Thumbnails are made again when they are asked for; what is still coming in is nobody's yet.
        total = sum(len(names) for _, _, names in _walk(folder / "files"))
        for number, path in enumerate(_files(folder / "files"), 1):
            self._progress("media", number, total)
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue  # removed since
            with file:
                name = f"media/{path.relative_to(folder).as_posix()}"
                info = self._info(name, os.fstat(file.fileno()).st_size)
                hashing = _HashingReader(file)
                self._add_member(info, hashing)
                self._manifest.members[name] = _Member(info.size, hashing.hexdigest())
            self._manifest.media_files += 1

    def _add(self, name: str, data: bytes) -> None:
        self._add_member(self._info(name, len(data)), BytesIO(data))
        self._manifest.members[name] = _Member(len(data), sha256(data).hexdigest())

    def _add_member(self, info: tarfile.TarInfo, file: Any) -> None:
        self._archive.addfile(info, file)
        # The archive would remember every member, and there may be millions.
        self._archive.members = []  # type: ignore[attr-defined]

    def _info(self, name: str, size: int) -> tarfile.TarInfo:
        if size > _most(name):
            raise OperationError(
                f"this backup could not be restored: {name[:100]!r}, {size} bytes, would be refused"
            )
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._now_ms // 1000
        return info


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def fail(error: OSError) -> None:
        # A folder that cannot be read must not be missing without a word; one that is gone was empty.
        if not isinstance(error, FileNotFoundError):
            raise error

    return os.walk(folder, onerror=fail)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in order; only those of one folder are in memory at a time."""
    for top, folders, names in _walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(top, name)
            if path.is_file() and not path.is_symlink():
                yield path


class _HashingReader:
    """A file that knows the hash of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


# --- restore -------------------------------------------------------------------------------------


def restore(config: Config, engine: Engine, source: Path, progress: Progress) -> str:
    """Read a backup into an empty database and data folder; returns one line that says what was in it."""
    head, manifest, key = _verify(config, source, progress)
    _check_key(config, key)
    _check_media(config, manifest)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    media = media_folder(config)
    # Within: the folder may be a disk of its own, or a link to one.
    staged_media = media / "restoring"
    if staged_media.exists():
        raise OperationError(
            f"{staged_media} exists: another restore is at work, or one broke off; remove it"
        )
    if media.exists() and any(media.iterdir()):
        raise OperationError(f"{media} is not empty")
    staged_database: Path | None = None
    if config.is_sqlite:
        for suffix in ("", "-wal", "-shm", "-journal"):
            # What a log holds, whose file is gone, SQLite would put into the one that is restored.
            there = config.sqlite_path.with_name(config.sqlite_path.name + suffix)
            if there.exists():
                raise OperationError(f"{there} exists already")
        staged_database = config.sqlite_path.with_name(f"{config.sqlite_path.name}.restoring")
        if staged_database.exists():
            raise OperationError(
                f"{staged_database} exists: another restore is at work, or one broke off; remove it"
            )
        # The file is moved alone, so nothing may be left in a log beside it; and that would take as much space again.
        engine = SqliteEngine(str(staged_database), write_ahead=False)
    try:
        with ExitStack() as taken_back:
            if not media.exists():
                media.mkdir(mode=0o700)
                taken_back.callback(_take_back, media.rmdir)
            staged_media.mkdir(mode=0o700)
            taken_back.callback(shutil.rmtree, staged_media, ignore_errors=True)
            place = partial(_place, config, key, staged_media, taken_back)
            _Reader(source, manifest, staged_media, place, progress).run(engine)
            if staged_database is not None:
                os.replace(staged_database, config.sqlite_path)
                taken_back.callback(_take_back, config.sqlite_path.unlink)
                sync_folder(config.sqlite_path.parent)
            taken_back.pop_all()
        shutil.rmtree(staged_media, ignore_errors=True)
    finally:
        if staged_database is not None:
            for suffix in ("", "-journal"):
                staged_database.with_name(staged_database.name + suffix).unlink(missing_ok=True)
    line = f"restored {head.server_name}: {_contents(manifest, head.media)}"
    if head.media != "file_system" and config.media.s3 is None:
        line += f"; copy what the bucket has under files/ to {media / 'files'}"
    return line


def _contents(manifest: _Manifest, media: str) -> str:
    files = "no media (they are in the bucket)" if media == "s3" else f"{manifest.media_files} media files"
    return f"{sum(manifest.rows.values())} rows, {files} and the signing key"


def _check_media(config: Config, manifest: _Manifest) -> None:
    if manifest.media_files and config.media.s3 is not None:
        raise OperationError(
            f"this backup has {manifest.media_files} media files, and media.storage is s3: restore it with "
            "file_system, copy media/files to the bucket, and change media.storage then"
        )


def _verify(config: Config, source: Path, progress: Progress) -> tuple[_Head, _Manifest, bytes]:
    """Read the whole file once: whether it is a backup of this server, complete and undamaged. With the key in it."""
    found: dict[str, _Member] = {}
    head: _Head | None = None
    manifest: _Manifest | None = None
    key = b""
    for name, size, pieces in _members(source):
        if manifest is not None:
            raise OperationError(f"{source} is damaged: something follows its end")
        if head is None and name != HEAD_NAME:
            raise OperationError(f"{source} is no backup of a CHAOS server")
        progress("verifying", len(found))
        digest, kept = sha256(), bytearray()
        for piece in pieces:
            digest.update(piece)
            if name in (HEAD_NAME, KEY_NAME, MANIFEST_NAME):
                kept += piece
        if name == HEAD_NAME:
            head = _decode(bytes(kept), _Head, source)
            _check_head(config, head)
        if name == KEY_NAME:
            key = bytes(kept)
        if name == MANIFEST_NAME:
            manifest = _decode(bytes(kept), _Manifest, source)
        else:
            found[name] = _Member(size, digest.hexdigest())
    if head is None or manifest is None:
        raise OperationError(f"{source} is damaged: its end is missing")
    if found != manifest.members or KEY_NAME not in found:
        raise OperationError(f"{source} is damaged: its content is not what its manifest says")
    return head, manifest, key


def _check_head(config: Config, head: _Head) -> None:
    if head.format != FORMAT:
        raise OperationError(f"this backup has format {head.format}, and this program knows {FORMAT} only")
    if head.server_name != config.server_name:
        raise OperationError(
            f"this is a backup of {head.server_name}, and this server is {config.server_name}"
        )
    if head.schema != HEAD:
        raise OperationError(
            f"this backup has schema {head.schema}, and this program {HEAD}: restore it with the program that wrote it"
        )
    if head.columns != {name: list(column_names(name)) for name in table_names()}:
        raise OperationError("this backup has other tables than this program")


def _members(source: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and content of each member in turn; OperationError for whatever is wrong with the file."""
    with _readably(source), gzip.open(source) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        seen: set[str] = set()
        while (info := archive.next()) is not None:
            file = archive.extractfile(info) if info.isreg() else None
            if file is None or info.name in seen or info.size > _most(info.name):
                raise OperationError(f"{source} is damaged: unexpected entry {info.name[:100]!r}")
            seen.add(info.name)
            yield info.name, info.size, _pieces(source, file)
            # The archive would remember every member, and there may be millions.
            archive.members = []  # type: ignore[attr-defined]
        # To the end: only there gzip says whether everything has come, and unchanged.
        while rest := plain.read(_PIECE):
            if rest.strip(b"\0"):
                raise OperationError(f"{source} is damaged: something follows its end")


def _pieces(source: Path, file: IO[bytes]) -> Iterator[bytes]:
    with _readably(source):
        while piece := file.read(_PIECE):
            yield piece


@contextmanager
def _readably(source: Path) -> Iterator[None]:
    """What the tar and gzip layers say about a damaged file, as one line."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OperationError(f"{source} is no backup, or damaged: {error}") from error


def _most(name: str) -> int:
    """How large a member may be; -1 for names that are none of ours."""
    parts = name.split("/")
    if name in (HEAD_NAME, KEY_NAME):
        return _SMALL_MOST
    if name == MANIFEST_NAME:
        return _MANIFEST_MOST
    if parts[0] == "database" and len(parts) == 3 and parts[1] in table_names():
        return _CHUNK_MOST
    plain = all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)
    return 1 << 62 if parts[0] == "media" and len(parts) > 1 and plain else -1


class _Reader:
    """One backup, verified, being read into a database and a folder."""

    def __init__(
        self, source: Path, manifest: _Manifest, media: Path, place: Callable[[], None], progress: Progress
    ) -> None:
        self._source = source
        self._manifest = manifest
        self._media = media
        self._place = place
        self._progress = progress

    def run(self, engine: Engine) -> None:
        """Read everything in one transaction, of which it is the last step to ``place`` what is no row."""
        try:
            upgrade_engine(engine)
            session = engine.writer()
            try:
                session.run(self._read)
            finally:
                session.close()
        except IntegrityViolation as error:
            raise OperationError(f"{self._source} is damaged: {error}") from error
        except DatabaseError as error:
            raise OperationError(str(error)) from error

    def _read(self, tx: Tx) -> None:
        if is_used(tx):
            raise OperationError("the database is not empty")
        clear_tables(tx)
        counts = dict.fromkeys(table_names(), 0)
        decoder = msgspec.msgpack.Decoder(list[tuple[Any, ...]])
        for number, (name, _, pieces) in enumerate(_members(self._source), 1):
            self._progress("restoring", number, len(self._manifest.members) + 1)
            digest = sha256()
            if name.startswith("media/"):
                self._write_media(name, pieces, digest)
            else:
                data = b"".join(pieces)
                digest.update(data)
                if name.startswith("database/"):
                    table = name.split("/")[1]
                    counts[table] += self._insert(tx, table, _decode_rows(decoder, data, self._source))
            # Again: between the two passes somebody may have changed the file.
            if name != MANIFEST_NAME and digest.hexdigest() != self._manifest.members[name].sha256:
                raise OperationError(f"{self._source} changed while it was read")
        if counts != self._manifest.rows:
            raise OperationError(
                f"{self._source} is damaged: tables have other numbers of rows than its manifest says"
            )
        self._progress("checking", 0)
        problems = check_db(tx)
        if problems:
            raise OperationError(
                f"the backup holds a broken database ({len(problems)} problems): {problems[0]}"
            )
        skip_positions(tx)
        # All that may fail without a fault of the database: rows that were committed could not be taken back.
        self._place()

    def _insert(self, tx: Tx, table: str, values: list[Row]) -> int:
        if not all(is_row(table, row) for row in values):
            raise OperationError(f"{self._source} is damaged: {table} holds what is no row of it")
        insert_rows(tx, table, values)
        return len(values)

    def _write_media(self, name: str, pieces: Iterator[bytes], digest: Any) -> None:
        path = self._media.joinpath(*PurePosixPath(name).parts[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _check_key(config: Config, key: bytes) -> None:
    """The backup's key is one, and where there is a key already it is the same."""
    path = config.signing_key_path
    try:
        wanted = parse_signing_keys(key.decode("ascii"), "the backup's signing key")
        if path.exists() and read_signing_keys(path) != wanted:
            raise OperationError(f"{path} exists already and is another key than that of the backup")
    except (SigningKeyError, UnicodeDecodeError) as error:
        raise OperationError(str(error)) from error


def _place(config: Config, key: bytes, staged_media: Path, taken_back: ExitStack) -> None:
    """Put the signing key where the configuration says, and media where they belong; and note how to undo it."""
    path = config.signing_key_path
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_private_file(path, key.decode("ascii"))
        taken_back.callback(_take_back, path.unlink)
    for staged in sorted(staged_media.iterdir()):
        placed = staged_media.parent / staged.name
        os.replace(staged, placed)
        taken_back.callback(_take_back, partial(os.replace, placed, staged))
    for folder in (path.parent, staged_media.parent):
        sync_folder(folder)


def _take_back(step: Callable[[], None]) -> None:
    """Undo one thing. Where that fails too, it is the first failure that is told."""
    with suppress(OSError):
        step()


def _decode(data: bytes, kind: Any, source: Path) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationError(f"{source} is damaged: {error}") from error


def _decode_rows(decoder: Any, data: bytes, source: Path) -> list[Row]:
    try:
        rows: list[Row] = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise OperationError(f"{source} is damaged: {error}") from error
    return rows


def _size_text(size: int) -> str:
    number, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
