"""`chaos doctor`: each thing that commonly goes wrong is found, and what is right is not complained about."""

from __future__ import annotations

import resource
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

from OpenSSL import crypto
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from federation.flows.discovery import Endpoint, Location, WellKnown
from federation.ids import ServerName
from homeserver import doctor
from homeserver.cli.operations import Finding
from homeserver.composition.reached import PATIENCE_S, examine_way_in
from homeserver.config.schema import Config, Federation, Listener, Outbound, Registration, Switch, TlsFiles
from homeserver.config.signing_key import StoredKey, write_signing_key
from homeserver.db.engine import SqliteEngine
from homeserver.db.migrate import upgrade_engine
from homeserver.doctor import Doctor
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from homeserver.runtime.clock import TwistedClock
from homeserver.store.facts import check_server_name, store_fact
from tests.support.ports import take_port

# 2026-07-01, and a year's worth of certificate before and after.
OURS = b'{"status": "ok", "position": 1, "server_name": "test.example"}'
NOW_S = 1_782_864_000.0


class DoctorCase(SynchronousTestCase):
    """A healthy server that is not running."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.config = Config(
            server_name="test.example",
            public_url="http://localhost:8008",
            data_dir=self.folder / "data",
            listeners=(Listener(0),),
        )
        self.config.data_dir.mkdir(mode=0o700, parents=True)
        write_signing_key(self.config.signing_key_path, StoredKey("a", b"\x01" * 32))
        self.engine = SqliteEngine(str(self.config.sqlite_path))
        upgrade_engine(self.engine)
        self.time = Clock()
        self.time.rightNow = max(NOW_S, self.config.sqlite_path.stat().st_mtime)
        session = self.engine.writer()
        session.run(check_server_name, "test.example")
        session.close()

    def findings(self, config: Config | None = None) -> dict[str, Finding]:
        """The worst finding of each subject."""
        found: dict[str, Finding] = {}
        rank = ("ok", "warning", "error")
        for one in Doctor(config or self.config, self.engine, TwistedClock(self.time)).examine():
            worst = found.get(one.subject)
            if worst is None or rank.index(one.level) > rank.index(worst.level):
                found[one.subject] = one
            self.assertNotIn("\n", one.detail)
        return found

    def check(self, level: str, subject: str, text: str, config: Config | None = None) -> None:
        finding = self.findings(config)[subject]
        self.assertEqual(finding.level, level, finding)
        self.assertIn(text, finding.detail)


class ThisMachine(DoctorCase):
    def test_all_is_well(self) -> None:
        self.patch(resource, "getrlimit", lambda _: (65_536, 65_536))
        wrong = [one for one in self.findings().values() if one.level != "ok" and one.subject != "disk"]
        self.assertEqual(wrong, [])
        self.assertEqual(list(self.config.data_dir.glob(".doctor*")), [])

    def test_before_the_first_start(self) -> None:
        config = replace(self.config, data_dir=self.folder / "new" / "data")
        for subject in ("data folder", "signing key", "database"):
            self.check("warning", subject, "not there yet", config)
        self.assertFalse(config.data_dir.exists())

    def test_data_folder(self) -> None:
        self.check("ok", "data folder", "can be written")
        for mode in (0o750, 0o701, 0o755):
            self.config.data_dir.chmod(mode)
            self.check("warning", "data folder", "chmod 700")

    def test_a_file_where_the_data_folder_should_be(self) -> None:
        file = self.folder / "file"
        file.write_text("")
        for folder in (file, file / "data"):
            self.check("error", "data folder", f"{file} is no folder", replace(self.config, data_dir=folder))

    def test_signing_key(self) -> None:
        path = self.config.signing_key_path
        path.chmod(0o640)
        self.check("error", "signing key", "can be read by others")
        path.chmod(0o600)
        path.write_text("nonsense")
        self.check("error", "signing key", "ed25519")
        self.check(
            "error",
            "signing key",
            "is not there",
            replace(self.config, signing_key_file=self.folder / "typo"),
        )

    def test_disk(self) -> None:
        for free, level in ((100, "error"), (500, "warning"), (5000, "ok")):
            usage = mock.Mock(free=free * 1024 * 1024)
            self.patch(shutil, "disk_usage", lambda _, usage=usage: usage)
            self.check(level, "disk", f"{free} MiB free")

    def test_database(self) -> None:
        self.check("ok", "database", "SQLite answers")
        other = replace(self.config, server_name="other.example")
        self.check("error", "database", "belongs to test.example", other)
        self.check_schema("9999", "error", "9999")
        self.check_schema("0000", "warning", "the next start upgrades it")
        self.config.sqlite_path.write_bytes(b"this is no database at all" * 100)
        self.assertEqual(self.findings()["database"].level, "error")

    def check_schema(self, revision: str, level: str, text: str) -> None:
        session = self.engine.writer()
        session.run(store_fact, "schema", revision)
        session.close()
        self.check(level, "database", text)

    def test_a_database_that_may_forget(self) -> None:
        self.engine = SqliteEngine(str(self.config.sqlite_path), power_loss_safe=False)
        self.check("warning", "database", "lost with the power")

    def test_clock(self) -> None:
        self.time.rightNow = 0.0
        self.check("error", "clock", "1970-01-01")
        self.time.rightNow = max(NOW_S, self.config.sqlite_path.stat().st_mtime) - 3600
        if self.time.rightNow > NOW_S:
            self.check("error", "clock", "went back")

    def test_open_files(self) -> None:
        for soft, level in ((256, "warning"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")):
            self.patch(resource, "getrlimit", lambda _, soft=soft: (soft, 1_048_576))
            self.assertEqual(self.findings()["open files"].level, level)

    def test_open_registration_on_the_internet(self) -> None:
        config = replace(
            self.config, public_url="https://test.invalid", registration=Registration(mode="open")
        )
        self.patch(doctor, "_ask_public", lambda url: None)
        self.check("warning", "registration", "spammers", config)

    def test_a_key_that_nothing_uses_yet(self) -> None:
        self.assertNotIn("redis", self.findings())
        self.check("warning", "redis", "not used yet", replace(self.config, redis="redis://h"))

    def test_a_check_that_fails_keeps_no_other(self) -> None:
        def broken(_: object) -> Iterator[Finding]:
            raise OSError("the disk says no")

        self.patch(Doctor, "_disk", broken)
        found = self.findings()
        self.assertEqual(found["disk"], Finding("error", "disk", "the disk says no"))
        self.assertIn("public address", found)


class FakeWay:
    """To a server that is at a place, or whose search never ends; nobody there where there is no answer."""

    def __init__(self, location: Location | None, answer: PeerResponse | None) -> None:
        self.location = location
        self.answer = answer

    async def locate(self, _: ServerName) -> Location:
        return await Deferred() if self.location is None else self.location

    def send(self, _: PeerRequest) -> Deferred[PeerResponse]:
        return fail(Unreachable("connection refused")) if self.answer is None else succeed(self.answer)


class Network(DoctorCase):
    def listen(self, answer: bytes, status: int = 200, tls: TlsFiles | None = None) -> int:
        """A web server that says the same to everybody."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate_file, tls.private_key_file)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return server.server_port

    def test_a_renewed_certificate_that_is_not_served(self) -> None:
        tls = self.certificate(90)
        port = self.listen(OURS, tls=tls)
        config = replace(self.config, listeners=(Listener(port, tls=tls),))
        self.check("ok", f"port {port}", "our server answers", config)
        self.certificate(91)
        self.check("error", f"port {port}", f"another certificate than {tls.certificate_file}", config)
        # Nor where nothing there says whose port it is, while our server answers elsewhere.
        here, there = Listener(self.listen(OURS)), Listener(port, serve=("federation",), tls=tls)
        config = replace(self.config, listeners=(here, there))
        self.check("error", f"port {port}", "another certificate", config)

    def test_a_proxy_that_is_not_asked_who_its_clients_are(self) -> None:
        config = replace(self.config, public_url="https://test.invalid")
        self.patch(doctor, "_ask_public", lambda url: None)
        self.patch(doctor, "_ask_sign_in", lambda url: None)
        self.check("warning", "proxy", "trust_forwarded_for", config)
        for listener in (
            Listener(0, trust_forwarded_for=True),
            Listener(0, bind="0.0.0.0"),
            Listener(0, serve=("federation",)),
        ):
            self.assertNotIn("proxy", self.findings(replace(config, listeners=(listener,))))
        self.assertNotIn("proxy", self.findings())

    def test_the_way_in(self) -> None:
        found = Location(
            (Endpoint("chat.example", 443, "chat.example", "chat.example"),),
            1,
            WellKnown(ServerName("chat.example:443"), 1, 1),
        )
        nowhere = Location((Endpoint("test.example", 8448, "a", "a"),), 1, WellKnown(None, 1, 1, 1))
        ours, other = b'{"server_name": "test.example"}', b'{"server_name": "other.example"}'
        for location, answer, level, words in (
            (found, PeerResponse(200, ours), "ok", "well-known/matrix/server says chat.example:443"),
            (found, PeerResponse(200, other), "warning", "other.example answers there"),
            (found, PeerResponse(404, b"{}"), "warning", "status 404"),
            (found, PeerResponse(200, b"<html>"), "warning", "not answered as by a Matrix server"),
            (nowhere, None, "warning", "test.example port 8448 (https://test.example/.well-known"),
            (None, None, "warning", "no answer within"),
        ):
            asked = Deferred.fromCoroutine(
                examine_way_in(self.config, FakeWay(location, answer), TwistedClock(self.time))
            )
            self.time.advance(PATIENCE_S)
            (finding,) = self.successResultOf(asked)
            self.assertEqual((finding.level, finding.subject), (level, "federation"))
            self.assertIn(words, finding.detail)

    def test_no_way_in_is_wanted(self) -> None:
        for config in (
            replace(self.config, server_name="localhost"),
            replace(self.config, server_name="127.0.0.1:8448"),
            replace(self.config, federation=Federation(enabled=False)),
        ):
            asked = Deferred.fromCoroutine(
                examine_way_in(config, FakeWay(None, None), TwistedClock(self.time))
            )
            self.assertEqual(self.successResultOf(asked), [])

    def test_free_ports(self) -> None:
        port = take_port()
        self.check("ok", f"port {port}", "free", replace(self.config, listeners=(Listener(port),)))

    def test_our_own_server_has_it(self) -> None:
        for answer in (OURS, b'{"status": "ok", "position": 1}'):
            port = self.listen(answer)
            config = replace(self.config, listeners=(Listener(port),))
            self.check("ok", f"port {port}", "our server answers", config)

    def test_somebody_else_has_it(self) -> None:
        other = OURS.replace(b"test.example", b"other.example")
        for answer in (b"", b"[]", b"hello", b"\xff", b"7", b'{"status": "ok"}', other):
            port = self.listen(answer)
            config = replace(self.config, listeners=(Listener(port),))
            self.check("error", f"port {port}", "taken by another program", config)

    def test_an_address_that_is_not_ours(self) -> None:
        config = replace(self.config, listeners=(Listener(8008, bind="192.0.2.1"),))
        self.check("error", "port 8008", "cannot listen on 192.0.2.1", config)

    def test_certificates(self) -> None:
        for days, level, text in (
            (-1, "error", "expired"),
            (10, "warning", "days"),
            (90, "ok", "valid until"),
        ):
            tls = self.certificate(days)
            config = replace(self.config, listeners=(Listener(0, tls=tls),))
            self.check(level, f"certificate {tls.certificate_file}", text, config)

    def test_files_that_cannot_be_used(self) -> None:
        tls = self.certificate(90)
        missing = TlsFiles(self.folder / "none.pem", tls.private_key_file)
        config = replace(
            self.config,
            listeners=(Listener(0, tls=missing), Listener(0, tls=tls)),
            outbound=Outbound(ca_file=self.folder / "none"),
        )
        self.check("error", "listeners[0].tls", "No such file", config)
        self.check("error", "outbound.ca_file", "no usable certificate authority", config)
        self.check("ok", f"certificate {tls.certificate_file}", "valid until", config)

    def certificate(self, days: int) -> TlsFiles:
        key = crypto.PKey()
        key.generate_key(crypto.TYPE_RSA, 2048)
        made = crypto.X509()
        made.get_subject().CN = "test.example"
        made.set_issuer(made.get_subject())
        made.set_pubkey(key)
        until = datetime.fromtimestamp(self.time.seconds() + days * 86_400 + 60, tz=UTC)
        made.set_notBefore(b"20200101000000Z")
        made.set_notAfter(f"{until:%Y%m%d%H%M%SZ}".encode())
        made.sign(key, "sha256")
        files = TlsFiles(self.folder / "tls.pem", self.folder / "tls.key")
        files.certificate_file.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, made))
        files.private_key_file.write_bytes(crypto.dump_privatekey(crypto.FILETYPE_PEM, key))
        return files

    def test_public_address(self) -> None:
        port = self.listen(b'{"versions": []}')
        self.assertIsNone(doctor._ask_public(f"http://127.0.0.1:{port}"))
        for answer, status in ((b"{}", 200), (b"hello", 200), (b'{"versions": []}', 502), (b"[]", 200)):
            said = doctor._ask_public(f"http://127.0.0.1:{self.listen(answer, status)}")
            self.assertIn("not as a Matrix server", str(said))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            said = doctor._ask_public(f"http://127.0.0.1:{probe.getsockname()[1]}")
        self.assertIn("no answer", str(said))
        said = doctor._ask_public(f"https://127.0.0.1:{self.listen(b'')}")
        self.assertRegex(str(said), "TLS|no answer")

    def test_sign_in_pages(self) -> None:
        port = self.listen(b'{"keys": []}')
        self.assertIsNone(doctor._ask_sign_in(f"http://127.0.0.1:{port}"))
        said = doctor._ask_sign_in(f"http://127.0.0.1:{self.listen(b'<html>', 404)}")
        self.assertIn("not as a Matrix server (status 404)", str(said))
        config = replace(self.config, public_url="https://test.invalid")
        self.patch(doctor, "_ask_public", lambda url: None)
        for answer, level, words in (("no answer", "warning", "let the proxy pass"), (None, "ok", "answers")):
            self.patch(doctor, "_ask_sign_in", lambda url, answer=answer: answer)
            self.check(level, "sign-in pages", words, config)
        # Nobody is led there.
        for other in (
            replace(config, oauth=Switch(enabled=False)),
            replace(config, public_url="https://test.invalid/chat"),
        ):
            self.assertNotIn("sign-in pages", self.findings(other))

    def test_a_name_that_does_not_resolve(self) -> None:
        def nobody(*_: Any) -> Any:
            raise socket.gaierror("no")

        self.patch(socket, "getaddrinfo", nobody)
        config = replace(self.config, public_url="https://gone.invalid")
        self.check("warning", "public address", "does not resolve", config)

    def test_a_resolver_that_hangs_is_not_waited_for(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)
        said = doctor._within(0.01, lambda: str(release.wait()))
        self.assertIn("no answer within", str(said))

    def test_we_trust_ourselves_over_loopback(self) -> None:
        self.assertEqual(doctor._trusting().verify_mode, ssl.CERT_NONE)
