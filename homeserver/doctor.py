"""`chaos doctor`: looks at everything that commonly goes wrong, before the first start and while the server runs.

Rules: 1. it changes nothing (a file that it writes to see whether it can, it takes away again); 2. nothing that it
waits for can hang: whatever asks the network or the resolver has a time limit; 3. a check that fails itself is a
finding and keeps no other from being made.
"""

from __future__ import annotations

import errno
import http.client
import os
import resource
import shutil
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from OpenSSL import crypto

from homeserver.cli.operations import Finding, Surroundings
from homeserver.composition.core import RunInThread
from homeserver.config.files import listener_files, network_file_problems
from homeserver.config.schema import Config, Listener, TlsFiles
from homeserver.config.signing_key import SigningKeyError, read_signing_keys
from homeserver.db.engine import Engine
from homeserver.db.migrate import HEAD
from homeserver.oauth.metadata import KEYS
from homeserver.runtime.clock import Clock
from homeserver.store.soundness import look_at_database

PATIENCE_S: Final = 5.0
MIB: Final = 1024 * 1024
_FULL_BYTES, _NEARLY_FULL_BYTES = 200 * MIB, 1024 * MIB
_FILES_WANTED: Final = 4096
_EXPIRES_SOON_DAYS: Final = 21
_FIRST_YEAR: Final = 2026
_ANSWER_MOST: Final = 65_536
_TAKEN: Final = "taken"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (addresses that are looked up, not listened on)

Check = Callable[[], Iterator[Finding]]


async def diagnose(
    config: Config, engine: Engine, around: Surroundings, run_in_thread: RunInThread
) -> list[Finding]:
    """Every finding, in the order in which a person would look."""
    doctor = Doctor(config, engine, around.clock)
    findings: list[Finding] = await run_in_thread(doctor.examine)
    return findings


