"""The server: its cap, its end, connections that become something else, and real sockets with and without TLS."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from homeserver.composition.listening import Listeners
from homeserver.config.schema import Listener, TlsFiles
from homeserver.http.limits import HttpLimits
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.server import GOODBYE_S, GRACE_S
from homeserver.http.tls import secured, server_context
from homeserver.runtime.process import STOP_WITHIN_S
from tests.unit.http.support import Connection, Site, get, post, read_replies

reactor: Any = installed_reactor


class CapTests(SynchronousTestCase):
    def test_no_more_connections_than_the_cap(self) -> None:
        site = Site(HttpLimits(max_connections=2))
        first, _ = site.connect(), site.connect()
        with self.assertRaises(ConnectionRefusedError):
            site.connect()
        first.lose()
        site.connect().send(get())
        self.assertEqual(site.server.connection_count, 2)


class StopTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.site = Site()

    def finish(self, *connections: Connection) -> None:
        """What a transport does once everything is written."""
        for connection in connections:
            self.assertTrue(connection.wire.disconnecting)
            connection.lose()

    def test_without_connections_it_is_at_once(self) -> None:
        self.successResultOf(self.site.server.stop())
        self.successResultOf(self.site.server.stop())
        with self.assertRaises(ConnectionRefusedError):
            self.site.connect()

    def test_ports_are_closed_first(self) -> None:
        class Port:
            stopped = False

            def stopListening(self) -> None:
                self.stopped = True

        port = Port()
        self.site.server.add_port(port)
        self.successResultOf(self.site.server.stop())
        self.assertTrue(port.stopped)

    def test_idle_connections_close_and_busy_ones_finish(self) -> None:
        idle, busy = self.site.connect(), self.site.connect()
        idle.send(get())
        busy.send(get("/wait") + get("/echo?queued"))
        stopped = self.site.server.stop()
        self.finish(idle)
        self.assertFalse(busy.is_closing)
        self.assertNoResult(stopped)
        self.site.handlers.waiting[0].callback({})
        replies = busy.replies()
        self.assertEqual([reply.status for reply in replies], [200, 200])
        self.assertNotIn(b"connection", replies[0].headers)
        self.assertEqual(replies[1].headers[b"connection"], b"close")
        self.finish(busy)
        self.successResultOf(stopped)
        self.assertEqual(self.site.time.getDelayedCalls(), [])

    def test_a_request_that_is_arriving_may_arrive(self) -> None:
        connection = self.site.connect()
        data = post(b"abc")
        connection.send(data[:-1])
        stopped = self.site.server.stop()
        connection.send(data[-1:])
        self.assertEqual([reply.status for reply in connection.replies()], [200])
        self.finish(connection)
        self.successResultOf(stopped)

    def test_long_polls_are_cut_short(self) -> None:
        connection = self.site.connect()
        connection.send(get("/poll"))
        stopped = self.site.server.stop()
        self.assertEqual([reply.status for reply in connection.replies()], [503])
        self.finish(connection)
        self.successResultOf(stopped)
        self.assertEqual(self.site.failures, [])

    def test_a_long_poll_that_begins_after_the_stop_is_cut_short_too(self) -> None:
        connection = self.site.connect()
        connection.send(get("/wait") + get("/poll"))
        self.site.server.stop()
        self.site.handlers.waiting[0].callback({})
        self.assertEqual([reply.status for reply in connection.replies()], [200, 503])
        self.finish(connection)

    def test_what_is_not_done_in_time_is_cut_off(self) -> None:
        connection = self.site.connect()
        connection.send(get("/wait"))
        stopped = self.site.server.stop(grace_s=3)
        self.site.pass_time(2.5)
        self.assertFalse(connection.wire.aborted)
        self.site.pass_time(1)
        self.assertTrue(connection.wire.aborted)
        connection.lose()
        self.successResultOf(stopped)
        self.assertTrue(self.site.handlers.waiting[0].called)

    def test_who_does_not_say_goodbye_is_not_waited_for(self) -> None:
        """As with TLS, where the other side's machine was switched off."""
        idle, busy = self.site.connect(), self.site.connect()
        busy.send(get("/wait"))
        stopped = self.site.server.stop()
        self.site.pass_time(GOODBYE_S)
        self.assertNoResult(stopped)
        self.site.handlers.waiting[0].callback({})
        self.finish(busy)
        self.successResultOf(stopped)
        self.assertFalse(idle.wire.aborted)

    def test_who_was_answered_lately_has_the_time_to_read_it(self) -> None:
        connection = self.site.connect()
        connection.send(get("/wait"))
        stopped = self.site.server.stop()
        self.site.handlers.waiting[0].callback({})
        self.site.pass_time(GOODBYE_S)
        self.assertNoResult(stopped)
        self.finish(connection)
        self.successResultOf(stopped)

    def test_a_stop_leaves_time_for_what_comes_after_it(self) -> None:
        self.assertLessEqual(GRACE_S, STOP_WITHIN_S - 1)

    def test_what_was_asked_by_somebody_who_went_away_is_finished(self) -> None:
        connection = self.site.connect()
        connection.send(get("/wait"))
        connection.lose()
        self.assertEqual(1, self.site.server.connection_count)
        stopped = self.site.server.stop()
        self.assertNoResult(stopped)
        self.site.handlers.waiting[0].callback({})
        self.successResultOf(stopped)
        self.assertEqual(0, self.site.server.connection_count)
        self.assertEqual([], self.site.time.getDelayedCalls())

    def test_what_was_asked_by_somebody_who_went_away_is_cut_off_too(self) -> None:
        connection = self.site.connect()
        connection.send(get("/wait"))
        connection.lose()
        stopped = self.site.server.stop(grace_s=3)
        self.site.pass_time(2.5)
        self.assertNoResult(stopped)
        self.site.pass_time(1)
        self.successResultOf(stopped)
        self.assertTrue(self.site.handlers.waiting[0].called)


