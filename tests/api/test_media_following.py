"""Large files in a bucket: who reads one while it comes, and what they get where it is not what it should be."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from homeserver.http.outgoing import close_body
from homeserver.http.response import BrokenOff, Response
from homeserver.media.bucket_store import GIVEN_UP_S
from homeserver.media.coming import Coming
from tests.api.media import DOWNLOAD
from tests.api.test_media_bucket import BucketCase
from tests.support.bucket import Reply, error

T = TypeVar("T")


class Following(BucketCase):
    """Who reads a large file while it comes from the bucket."""

    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(1_000_000)
        self.address = self.upload(self.data)
        self.reopen()
        self.post(b"so that the bucket is known to be ours")
        self.bucket.calls.clear()
        self.halt(600_000)

    def halt(self, begun: int | None) -> None:
        """After how many bytes the bucket's answers stop."""
        self.bucket_http.halts = lambda call: begun if call.method == "GET" else None

    def begin(self, headers: Mapping[str, str] | None = None) -> Deferred[Response]:
        """A download; its answer may be there before all of its bytes are."""
        path = f"{DOWNLOAD}/{self.address}"
        request = self.app.http.request("GET", path, None, self.alice, headers=headers)
        dispatched = self.app.app.router.dispatch(request)
        waiting = dispatched if isinstance(dispatched, Deferred) else succeed(dispatched)
        self.app.advance(0)
        return waiting

    def pieces(self, response: Response) -> AsyncIterator[bytes]:
        body = response.body
        assert isinstance(body, AsyncIterator)
        return body

    def next(self, response: Response) -> Deferred[bytes]:
        async def read() -> bytes:
            return await anext(self.pieces(response))

        reading = Deferred.fromCoroutine(read())
        self.app.advance(0)
        return reading

    def now(self, waiting: Deferred[T]) -> T:
        """What must be there already."""
        self.assertTrue(waiting.called, "it is still waited for")
        return self.app.wait(waiting)

    def rest(self, response: Response) -> bytes:
        async def read() -> bytes:
            return b"".join([piece async for piece in self.pieces(response)])

        return self.app.wait(Deferred.fromCoroutine(read()))

    def test_it_is_read_while_it_comes(self) -> None:
        first, second = self.now(self.begin()), self.now(self.begin())
        self.assertEqual((200, len(self.data)), (first.status, first.length))
        came = self.now(self.next(first)) + self.now(self.next(first))
        self.assertEqual(self.data[: len(came)], came)
        waiting = self.next(first)
        self.assertFalse(waiting.called, "so much has not come")
        self.bucket_http.release()
        came += self.now(waiting)
        self.assertEqual(self.data, came + self.rest(first))
        self.assertEqual(self.data, self.rest(second))
        self.assertEqual(self.data, self.get(self.address).body)
        self.assertEqual(1, len(self.asked()))

    def test_a_part_of_it(self) -> None:
        response = self.now(self.begin({"Range": "bytes=100000-"}))
        self.assertEqual((206, 900_000), (response.status, response.length))
        self.assertIn((b"Content-Range", b"bytes 100000-999999/1000000"), response.headers)
        came = self.now(self.next(response))
        self.assertEqual(self.data[100_000 : 100_000 + len(came)], came)
        # What lies further on, and what is so small that it comes at once, waits.
        later = [self.begin({"Range": f"bytes={part}"}) for part in ("700000-", "0-99", "-300000")]
        self.assertEqual([False] * 3, [one.called for one in later])
        self.assertEqual(416, self.now(self.begin({"Range": "bytes=1000000-"})).status)
        self.bucket_http.release()
        self.assertEqual(self.data[100_000:], came + self.rest(response))
        found = [self.now(one) for one in later]
        self.assertEqual(self.data[700_000:], self.rest(found[0]))
        self.assertEqual(self.data[:100], found[1].body)
        self.assertEqual(self.data[-300_000:], self.rest(found[2]))
        self.assertEqual(1, len(self.asked()))

    def test_nobody_gets_all_of_what_is_something_else(self) -> None:
        wrong = self.data[:-1] + bytes([self.data[-1] ^ 1])
        for reply, begun, line in (
            # All of it has come, and nothing is left but to look at it.
            (Reply(200, wrong), len(wrong), "is something else"),
            (Reply(200, wrong + b"!"), 600_000, "larger than it was"),
            (Reply(200, wrong[:900_000], ends_early=True), 900_000, "broke off"),
        ):
            self.script(reply)
            self.halt(begun)
            response = self.now(self.begin())
            came = b""
            waiting = self.next(response)
            while waiting.called:
                came += self.now(waiting)
                waiting = self.next(response)
            self.bucket_http.release()
            self.app.advance(0)
            while not isinstance(waiting.result, Failure):
                came += self.now(waiting)
                waiting = self.next(response)
            self.failureResultOf(waiting, BrokenOff)
            self.assertLess(len(came), len(self.data))
            self.assertIn(line, *self.errors())
            self.assertEqual([], self.stored("incoming"))
            self.app.advance(GIVEN_UP_S)
            self.halt(None)
            self.assertEqual(self.data, self.get(self.address).body)
            self.empty()

    def test_what_is_wrong_from_the_beginning_is_an_error(self) -> None:
        self.halt(None)
        for reply, expected in (
            (error(403, "AccessDenied"), (503, "M_UNKNOWN")),
            (error(404, "NoSuchKey"), (404, "M_NOT_FOUND")),
        ):
            self.script(reply)
            self.refused(self.get(self.address), *expected)
            self.assertEqual(1, len(self.errors()))

    def test_it_breaks_off_before_it_is_opened(self) -> None:
        """That the part of it is gone does not make a file that is lost."""
        self.script(Reply(200, self.data[:900_000], ends_early=True))
        opened = Coming.open

        def too_late(coming: Coming) -> BinaryIO:
            self.bucket_http.release()
            return opened(coming)

        self.patch(Coming, "open", too_late)
        self.assertEqual(503, self.now(self.begin()).status)
        self.assertIn("broke off", *self.errors())

    def test_who_goes_away_stops_nothing(self) -> None:
        first, second = self.now(self.begin()), self.now(self.begin())
        self.now(self.next(first)), self.now(self.next(first))
        waiting = self.next(first)
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        close_body(first)
        self.app.advance(0)
        self.bucket_http.release()
        self.assertEqual(self.data, self.rest(second))
        self.assertEqual(self.data, self.get(self.address).body)
        self.assertEqual(1, len(self.asked()))

    def test_it_need_not_stay_for_its_readers(self) -> None:
        """The folder is too small for it: it goes as soon as it is whole, and an open file stays readable."""
        self.reopen(cache_bytes=1)
        self.halt(600_000)
        response = self.now(self.begin())
        self.bucket_http.release()
        self.app.advance(0)
        self.assertEqual([], [path for path in (self.folder / "files").rglob("*") if path.is_file()])
        self.assertEqual(self.data, self.rest(response))

    def test_another_server_reads_along_too(self) -> None:
        downloads = self.app.app.services.media.downloads
        media_id = self.address.partition("/")[2]
        waiting = Deferred.fromCoroutine(downloads.download_for_server(media_id, 0))
        self.app.advance(0)
        response = self.now(waiting)
        head, came = self.now(self.next(response)), self.now(self.next(response))
        self.assertTrue(head.startswith(b"--"))
        self.assertEqual(self.data[: len(came)], came)
        self.bucket_http.release()
        whole = head + came + self.rest(response)
        self.assertIn(self.data, whole)
        self.assertEqual(response.length, len(whole))
