"""Fetches on their way: pace, places elsewhere, a disk that does not keep up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock as TaskClock
from twisted.trial.unittest import SynchronousTestCase

from federation.errors import RemoteError
from homeserver.config.schema import Media
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.errors import MatrixError
from homeserver.http.transport import PeerResponse, Unreachable
from homeserver.http.watched import SLOWEST_BYTES, WATCH_S, Watched
from homeserver.media.files import MediaFiles
from homeserver.media.inflow import MAX_HELD_BYTES, DiskTooSlowError, Inflow
from homeserver.media.multipart import TooLongError
from homeserver.media.remote import FETCH_S, FETCHES_EACH, WAITING, RemoteMedia
from homeserver.media.storage import FolderStore
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog
from homeserver.store.media import Upload
from tests.support.peers import Asked, Raw, Reply, ScriptedPeers, deliver

MIXED = {"content-type": "multipart/mixed; boundary=b0"}
CDN = "https://cdn.example/files/1?until=tomorrow"


def place(location: str) -> Raw:
    text = "--b0\r\n\r\n{}\r\n--b0\r\nLocation: " + location + "\r\n\r\n\r\n--b0--"
    return Raw([text.encode()], MIXED)


class Pace(SynchronousTestCase):
    """``Watched`` alone."""

    def setUp(self) -> None:
        self.time = TaskClock()
        self.taken = 0
        self.receive: Callable[[bytes], None] = lambda _: None
        self.request: Deferred[PeerResponse] = Deferred()

    def begin(self, take: Callable[[bytes], None] | None = None) -> Deferred[PeerResponse]:
        def ask(receive: Callable[[bytes], None]) -> Deferred[PeerResponse]:
            self.receive = receive
            return self.request

        def count(data: bytes) -> None:
            self.taken += len(data)

        return Deferred.fromCoroutine(Watched(TwistedClock(self.time), take or count).run(ask, 5.0))

    def test_fast_enough(self) -> None:
        running = self.begin()
        self.time.advance(5)
        for _ in range(20):
            self.receive(b"x" * SLOWEST_BYTES)
            self.time.advance(WATCH_S)
        self.request.callback(PeerResponse(200, b""))
        self.assertEqual(200, self.successResultOf(running).status)
        self.assertEqual(20 * SLOWEST_BYTES, self.taken)
        self.assertEqual([], self.time.getDelayedCalls())

    def test_too_slow(self) -> None:
        running = self.begin()
        self.time.advance(5)
        self.receive(b"x" * SLOWEST_BYTES)
        self.time.advance(WATCH_S)
        self.receive(b"x" * (SLOWEST_BYTES - 1))
        self.time.advance(WATCH_S)
        self.time.advance(0)
        self.failureResultOf(running, Unreachable)
        # The request itself was broken off.
        self.assertTrue(self.request.called)

    def test_never_begun(self) -> None:
        running = self.begin()
        self.time.advance(5 + WATCH_S - 1)
        self.assertNoResult(running)
        self.time.advance(1)
        self.time.advance(0)
        self.failureResultOf(running, Unreachable)

    def test_ended_by_who_takes_it(self) -> None:
        def refuse(_: bytes) -> None:
            raise TooLongError

        running = self.begin(refuse)
        self.receive(b"x")
        self.receive(b"y")
        self.assertNoResult(running)
        self.time.advance(0)
        self.failureResultOf(running, TooLongError)
        self.assertEqual([], self.time.getDelayedCalls())

    def test_ended_before_that_was_noticed(self) -> None:
        def refuse(_: bytes) -> None:
            raise TooLongError

        running = self.begin(refuse)
        self.receive(b"x")
        self.request.callback(PeerResponse(200, b""))
        self.failureResultOf(running, TooLongError)
        self.time.advance(0)

    def test_broken_off_from_outside(self) -> None:
        running = self.begin()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual([], self.time.getDelayedCalls())


class Disk(SynchronousTestCase):
    """``Inflow`` with threads that work when the test says so."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.jobs: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        clock = TwistedClock(TaskClock())
        self.storage = FolderStore(MediaFiles(self.folder), self.run_later, clock, SeededEntropy(1).id)
        self.inflow = Inflow(self.storage, self.run_later, 100_000_000)

    def run_later(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((done, lambda: function(*args)))
        return done

    def work(self) -> None:
        while self.jobs:
            done, job = self.jobs.pop(0)
            maybeDeferred(job).chainDeferred(done)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def test_comes_while_it_is_written(self) -> None:
        data = bytes(range(256)) * 2_000
        for start in range(0, len(data), 100_000):
            self.inflow.write(data[start : start + 100_000])
        finished = Deferred.fromCoroutine(self.inflow.finish())
        self.work()
        name = self.successResultOf(finished)
        self.assertEqual([name], self.files())
        self.assertEqual(data, MediaFiles(self.folder).path_of(name).read_bytes())

    def test_the_disk_does_not_keep_up(self) -> None:
        with self.assertRaises(DiskTooSlowError):
            for _ in range(MAX_HELD_BYTES // 100_000 + 2):
                self.inflow.write(b"x" * 100_000)
        discarded = Deferred.fromCoroutine(self.inflow.discard())
        self.work()
        self.successResultOf(discarded)
        self.assertEqual([], self.files())

    def test_the_disk_fails(self) -> None:
        self.folder.mkdir()
        (self.folder / "incoming").write_text("in the way")
        self.inflow.write(b"x" * 300_000)
        self.work()
        self.assertRaises(OSError, self.inflow.write, b"x")
        self.failureResultOf(Deferred.fromCoroutine(self.inflow.finish()), OSError)

    def test_discarded_at_any_moment(self) -> None:
        for turns in range(3):
            inflow = Inflow(self.storage, self.run_later, 10_000_000)
            inflow.write(b"x" * 300_000)
            for _ in range(turns):
                if self.jobs:
                    done, job = self.jobs.pop(0)
                    maybeDeferred(job).chainDeferred(done)
            discarded = Deferred.fromCoroutine(inflow.discard())
            self.work()
            self.successResultOf(discarded)
            self.assertEqual([], self.files())

    def test_too_much(self) -> None:
        inflow = Inflow(self.storage, self.run_later, 10)
        inflow.write(b"x" * 10)
        self.assertRaises(TooLongError, inflow.write, b"x")


class FakeHttp:
    """The rest of the web."""

    def __init__(self) -> None:
        self.reply: Raw | Exception = Raw([])
        self.asked: list[tuple[str, str, HttpLimits]] = []

    def request(
        self, method: str, url: str, *, limits: HttpLimits, receive: Callable[[bytes], None] | None = None
    ) -> Deferred[HttpResponse]:
        self.asked.append((method, url, limits))
        return maybeDeferred(self._answer, url, limits, receive)

    def _answer(self, url: str, limits: HttpLimits, receive: Callable[[bytes], None] | None) -> HttpResponse:
        if isinstance(self.reply, Exception):
            raise self.reply
        answer = deliver(self.reply, limits.max_bytes, receive)
        return HttpResponse(url, answer.status, answer.body, answer.headers)


class Rows:
    """Takes units of work and looks at them."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []

    def work(self, unit: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.written.append(args)
        done: Deferred[Any] = Deferred()
        done.callback(None)
        return done


def said(error: MatrixError) -> tuple[int, str]:
    return error.status, error.errcode


class Elsewhere(SynchronousTestCase):
    """Files that are not where their server is. spec: server-server-api#get_matrixfederationv1mediadownloadmediaid"""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.reply: Reply = place(CDN)
        self.peers = ScriptedPeers(self.say)
        self.http, self.rows, self.log = FakeHttp(), Rows(), MemoryLog()
        self.time = TaskClock()
        clock = TwistedClock(self.time)
        self.remote = RemoteMedia(
            self.peers,
            self.http,
            self.rows,
            FolderStore(MediaFiles(self.folder), maybeDeferred, clock, SeededEntropy(1).id),
            maybeDeferred,
            clock,
            self.log,
            lambda: Media(max_upload_bytes=1_000),
        )

    def say(self, asked: Asked) -> Reply:
        return self.reply

    def fetch(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.remote.fetch("far.example", "m", 1_000))

    def refused(self, status: int, errcode: str) -> None:
        error = self.failureResultOf(self.fetch(), MatrixError).value
        self.assertEqual((status, errcode), (error.status, error.errcode))
        self.assertEqual([], self.rows.written)
        self.assertEqual([], [path for path in self.folder.rglob("*") if path.is_file()])

    def test_followed(self) -> None:
        headers = {"content-type": "image/png", "content-disposition": "inline; filename=a.png"}
        self.http.reply = Raw([b"da", b"ta"], headers)
        self.successResultOf(self.fetch())
        ((method, url, limits),) = self.http.asked
        self.assertEqual(("GET", CDN), (method, url))
        # Nothing but TLS, and no redirect from there to elsewhere.
        self.assertEqual(HttpLimits(FETCH_S, 1_000, 0, ("https",)), limits)
        ((origin, media_id, upload, _),) = self.rows.written
        self.assertEqual(("far.example", "m"), (origin, media_id))
        self.assertEqual(Upload(upload.sha256, 4, "image/png", "a.png"), upload)
        self.assertEqual(b"data", MediaFiles(self.folder).path_of(upload.sha256).read_bytes())

    def test_not_found_there(self) -> None:
        for reply, status, errcode in (
            (Raw([b"gone"], {}, 404), 502, "M_UNKNOWN"),
            (Raw([b"part"], {}, 206), 502, "M_UNKNOWN"),
            (Unreachable("an address of our own network"), 502, "M_UNKNOWN"),
            (Raw([b""], {"location": "https://other.example"}, 302), 502, "M_UNKNOWN"),
            (Raw([b"x" * 1_001]), 502, "M_TOO_LARGE"),
        ):
            self.http.reply = reply
            self.refused(status, errcode)

    def test_only_over_tls(self) -> None:
        for location in ("http://cdn.example/x", "ftp://cdn.example", "//cdn.example", "https:/x\u00e4", ""):
            self.reply = place(location)
            self.refused(502, "M_UNKNOWN")
        self.assertEqual([], self.http.asked)

    def test_nobody_waits_any_more(self) -> None:
        """What its turn comes for when everybody has gone is not fetched; what has begun is."""
        asked: list[Deferred[Any]] = []

        def later(_: Asked) -> Deferred[Any]:
            asked.append(Deferred())
            return asked[-1]

        self.peers.script = later
        waiting = [
            Deferred.fromCoroutine(self.remote.fetch("far.example", f"m{number}", 0))
            for number in range(FETCHES_EACH + 2)
        ]
        for one in (waiting[0], waiting[FETCHES_EACH]):
            one.cancel()
            self.failureResultOf(one, CancelledError)
        text = b"--b0\r\n\r\n{}\r\n--b0\r\n\r\ndata\r\n--b0--"
        asked[0].callback(Raw([text], MIXED))
        self.assertEqual(1, len(self.rows.written))
        names = [one.uri.rpartition("/")[2].partition("?")[0] for one in self.peers.asked]
        self.assertEqual([*(f"m{number}" for number in range(FETCHES_EACH)), f"m{FETCHES_EACH + 1}"], names)
        self.remote.stop()
        for one in (*waiting[1:FETCHES_EACH], waiting[-1]):
            self.failureResultOf(one, CancelledError)

    def wait_for_upload(self, asked: Asked) -> Deferred[Any]:
        """As an honest server does, of a file that does not come."""
        waiting: Deferred[Any] = Deferred()
        timeout_s = int(asked.uri.rpartition("=")[2]) / 1000
        self.time.callLater(timeout_s, waiting.errback, RemoteError("M_NOT_YET_UPLOADED", 504, "no"))
        return waiting

    def pump(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time.advance(1)

    def test_what_is_not_uploaded_keeps_nothing_else_away(self) -> None:
        self.peers.script = self.wait_for_upload
        pending = [
            Deferred.fromCoroutine(self.remote.fetch("far.example", f"m{number}", 60_000))
            for number in range(FETCHES_EACH)
        ]
        for one in pending[1:]:
            one.cancel()
            self.failureResultOf(one, CancelledError)
        there = self.fetch()
        self.pump(4)
        self.assertEqual(FETCHES_EACH, len(self.peers.asked))
        self.peers.script = lambda _: Raw([b"--b0\r\n\r\n{}\r\n--b0\r\n\r\ndata\r\n--b0--"], MIXED)
        self.pump(1)
        self.successResultOf(there)
        # Asked again, as somebody waits; the others are not.
        self.successResultOf(pending[0])
        self.assertEqual(FETCHES_EACH + 2, len(self.peers.asked))
        self.assertEqual([], self.time.getDelayedCalls())

    def test_an_upload_is_waited_for_as_long_as_was_asked(self) -> None:
        self.peers.script = self.wait_for_upload
        waiting = Deferred.fromCoroutine(self.remote.fetch("far.example", "m", 13_000))
        self.pump(12)
        self.assertNoResult(waiting)
        self.pump(1)
        self.assertEqual((504, "M_NOT_YET_UPLOADED"), said(self.failureResultOf(waiting, MatrixError).value))
        asked = [one.uri.rpartition("=")[2] for one in self.peers.asked]
        self.assertEqual(["5000", "5000", "3000"], asked)

    def test_more_than_can_wait(self) -> None:
        """What is asked of a server in vain does not pile up without end."""
        self.peers.script = lambda _: Deferred()
        waiting = [
            Deferred.fromCoroutine(self.remote.fetch("far.example", f"m{number}", 0))
            for number in range(FETCHES_EACH + WAITING)
        ]
        last = self.failureResultOf(
            Deferred.fromCoroutine(self.remote.fetch("far.example", "one-more", 0)), MatrixError
        )
        self.assertEqual((429, "M_LIMIT_EXCEEDED"), (last.value.status, last.value.errcode))
        self.assertEqual(FETCHES_EACH, len(self.peers.asked))
        self.remote.stop()
        for one in waiting:
            self.failureResultOf(one, CancelledError)