class Takeover:
    """A protocol that echoes in capitals."""

    def __init__(self, request: Request, transport: Any, leftover: bytes) -> None:
        self.transport = transport
        self.lost = 0
        transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        if leftover:
            self.data_received(leftover)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())

    def connection_lost(self) -> None:
        self.lost += 1

    def shut_down(self) -> None:
        self.transport.loseConnection()


class UpgradeTests(SynchronousTestCase):
    ASK = get("/socket", "Connection: Upgrade", "Upgrade: websocket")

    def setUp(self) -> None:
        self.taken: list[Takeover] = []

        def take(request: Request, transport: Any, leftover: bytes) -> Takeover:
            self.taken.append(Takeover(request, transport, leftover))
            return self.taken[-1]

        self.site = Site(upgrade=take)
        self.connection = self.site.connect()

    def test_the_connection_changes_hands(self) -> None:
        self.connection.send(self.ASK + b"early ")
        self.connection.send(b"later")
        self.assertEqual(self.connection.output.partition(b"\r\n\r\n")[2], b"EARLY LATER")
        self.site.pass_time(1000)
        self.assertFalse(self.connection.is_closing)
        self.connection.lose()
        self.assertEqual(self.taken[0].lost, 1)
        self.assertEqual(self.site.server.connection_count, 0)

    def test_answers_before_it_come_first(self) -> None:
        self.connection.send(get("/wait") + self.ASK + b"early")
        self.assertEqual(self.taken, [])
        self.site.handlers.waiting[0].callback({})
        self.assertTrue(self.connection.output.startswith(b"HTTP/1.1 200 OK"))
        self.assertTrue(self.connection.output.endswith(b"\r\n\r\nEARLY"))

    def test_a_long_first_message(self) -> None:
        self.connection.send(self.ASK + b"x" * 50_000)
        self.assertEqual(self.connection.output.partition(b"\r\n\r\n")[2], b"X" * 50_000)

    def test_stopping_asks_it_to_go(self) -> None:
        self.connection.send(self.ASK)
        stopped = self.site.server.stop()
        self.assertTrue(self.connection.wire.disconnecting)
        self.connection.lose()
        self.successResultOf(stopped)

    def test_without_asking_it_is_an_ordinary_request(self) -> None:
        self.connection.send(get("/socket"))
        self.assertEqual(self.connection.take()[0].status, 200)
        self.assertEqual(self.taken, [])

    def test_a_hook_that_fails(self) -> None:
        def fail(request: Request, transport: Any, leftover: bytes) -> Takeover:
            raise RuntimeError("no")

        site = Site(upgrade=fail)
        connection = site.connect()
        connection.send(self.ASK)
        self.assertTrue(connection.wire.aborted)
        self.assertEqual(len(site.failures), 1)
        connection.lose()
        self.assertEqual(site.server.connection_count, 0)


class Collector(Protocol):
    """A client that keeps all it gets, until the end."""

    def __init__(self) -> None:
        self.data = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.data)


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "tls.crt", directory / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_file, key_file


