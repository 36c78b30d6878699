"""Requests to other servers, found by their names, over TLS on loopback."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from federation.flows.needs import SrvRecord
from federation.ids import ServerName
from homeserver.http.client import HttpClient, HttpLimits, HttpResponse
from homeserver.http.peer import PeerTransport
from homeserver.http.transport import PeerRequest, PeerResponse, Unreachable
from tests.unit.http.outward import OutwardCase, Talker, http

URI = "/_matrix/federation/v1/x?a=%C3%BC"


class Documents(HttpClient):
    """Gives the same document to whoever asks."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[str] = []

    def request(self, method: str, url: str, **options: Any) -> Deferred[HttpResponse]:
        self.asked.append(url)
        self.limits: HttpLimits = options["limits"]
        return succeed(HttpResponse(url, 200, self.body))


class Peers(OutwardCase):
    def send(self, name: str, **options: Any) -> Deferred[PeerResponse]:
        return self.peers.send(PeerRequest(ServerName(name), "GET", URI, **options))

    async def unreachable(self, name: str, **options: Any) -> None:
        with self.assertRaises(Unreachable):
            await self.send(name, **options)

    async def test_a_name_with_a_port(self) -> None:
        self.resolver.names["other.example"] = ["127.0.0.1"]
        talker = self.listen(Talker(http(b'{"a":1}')), "other.example")
        request = PeerRequest(
            ServerName(f"other.example:{talker.port}"), "PUT", URI, "X-Matrix origin=a", b'{"b":2}'
        )
        response = await self.peers.send(request)
        self.assertEqual((response.status, response.body), (200, b'{"a":1}'))
        head, body = talker.requests[0]
        self.assertEqual(head.split(b"\r\n")[0], b"PUT " + URI.encode() + b" HTTP/1.1")
        self.assertEqual(body, b'{"b":2}')
        headers = self.headers(talker.requests[0])
        self.assertEqual(headers["host"], f"other.example:{talker.port}")
        self.assertEqual(headers["authorization"], "X-Matrix origin=a")
        self.assertEqual(headers["content-type"], "application/json")

    async def test_an_address_has_a_certificate_for_the_address(self) -> None:
        talker = self.listen(Talker(http()), "127.0.0.1")
        self.assertEqual((await self.send(f"127.0.0.1:{talker.port}")).status, 200)
        named = self.listen(Talker(http()), "other.example")
        await self.unreachable(f"127.0.0.1:{named.port}")

    async def test_records_lead_to_another_host_that_has_the_first_ones_certificate(self) -> None:
        good = self.listen(Talker(http()), "other.example")
        bad = self.listen(Talker(http()), "one.example")
        self.resolver.names |= {"one.example": ["127.0.0.1"], "two.example": ["127.0.0.1"]}
        self.resolver.records["_matrix-fed._tcp.other.example"] = [
            SrvRecord("gone.example", 1),
            SrvRecord("one.example", bad.port),
            SrvRecord("two.example", good.port),
        ]
        self.assertEqual((await self.send("other.example")).status, 200)
        self.assertEqual(bad.requests, [])
        self.assertEqual(self.headers(good.requests[0])["host"], "other.example")
        # A document was looked for, where nobody listens, and that cost nothing.
        self.assertEqual(self.resolver.asked[0], "other.example")

    async def test_where_a_server_is_is_remembered(self) -> None:
        talker = self.listen(Talker(http()), "other.example")
        self.resolver.names["two.example"] = ["127.0.0.1"]
        self.resolver.records["_matrix-fed._tcp.other.example"] = [
            SrvRecord("two.example", talker.port, 3600)
        ]
        for _ in range(2):
            await self.send("other.example")
        self.assertEqual(self.resolver.asked.count("_matrix-fed._tcp.other.example"), 1)
        # A sign of life: what failed on the way (the document) may be there now.
        self.peers.heard_from(ServerName("other.example"))
        await self.send("other.example")
        self.assertEqual(self.resolver.asked.count("_matrix-fed._tcp.other.example"), 2)

    async def test_many_at_once_are_one_search(self) -> None:
        talker = self.listen(Talker(http()), "other.example")
        self.resolver.names["two.example"] = ["127.0.0.1"]
        self.resolver.records["_matrix-fed._tcp.other.example"] = [
            SrvRecord("two.example", talker.port, 3600)
        ]
        for waiting in [self.send("other.example") for _ in range(10)]:
            self.assertEqual((await waiting).status, 200)
        self.assertEqual(self.resolver.asked.count("_matrix-fed._tcp.other.example"), 1)

    async def test_one_that_moved_is_found_again(self) -> None:
        first = self.listen(Talker(http(Connection="close")), "other.example")
        second = self.listen(Talker(http(b"second")), "other.example")
        self.resolver.names["two.example"] = ["127.0.0.1"]
        records = self.resolver.records
        records["_matrix._tcp.other.example"] = [SrvRecord("two.example", first.port, 3600)]
        await self.send("other.example")
        records["_matrix._tcp.other.example"] = [SrvRecord("two.example", second.port, 3600)]
        self.resolver.names = {"two.example": ["127.0.0.9"]}
        await self.unreachable("other.example")
        self.resolver.names = {"two.example": ["127.0.0.1"]}
        self.assertEqual((await self.send("other.example")).body, b"second")

    async def test_a_document_leads_to_another_name(self) -> None:
        talker = self.listen(Talker(http()), "m.example")
        self.resolver.names["m.example"] = ["127.0.0.1"]
        documents = Documents(b'{"m.server": "m.example:%d"}' % talker.port)
        self.peers = PeerTransport(self.connections, documents, self.resolver, self.clock, verify=True)
        for _ in range(2):
            self.assertEqual((await self.send("other.example")).status, 200)
        self.assertEqual(self.headers(talker.requests[0])["host"], f"m.example:{talker.port}")
        self.assertEqual(documents.asked, ["https://other.example/.well-known/matrix/server"])
        # Until its life is over.
        self.time.advance(24 * 3600)
        await self.send("other.example")
        self.assertEqual(len(documents.asked), 2)
        limits = documents.limits
        self.assertEqual((limits.max_bytes, limits.max_redirects, limits.schemes), (51_200, 5, ("https",)))

    async def test_redirects_are_not_followed(self) -> None:
        self.resolver.names["other.example"] = ["127.0.0.1"]
        talker = self.listen(Talker(http(b"", b"302 Found", Location="/elsewhere")), "other.example")
        self.assertEqual((await self.send(f"other.example:{talker.port}")).status, 302)
        self.assertEqual(len(talker.requests), 1)

    async def test_limits_are_the_requests(self) -> None:
        self.resolver.names["other.example"] = ["127.0.0.1"]
        talker = self.listen(Talker(http(b"x" * 1000), None), "other.example")
        name = f"other.example:{talker.port}"
        await self.unreachable(name, max_bytes=999)
        requested = talker.requested()
        waiting = self.send(name, timeout_s=7)
        await requested
        self.time.advance(7)
        with self.assertRaises(Unreachable):
            await waiting

    async def test_nowhere(self) -> None:
        await self.unreachable("nowhere.example")
        await self.unreachable("nowhere.example:1")

    async def test_private_addresses_are_refused(self) -> None:
        talker = self.listen(Talker(http()), "127.0.0.1")
        self.build(allowed=())
        await self.unreachable(f"127.0.0.1:{talker.port}")
        self.assertEqual(talker.connections, [])

    async def test_without_verification_any_certificate_will_do(self) -> None:
        self.resolver.names["other.example"] = ["127.0.0.1"]
        talker = self.listen(Talker(http()), "another.example")
        self.build(verify=False)
        self.assertEqual((await self.send(f"other.example:{talker.port}")).status, 200)

    async def test_a_body_in_pieces(self) -> None:
        self.resolver.names["other.example"] = ["127.0.0.1"]
        talker = self.listen(Talker(http(b"x" * 200_000)), "other.example")
        pieces: list[bytes] = []
        request = PeerRequest(ServerName(f"other.example:{talker.port}"), "GET", URI)
        response = await self.peers.send(request, pieces.append)
        self.assertEqual((response.body, len(b"".join(pieces))), (b"", 200_000))
        self.assertGreater(len(pieces), 1)
