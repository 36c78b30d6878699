"""A bucket over real sockets: what is put is what comes back, and what breaks is told."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred

from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import TimedOut
from homeserver.http.watched import SLOWEST_BYTES, WATCH_S
from homeserver.media import bucket as module
from homeserver.media.bucket import PART_BYTES, Bucket, BucketError, NoAnswerError, Place
from homeserver.media.sigv4 import Credentials
from tests.support.bucket import KEY_ID, NAME, REGION, SECRET, Call, FakeBucket, Reply, error, serve
from tests.unit.http.outward import OutwardCase


class WireCase(OutwardCase):
    def setUp(self) -> None:
        super().setUp()
        self.fake = FakeBucket(self.time.seconds)
        self.credentials = Credentials(KEY_ID, SECRET, REGION)

    def open(self, endpoint: str, *, in_path: bool = True) -> None:
        place = Place(endpoint, NAME, "a/", in_path=in_path)
        self.bucket = Bucket(self.client, place, self.credentials, maybeDeferred, self.clock)

    def file(self, data: bytes) -> tuple[str, Path, int]:
        path = Path(self.mktemp())
        path.write_bytes(data)
        return sha256(data).hexdigest(), path, len(data)

    async def get(self, name: str, size: int) -> bytes:
        pieces: list[bytes] = []
        await self.bucket.get(name, size, pieces.append)
        return b"".join(pieces)

    async def names(self, shelf: str) -> list[str]:
        return [name async for name, _ in self.bucket.names(shelf)]

    async def refused(self, work: Any) -> str:
        try:
            await work
        except BucketError as problem:
            return str(problem)
        raise self.failureException("it was not refused")

    async def go_there_and_back(self, *sizes: int) -> None:
        for size in sizes:
            data = os.urandom(size)
            name, path, _ = self.file(data)
            await self.bucket.put(name, path, size)
            self.assertEqual(data, await self.get(name, size))
            self.assertEqual([name], await self.names(name[:2]))
            self.assertEqual(self.time.seconds(), await self.bucket.modified_s(name))
            await self.bucket.remove(name)
            await self.bucket.remove(name)
            self.assertIsNone(await self.bucket.modified_s(name))
            with self.assertRaises(FileNotFoundError):
                await self.get(name, size)
        self.assertEqual({}, self.fake.objects)


class Wire(WireCase):
    def setUp(self) -> None:
        super().setUp()
        endpoint, stop = serve(self.fake)
        self.addCleanup(stop)
        self.open(endpoint)

    async def test_there_and_back(self) -> None:
        await self.go_there_and_back(0, 1, 300_000, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7)

    async def test_pages(self) -> None:
        names = [f"cd{number:062x}" for number in range(7)]
        for name in names:
            self.fake.objects[self.bucket.place.key_of(name)] = (b"", 1.0)
        self.assertEqual(names, await self.names("cd"))
        self.assertEqual([], await self.names("ce"))

    async def test_notes(self) -> None:
        self.assertIsNone(await self.bucket.get_note("whose"))
        await self.bucket.put_note("whose", "mine")
        self.assertEqual(
            ("mine", ["a/whose"]), (await self.bucket.get_note("whose"), list(self.fake.objects))
        )
        await self.bucket.remove_note("whose")
        self.assertEqual({}, self.fake.objects)

    async def test_broken_off(self) -> None:
        name, path, size = self.file(b"x" * 100_000)
        await self.bucket.put(name, path, size)
        self.fake.script = lambda _: Reply(200, b"x" * 50_000, ends_early=True)
        self.assertIn("broke off", await self.refused(self.get(name, size)))

    async def test_refusals_without_an_end(self) -> None:
        name, path, size = self.file(b"x")
        self.fake.script = lambda _: Reply(403, b"x" * 10_000_000)
        self.assertIn("too large", await self.refused(self.get(name, size)))
        self.assertIn("too large", await self.refused(self.bucket.put(name, path, size)))

    async def test_redirects_are_not_followed(self) -> None:
        endpoint, stop = serve(other := FakeBucket(self.time.seconds))
        self.addCleanup(stop)
        name, path, size = self.file(b"x")
        for status in (301, 302, 307):
            self.fake.script = lambda call, status=status: Reply(  # type: ignore[misc]
                status, error(status, "TemporaryRedirect").body, {"location": endpoint + call.target}
            )
            self.assertIn(f"status {status}", await self.refused(self.get(name, size)))
            self.assertIn(f"status {status}", await self.refused(self.bucket.put(name, path, size)))
        self.assertEqual([], other.calls)

    async def test_a_clock_that_is_wrong(self) -> None:
        self.fake.now_s = lambda: self.time.seconds() + 1000
        self.assertIn("clock is wrong", await self.refused(self.bucket.modified_s("ab" * 32)))

    async def test_keys_that_are_wrong(self) -> None:
        for credentials, line in (
            (Credentials("OTHER", SECRET, REGION), "does not know the access key"),
            (Credentials(KEY_ID, SECRET + "x", REGION), "the secret access key is wrong"),
            (Credentials(KEY_ID, SECRET, "other-1"), "the region is wrong"),
        ):
            self.bucket = Bucket(self.client, self.bucket.place, credentials, maybeDeferred, self.clock)
            said = await self.refused(self.bucket.modified_s("ab" * 32))
            self.assertIn(line, said)
            self.assertNotIn(SECRET, said)

    async def test_what_a_proxy_does_not_find_is_not_lost(self) -> None:
        self.fake.script = lambda _: Reply(404, b"<html>nginx</html>")
        self.assertIn("status 404", await self.refused(self.get("ab" * 32, 10)))

    async def test_a_file_that_shrinks(self) -> None:
        name, path, size = self.file(b"xyz")
        with self.assertRaises(OSError):
            await self.bucket.put(name, path, size + 1)

        def no_call(_: Call) -> Reply:
            self.fail("nothing is sent")

        self.fake.script = no_call
        with self.assertRaises(ValueError):
            await self.bucket.remove("../" + name)


class Secure(WireCase):
    """Over TLS, as nearly every bucket is."""

    def serve(self, *names: str) -> str:
        """With a certificate for these names: its port, after a colon."""
        endpoint, stop = serve(self.fake, self.authority.certify(*names))
        self.addCleanup(stop)
        return endpoint[endpoint.rindex(":") :]

    async def test_there_and_back(self) -> None:
        port = self.serve("store.example", f"{NAME}.store.example")
        for host in ("store.example", f"{NAME}.store.example"):
            self.resolver.names[host] = ["127.0.0.1"]
        for in_path in (True, False):
            self.open(f"https://store.example{port}", in_path=in_path)
            await self.go_there_and_back(0, 300_000, 2 * PART_BYTES + 7)
            hosts = {call.headers["host"] for call in self.fake.calls}
            self.assertEqual({("" if in_path else f"{NAME}.") + f"store.example{port}"}, hosts)
            self.fake.calls.clear()

    async def test_what_is_anothers_certificate_gets_nothing(self) -> None:
        self.patch(module, "PAUSES_S", ())
        self.resolver.names["store.example"] = ["127.0.0.1"]
        name, path, size = self.file(b"x")
        self.open(f"https://store.example{self.serve('other.example')}")
        self.assertIn("certificate", await self.refused(self.bucket.put(name, path, size)))
        self.authority = type(self.authority)(self.folder / "unknown")
        self.open(f"https://store.example{self.serve('store.example')}")
        self.assertIn("certificate", await self.refused(self.bucket.put(name, path, size)))
        self.assertEqual([], self.fake.calls)


class BreaksOff:
    """Sends these bytes, and is cut off by the clock."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.limits: list[HttpLimits] = []

    def request(self, *_: object, limits: HttpLimits, receive: Any, **__: object) -> Deferred[HttpResponse]:
        self.limits.append(limits)
        if self.data:
            receive(self.data)
        return fail(TimedOut("no answer in time"))


class LongTransfers(WireCase):
    async def problem(self, http: BreaksOff, size: int) -> BucketError:
        self.client = http  # type: ignore[assignment]  # all that a bucket asks of it
        self.open("https://objects.example")
        with self.assertRaises(BucketError) as caught:
            await self.get("ab" * 32, size)
        return caught.exception

    async def test_a_large_file_may_take_as_long_as_its_pace_allows(self) -> None:
        http, size = BreaksOff(b"x"), 1024**3
        await self.problem(http, size)
        self.assertGreaterEqual(http.limits[0].timeout_s, size / SLOWEST_BYTES * WATCH_S)

    async def test_only_who_sends_nothing_did_not_answer(self) -> None:
        self.assertNotIsInstance(await self.problem(BreaksOff(b"x"), 10), NoAnswerError)
        self.assertIsInstance(await self.problem(BreaksOff(b""), 10), NoAnswerError)
