"""Many want thumbnails, some give up: the worker has one job at a time, and nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest

from homeserver.http.errors import MatrixError
from homeserver.media.files import MediaFiles
from homeserver.media.pictures import Picture
from homeserver.media.storage import FolderStore
from homeserver.media.thumbnails import MAX_WAITING, Thumbnail, Thumbnails, next_size
from homeserver.media.types import MediaFile
from homeserver.runtime.clock import TwistedClock
from homeserver.runtime.entropy import SeededEntropy
from homeserver.runtime.log import MemoryLog

SIZE = next_size(32, 32, "crop", animated=False)
MADE = Picture("made", "image/png", b"small")


def file(number: int) -> MediaFile:
    return MediaFile(f"{number:064x}", 10, "image/png", None, 0)


class Turns(unittest.TestCase):
    """With a thread pool whose jobs for the worker end when the test says so."""

    def setUp(self) -> None:
        self.jobs: list[Deferred[Picture]] = []
        self.log = MemoryLog()
        self.files = MediaFiles(Path(self.mktemp()))
        clock = TwistedClock(Clock())
        storage = FolderStore(self.files, self.run_in_thread, clock, SeededEntropy(1).id)
        self.thumbnails = Thumbnails(storage, self.run_in_thread, clock, self.log, 1000)
        self.make = self.thumbnails._worker.make

    def run_in_thread(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        if function == self.make:
            self.jobs.append(result)
        else:
            result.callback(function(*args, **kwargs))
        return result

    def ask(self, number: int) -> Deferred[Thumbnail]:
        return Deferred.fromCoroutine(self.thumbnails.get(file(number), SIZE))

    def test_one_job_for_all_who_want_the_same(self) -> None:
        asked = [self.ask(1) for _ in range(3)]
        self.assertEqual(1, len(self.jobs))
        self.jobs[0].callback(MADE)
        self.assertEqual([b"small"] * 3, [self.successResultOf(one).data for one in asked])
        again = self.successResultOf(self.ask(1))
        assert again.path is not None
        self.assertEqual((b"small", 1), (again.path.read_bytes(), len(self.jobs)))

    def test_who_gives_up_does_not_let_two_jobs_meet(self) -> None:
        first, second = self.ask(1), self.ask(2)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(1, len(self.jobs))
        self.jobs[0].callback(MADE)
        self.assertEqual(2, len(self.jobs))
        self.jobs[1].callback(MADE)
        self.assertEqual(b"small", self.successResultOf(second).data)
        self.assertIsNotNone(self.files.find_thumbnail(file(1).sha256, SIZE.name))

    def test_what_nobody_wants_any_more_is_not_made(self) -> None:
        self.ask(1)
        second, third = self.ask(2), self.ask(3)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        for job in self.jobs:
            job.callback(MADE)
        self.assertEqual(2, len(self.jobs))
        self.assertEqual(b"small", self.successResultOf(third).data)

    def test_the_queue_is_short(self) -> None:
        asked = [self.ask(number) for number in range(MAX_WAITING + 1)]
        error = self.failureResultOf(asked.pop(), MatrixError).value
        self.assertEqual(
            (429, "M_LIMIT_EXCEEDED", 5000), (error.status, error.errcode, error.extra["retry_after_ms"])
        )
        for job in self.jobs:
            job.callback(MADE)
        self.assertEqual(MAX_WAITING, len(self.jobs))
        for one in asked:
            self.successResultOf(one)
        self.assertEqual({}, self.thumbnails._wanted)

    def test_a_worker_that_cannot_be_started(self) -> None:
        asked = self.ask(1)
        self.jobs[0].errback(OSError("no memory"))
        self.assertEqual(503, self.failureResultOf(asked, MatrixError).value.status)
        self.assertEqual(["the worker for thumbnails cannot be started"], self.log.events("error"))
        retried = self.ask(1)
        self.jobs[1].callback(MADE)
        self.assertEqual(b"small", self.successResultOf(retried).data)

    def test_a_disk_that_is_full(self) -> None:
        self.patch(self.files, "keep_thumbnail", self.fail_to_keep)
        asked = self.ask(1)
        self.jobs[0].callback(MADE)
        self.assertEqual(b"small", self.successResultOf(asked).data)
        self.assertEqual(["a thumbnail could not be kept"], self.log.events("warning"))

    def fail_to_keep(self, *_: Any) -> bool:
        raise OSError(28, "No space left on device")

    def test_what_cannot_be_made_is_not_tried_again(self) -> None:
        for verdict, status in (("unsupported", 400), ("too_large", 413)):
            number = len(self.jobs)
            asked = self.ask(number)
            self.jobs[-1].callback(Picture(verdict))  # type: ignore[arg-type]
            for again in (asked, self.ask(number)):
                self.assertEqual(status, self.failureResultOf(again, MatrixError).value.status)
            self.assertEqual(number + 1, len(self.jobs))
        asked = self.ask(9)
        self.jobs[-1].callback(Picture("lost"))
        self.failureResultOf(asked, FileNotFoundError)
        self.ask(9)
        self.assertEqual(4, len(self.jobs))

    def test_what_cannot_be_made_is_not_tried_in_other_sizes(self) -> None:
        sizes = [next_size(1700 + more, 1700, "crop", animated=False) for more in range(3)]
        asked = [Deferred.fromCoroutine(self.thumbnails.get(file(1), size)) for size in sizes]
        self.jobs[0].callback(Picture("unsupported"))
        for one in asked:
            self.assertEqual(400, self.failureResultOf(one, MatrixError).value.status)
        self.assertEqual(1, len(self.jobs))
        # A small one may succeed where a large one takes too long.
        small = self.ask(1)
        self.jobs[1].callback(MADE)
        self.assertEqual(b"small", self.successResultOf(small).data)

    def test_a_file_that_comes_slowly_holds_up_no_others(self) -> None:
        coming: Deferred[None] = Deferred()
        hold = self.thumbnails._storage.hold

        @asynccontextmanager
        async def slow(name: str, size: int) -> AsyncIterator[Path]:
            if name == file(1).sha256:
                await coming
            async with hold(name, size) as path:
                yield path

        self.patch(self.thumbnails._storage, "hold", slow)
        first, second = self.ask(1), self.ask(2)
        self.assertEqual(1, len(self.jobs))
        self.jobs[0].callback(MADE)
        self.successResultOf(second)
        coming.callback(None)
        self.jobs[1].callback(MADE)
        self.successResultOf(first)