class Doctor:
    """One examination. Its methods block."""

    def __init__(self, config: Config, engine: Engine, clock: Clock) -> None:
        self._config = config
        self._engine = engine
        self._clock = clock

    def examine(self) -> list[Finding]:
        """Run every check."""
        checks: list[tuple[str, Check]] = [
            ("configuration", self._configuration),
            ("Python", self._python),
            ("data folder", self._data_folder),
            ("signing key", self._signing_key),
            ("disk", self._disk),
            ("database", self._database),
            ("clock", self._time),
            ("open files", self._open_files),
            ("listeners", self._listeners),
            ("certificates", self._certificates),
            ("public address", self._public_address),
        ]
        findings: list[Finding] = []
        for subject, check in checks:
            try:
                findings.extend(check())
            except Exception as error:  # noqa: BLE001 (rule 3: whatever it is, the administrator wants to know)
                findings.append(Finding("error", subject, _one_line(error)))
        return findings

    # --- this machine ----------------------------------------------------------------------------

    def _configuration(self) -> Iterator[Finding]:
        config = self._config
        yield Finding(
            "ok", "configuration", f"server name {config.server_name}, public address {config.base_url}"
        )
        if config.registration.mode == "open" and not _is_local(config.base_url):
            yield Finding(
                "warning", "registration", "anybody may make an account: spammers will; consider mode: token"
            )
        if not config.rate_limits.enabled and not _is_local(config.base_url):
            yield Finding("warning", "rate limits", "are off: fit for tests only")
        if config.redis is not None:
            yield Finding("warning", "redis", "configured, but not used yet")

        hidden = [one for one in config.listeners if _has_nameless_clients(one)]
        if hidden and config.base_url.startswith("https:") and not _is_local(config.base_url):
            yield Finding(
                "warning",
                "proxy",
                f"behind it all clients of port {hidden[0].port} seem to have one address, and share its rate limits: "
                "set trust_forwarded_for, and have the proxy send X-Forwarded-For",
            )

    def _python(self) -> Iterator[Finding]:
        version = ".".join(map(str, sys.version_info[:3]))
        known = (3, 11) <= sys.version_info[:2] <= (3, 13)
        yield Finding(
            "ok" if known else "warning",
            "Python",
            version if known else f"{version} is not tested: take 3.11 to 3.13",
        )

    def _data_folder(self) -> Iterator[Finding]:
        folder = self._config.data_dir
        whole = folder.absolute()
        parent = next((one for one in (whole, *whole.parents) if one.exists()), Path("/"))
        if not parent.is_dir():
            yield Finding("error", "data folder", f"{parent} is no folder")
            return
        if not folder.is_dir():
            able = os.access(parent, os.W_OK | os.X_OK)
            detail = f"{folder} is not there yet" + (
                "; the first start makes it" if able else f", and {parent} is not ours to write"
            )
            yield Finding("warning" if able else "error", "data folder", detail)
            return
        probe = folder / f".doctor-{os.getpid()}"
        try:
            probe.touch(mode=0o600, exist_ok=False)
            probe.unlink()
        except OSError as error:
            yield Finding("error", "data folder", f"cannot write to {folder}: {error.strerror or error}")
            return
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            yield Finding("warning", "data folder", f"{folder} is open to others on this machine: chmod 700")
        else:
            yield Finding("ok", "data folder", f"{folder} can be written")

    def _signing_key(self) -> Iterator[Finding]:
        path = self._config.signing_key_path
        if not path.exists():
            level = self._config.signing_key_file is None
            detail = f"{path} is not there" + (" yet; the first start makes it" if level else "")
            yield Finding("warning" if level else "error", "signing key", detail)
            return
        try:
            key = read_signing_keys(path)[0]
        except SigningKeyError as error:
            yield Finding("error", "signing key", _one_line(error))
            return
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("error", "signing key", f"{path} can be read by others on this machine: chmod 600")
        else:
            yield Finding("ok", "signing key", f"{key.key_id}; keep a copy, it cannot be made again")

    def _disk(self) -> Iterator[Finding]:
        folder = self._config.data_dir.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        level: Any = "error" if free < _FULL_BYTES else "warning" if free < _NEARLY_FULL_BYTES else "ok"
        yield Finding(level, "disk", f"{free // MIB} MiB free for {self._config.data_dir}")

    def _database(self) -> Iterator[Finding]:
        config = self._config
        if config.is_sqlite and not config.sqlite_path.exists():
            yield Finding(
                "warning", "database", f"{config.sqlite_path} is not there yet; the first start makes it"
            )
            return
        session = self._engine.reader()
        try:
            found = session.run(look_at_database)
        finally:
            session.close()
        kind = "SQLite" if config.is_sqlite else "PostgreSQL"
        if found.server_name not in (None, config.server_name):
            yield Finding(
                "error", "database", f"it belongs to {found.server_name}, not to {config.server_name}"
            )
        elif found.schema is None or found.schema > HEAD:
            yield Finding("error", "database", f"it has schema {found.schema}, and this program knows {HEAD}")
        elif found.schema < HEAD:
            yield Finding(
                "warning", "database", f"it has schema {found.schema}; the next start upgrades it to {HEAD}"
            )
        else:
            yield Finding("ok", "database", f"{kind} answers, its schema is current ({HEAD})")
        for worry in found.worries:
            yield Finding("warning", "database", worry)

    def _time(self) -> Iterator[Finding]:
        now_s = self._clock.seconds()
        moment = datetime.fromtimestamp(now_s, tz=UTC)
        path = self._config.sqlite_path
        if moment.year < _FIRST_YEAR:
            yield Finding(
                "error",
                "clock",
                f"says {moment:%Y-%m-%d %H:%M} UTC, which is past: other servers will refuse us",
            )
        elif self._config.is_sqlite and path.exists() and path.stat().st_mtime > now_s + 60:
            yield Finding(
                "error",
                "clock",
                f"says {moment:%Y-%m-%d %H:%M} UTC, but the database was written later: it went back",
            )
        else:
            yield Finding("ok", "clock", f"{moment:%Y-%m-%d %H:%M} UTC")

    def _open_files(self) -> Iterator[Finding]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= _FILES_WANTED:
            yield Finding(
                "ok", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}"
            )
        else:
            yield Finding(
                "warning",
                "open files",
                f"at most {soft}, each connection takes one: raise it (ulimit -n, LimitNOFILE) to {min(65_536, hard) if hard > 0 else 65_536}",
            )

    # --- the network -----------------------------------------------------------------------------

    def _listeners(self) -> Iterator[Finding]:
        taken: list[tuple[Listener, bool]] = []  # and whether our server answers there
        for listener in self._config.listeners:
            name = f"port {listener.port}"
            problem = _try_to_bind(listener)
            if not problem:
                yield Finding("ok", name, f"free on {listener.bind}")
            elif problem == _TAKEN:
                taken.append((listener, self._is_ours(listener)))
            else:
                yield Finding("error", name, f"cannot listen on {listener.bind}: {problem}")
        running = any(answers for _, answers in taken)
        for listener, answers in taken:
            detail = "our server answers" if answers else "taken; our server runs, so by it"
            if running and listener.tls is not None and not _serves_file(listener, listener.tls):
                detail = f"serves another certificate than {listener.tls.certificate_file}: SIGHUP has it read again"
                yield Finding("error", f"port {listener.port}", detail)
            elif running:
                yield Finding("ok", f"port {listener.port}", detail)
            else:
                yield Finding(
                    "error", f"port {listener.port}", f"{listener.bind} is taken by another program"
                )

    def _is_ours(self, listener: Listener) -> bool:
        if "health" not in listener.serve:
            return False
        host, secure = _ANYWHERE.get(listener.bind, listener.bind), listener.tls is not None
        try:
            status, answer = _get(host, listener.port, "/_chaos/health", _trusting() if secure else None)
            said = msgspec.json.decode(answer, type=dict[str, Any])
            # One that was started before an upgrade may not tell its name.
            is_named = said.get("server_name", self._config.server_name) == self._config.server_name
            return status in (200, 503) and "position" in said and is_named
        except (OSError, http.client.HTTPException, ValueError, msgspec.DecodeError):
            return False

    def _certificates(self) -> Iterator[Finding]:
        problems = network_file_problems(self._config)
        for key, reason in problems.items():
            yield Finding("error", key, " ".join(reason.split()))
        usable = {tls for key, tls in listener_files(self._config).items() if key not in problems}
        for tls in sorted(usable, key=lambda one: str(one.certificate_file)):
            yield self._certificate(tls)

    def _certificate(self, tls: TlsFiles) -> Finding:
        subject = f"certificate {tls.certificate_file}"
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, tls.certificate_file.read_bytes())
        text = (certificate.get_notAfter() or b"").decode("ascii")
        until = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        left_s = until.timestamp() - self._clock.seconds()
        days = int(left_s // 86_400)
        if left_s < 0:
            return Finding("error", subject, f"expired on {until:%Y-%m-%d}")
        level: Any = "warning" if days < _EXPIRES_SOON_DAYS else "ok"
        return Finding(level, subject, f"valid until {until:%Y-%m-%d}, {days} days")

    def _public_address(self) -> Iterator[Finding]:
        url = self._config.base_url
        if _is_local(url):
            yield Finding("ok", "public address", f"{url} is for this machine only")
            return
        outcome = _within(2 * PATIENCE_S, lambda: _ask_public(url))
        if isinstance(outcome, str):
            yield Finding("warning", "public address", f"{url}: {outcome}")
        else:
            yield Finding("ok", "public address", f"{url} answers clients")
            if self._config.has_oauth:
                yield self._sign_in_pages(url)

    def _sign_in_pages(self, url: str) -> Finding:
        said = _within(2 * PATIENCE_S, lambda: _ask_sign_in(url))
        if said is None:
            return Finding("ok", "sign-in pages", f"{url}/oauth2/ answers")
        hint = "apps log people in there: let the proxy pass /oauth2/ and /account/ on, or turn oauth off"
        return Finding("warning", "sign-in pages", f"{url}/oauth2/: {said}; {hint}")


# --- asking ----------------------------------------------------------------------------------------


def _try_to_bind(listener: Listener) -> str:
    """Nothing where the port is free, `_TAKEN` where somebody has it, else what is wrong."""
    family = socket.AF_INET6 if ":" in listener.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.bind, listener.port))
            probe.listen(1)
        except OSError as error:
            return _TAKEN if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ""