def write_locked_key() -> bytes:
    """A private key behind a passphrase, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    passphrase = serialization.BestAvailableEncryption(b"sesame")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, passphrase)


class SocketTests(TestCase):
    """A few things over real sockets: that the seams to Twisted's transports hold."""

    def setUp(self) -> None:
        self.site = Site()

    async def ask(
        self, data: bytes, *, tls: Certificate | None = None, protocols: list[bytes] | None = None
    ) -> bytes:
        endpoint: Any = HostnameEndpoint(reactor, "localhost", self.port_number)
        if tls is not None:
            options = optionsForClientTLS("localhost", tls, acceptableProtocols=protocols)
            endpoint = wrapClientTLS(options, endpoint)
        client = await connectProtocol(endpoint, Collector())
        client.transport.write(data)
        return await client.closed

    def listen(self, context: Any = None) -> None:
        if context is None:
            port = reactor.listenTCP(0, self.site.server, interface="127.0.0.1")
        else:
            port = reactor.listenTCP(0, secured(context, self.site.server), interface="127.0.0.1")
        self.site.server.add_port(port)
        self.port_number = port.getHost().port
        self.addCleanup(self.site.server.stop)

    async def test_plain(self) -> None:
        self.listen()
        replies = read_replies(
            await self.ask(post(b"x" * 90_000, "/echo/a", "Connection: close", method="PUT"))
        )
        self.assertEqual([reply.status for reply in replies], [200])
        self.assertEqual(len(replies[0].json["body"]), 90_000)

    async def test_a_refusal_arrives_although_the_body_was_not_read(self) -> None:
        self.listen()
        replies = read_replies(await self.ask(post(b"x" * 2_000_000)))
        self.assertEqual([reply.status for reply in replies], [413])

    async def test_a_large_answer(self) -> None:
        self.listen()
        self.site.handlers.body = lambda: Response(200, b"x" * 5_000_000)
        replies = read_replies(await self.ask(get("/produce", "Connection: close")))
        self.assertEqual((len(replies[0].body), replies[0].complete), (5_000_000, True))

    async def test_tls(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate_file, key_file = write_certificate(directory)
        self.listen(server_context(certificate_file, key_file))
        trusted = Certificate.loadPEM(certificate_file.read_bytes())
        self.site.handlers.body = lambda: Response(200, b"x" * 1_000_000)
        data = await self.ask(get("/echo") + get("/produce", "Connection: close"), tls=trusted)
        self.assertEqual([len(reply.body) > 0 for reply in read_replies(data)], [True, True])
        # Browsers say which protocols they speak.
        closing = get("/produce", "Connection: close")
        data = await self.ask(closing, tls=trusted, protocols=[b"h2", b"http/1.1"])
        self.assertEqual([reply.status for reply in read_replies(data)], [200])
        data = await self.ask(b"NONSENSE\r\n\r\n" + b"x" * 100_000, tls=trusted)
        self.assertEqual([reply.status for reply in read_replies(data)], [400])

    async def test_a_renewed_certificate_is_served_and_an_unusable_one_is_not(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate_file, key_file = write_certificate(directory)
        listener = Listener(0, tls=TlsFiles(certificate_file, key_file))
        site = self.site.server
        listeners = Listeners(reactor, site._edge.router, site._clock, site._edge.log_failure, str)
        listeners.open(listener)
        self.addCleanup(lambda: Deferred.fromCoroutine(listeners.stop()))
        self.port_number = listeners.listening[0].port
        before = Certificate.loadPEM(certificate_file.read_bytes())
        endpoint: Any = HostnameEndpoint(reactor, "localhost", self.port_number)
        endpoint = wrapClientTLS(optionsForClientTLS("localhost", before), endpoint)
        kept = await connectProtocol(endpoint, Collector())
        kept.transport.write(get("/echo"))
        closing = get("/echo", "Connection: close")
        # Connections are accepted in their order: now the first one is open, too.
        await self.ask(closing, tls=before)
        write_certificate(directory)
        renewed = Certificate.loadPEM(certificate_file.read_bytes())
        self.assertEqual(listeners.renew_certificates(), [])
        data = await self.ask(closing, tls=renewed)
        self.assertEqual([reply.status for reply in read_replies(data)], [200])
        certificate_file.write_bytes(b"nonsense")
        (problem,) = listeners.renew_certificates()
        self.assertEqual(problem, f"listeners[0].tls: no certificate in {certificate_file}")
        data = await self.ask(closing, tls=renewed)
        self.assertEqual([reply.status for reply in read_replies(data)], [200])
        # What was open stays.
        kept.transport.write(closing)
        self.assertEqual([reply.status for reply in read_replies(await kept.closed)], [200, 200])

    async def test_an_answer_over_tls_is_sent_in_the_turn_that_made_it(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate_file, key_file = write_certificate(directory)
        self.listen(server_context(certificate_file, key_file))
        trusted = Certificate.loadPEM(certificate_file.read_bytes())
        queued: list[int] = []
        self.patch(Server, "write", lambda _, data: queued.append(len(data)))
        data = await self.ask(get("/echo") + get("/echo", "Connection: close"), tls=trusted)
        self.assertEqual([reply.status for reply in read_replies(data)], [200, 200])
        self.assertEqual(queued, [])

    def test_unusable_files_are_told_plainly(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        certificate_file, key_file = write_certificate(directory)
        empty = directory / "empty"
        empty.write_bytes(b"")
        broken = directory / "broken"
        broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        elsewhere = directory / "elsewhere"
        elsewhere.mkdir()
        _, other_key = write_certificate(elsewhere)
        locked = directory / "locked"
        locked.write_bytes(write_locked_key())
        for certificate, key, word in (
            (empty, key_file, "no certificate"),
            (broken, key_file, "unreadable"),
            (certificate_file, empty, "private key"),
            (certificate_file, locked, "private key"),
            (certificate_file, other_key, "cannot be used together: key values mismatch"),
        ):
            with self.assertRaisesRegex(ValueError, word):
                server_context(certificate, key)