def _serves_file(listener: Listener, tls: TlsFiles) -> bool:
    """Whether a port gives the certificate that is in the file now. True where nobody can say."""
    address = _ANYWHERE.get(listener.bind, listener.bind), listener.port
    try:
        ours = crypto.load_certificate(crypto.FILETYPE_PEM, tls.certificate_file.read_bytes())
        with (
            socket.create_connection(address, PATIENCE_S) as plain,
            _trusting().wrap_socket(plain) as connection,
        ):
            served = connection.getpeercert(binary_form=True)
    except (OSError, crypto.Error):
        return True  # told elsewhere
    return served == crypto.dump_certificate(crypto.FILETYPE_ASN1, ours)


def _ask_public(url: str) -> str | None:
    """None where a client from outside would find its way, else what is wrong."""
    return _ask_json(url, "/_matrix/client/versions", lambda answer: isinstance(answer.get("versions"), list))


def _ask_sign_in(url: str) -> str | None:
    """The same of where apps log people in."""
    return _ask_json(url, KEYS, lambda answer: isinstance(answer.get("keys"), list))


def _ask_json(url: str, path: str, is_ours: Callable[[Any], bool]) -> str | None:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    try:
        socket.getaddrinfo(host, port)
    except OSError:
        return f"the name {host} does not resolve"
    context = ssl.create_default_context() if secure else None
    try:
        status, answer = _get(host, port, f"{parts.path}{path}", context)
    except ssl.SSLError as error:
        return f"TLS: {_one_line(error)}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {_one_line(error)}"
    try:
        fine = status == 200 and is_ours(msgspec.json.decode(answer))
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        fine = False
    return None if fine else f"answers, but not as a Matrix server (status {status})"


def _get(host: str, port: int, path: str, context: ssl.SSLContext | None) -> tuple[int, bytes]:
    connection = (
        http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
    )
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(_ANSWER_MOST)
    finally:
        connection.close()


def _trusting() -> ssl.SSLContext:
    """For asking ourselves: over loopback no certificate has the right name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _within(limit_s: float, work: Callable[[], str | None]) -> str | None:
    """What `work` says, or that it took too long; then its thread is left to itself."""
    results: list[str | None] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return results[0] if results else f"no answer within {limit_s:.0f} s"


def _has_nameless_clients(listener: Listener) -> bool:
    """Whether only a proxy can bring clients here, and is not asked who they are."""
    return (
        _is_loopback(listener.bind)
        and listener.tls is None
        and "client" in listener.serve
        and not listener.trust_forwarded_for
    )


def _is_local(url: str) -> bool:
    return _is_loopback(urlsplit(url).hostname or "")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
