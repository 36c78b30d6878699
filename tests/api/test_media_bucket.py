"""Media in a bucket: what must not be lost, and buckets that break, lie, stall, or belong to somebody else."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from twisted.internet.defer import Deferred

from homeserver.http.transport import TimedOut, Unreachable
from homeserver.http.watched import WATCH_S
from homeserver.media import files
from homeserver.media.bucket import GET_S, PART_BYTES
from homeserver.media.bucket_store import AT_ONCE_EACH_WAY, GIVEN_UP_S, OWNER_KEY, BucketStore
from homeserver.media.sweep import ORPHAN_AGE_S
from tests.api.media import DOWNLOAD, THUMBNAIL, UPLOAD, MediaCase
from tests.support.bucket import SECRET, Call, Reply, error, s3_settings
from tests.support.http import Query
from tests.unit.media.pictures import picture

SIZE: Query = {"width": 32, "height": 32, "method": "crop"}


def name_of(data: bytes) -> str:
    return sha256(data).hexdigest()


class BucketCase(MediaCase):
    in_bucket = True

    def reopen(self, **changes: object) -> None:
        """Another process, with an empty folder and other settings."""
        self.empty()
        media = replace(self.app.config.media, s3=s3_settings(**changes))
        self.app.config = replace(self.app.config, media=media)
        self.app.restart()

    def empty(self) -> None:
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()

    def script(self, *replies: Reply | Exception) -> None:
        """What the bucket says to the next ones who ask."""
        waiting = list(replies)
        self.bucket.script = lambda _: waiting.pop(0) if waiting else None

    def asked(self, method: str = "GET") -> list[str]:
        """What was asked since the last time."""
        found = [call.target for call in self.bucket.calls if call.method == method]
        self.bucket.calls.clear()
        return found

    def errors(self) -> list[str]:
        found = [str(fields["problem"]) for level, _, fields in self.app.log.entries if level == "error"]
        self.app.log.entries.clear()
        for line in found:
            self.assertNotIn(SECRET, line)
        return found

    def sweep(self) -> int:
        return self.app.wait(Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep()))

    def failing_sweep(self) -> str:
        """What is wrong with it."""
        sweep = Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep())
        said: Deferred[str] = sweep.addCallbacks(lambda _: "nothing", lambda failure: str(failure.value))
        return self.app.wait(said)

    def patient(self, method: str, path: str, data: bytes | None = None) -> tuple[int, str | None]:
        """The answer, with as much time as it takes."""
        waiting = self.app.start(method, path, data, self.alice)
        for _ in range(100):
            if waiting.called:
                break
            self.app.advance(1)
        answer = self.app.wait(waiting)
        return answer.status, answer.errcode


class Kept(BucketCase):
    def test_where_it_is(self) -> None:
        name = name_of(b"data")
        self.upload(b"data")
        key = f"chat/media/files/{name[:2]}/{name[2:4]}/{name}"
        self.assertEqual({key, f"chat/media/{OWNER_KEY}"}, set(self.bucket.objects))

    def test_addressed_by_host(self) -> None:
        self.reopen(addressing="virtual", prefix="")
        address = self.upload(b"data")
        self.reopen(addressing="virtual", prefix="")
        self.bucket.calls.clear()
        self.assertEqual(b"data", self.get(address).body)
        name = name_of(b"data")
        (call,) = self.bucket.calls
        self.assertEqual(f"/files/{name[:2]}/{name[2:4]}/{name}", call.path)
        self.assertEqual("chaos-media.s3.test.example:9000", call.headers["host"])

    def test_fetched_once_and_then_at_hand(self) -> None:
        data = os.urandom(500_000)
        address = self.upload(data)
        self.reopen()
        self.bucket.calls.clear()
        for _ in range(3):
            self.assertEqual(data, self.get(address).body)
        part = self.get(address, {"Range": "bytes=100-199"})
        self.assertEqual((206, data[100:200]), (part.status, part.body))
        self.assertEqual(1, len(self.asked()))

    def test_nothing_is_fetched_for_who_has_it(self) -> None:
        address = self.upload(b"data")
        self.reopen()
        self.bucket.calls.clear()
        self.assertEqual(304, self.get(address, {"If-None-Match": f'"{name_of(b"data")}"'}).status)
        self.assertEqual([], self.bucket.calls)

    def test_the_folder_is_emptied_while_we_run(self) -> None:
        address = self.upload(b"data")
        self.empty()
        self.assertEqual(b"data", self.get(address).body)

    def test_thumbnails_are_made_again(self) -> None:
        address = self.upload(picture(100, 100))
        for _ in range(2):
            found = self.get(address, None, SIZE, THUMBNAIL)
            self.assertEqual((200, "image/jpeg"), (found.status, found.headers["content-type"]))
            self.assertEqual(1, len(self.stored("thumbnails")))
            self.reopen()
            self.assertEqual([], self.stored("thumbnails"))

    def test_room_is_made_while_a_thumbnail_is_looked_up(self) -> None:
        address = self.upload(picture(100, 100))
        self.assertEqual(200, self.get(address, None, SIZE, THUMBNAIL).status)
        storage, find = self.storage, files.MediaFiles.find_thumbnail
        assert isinstance(storage, BucketStore)

        def look(folder: files.MediaFiles, name: str, variant: str) -> Path | None:
            found = find(folder, name, variant)
            storage._at_hand.note(("0" * 64, False), 2**50)
            self.app.wait(Deferred.fromCoroutine(storage._make_room()))
            return found

        self.patch(files.MediaFiles, "find_thumbnail", look)
        self.assertEqual(200, self.get(address, None, SIZE, THUMBNAIL).status)

    def test_the_folder_is_bounded(self) -> None:
        self.reopen(cache_bytes=1_000_000)
        data = [os.urandom(300_000) for _ in range(6)]
        addresses = [self.upload(one) for one in data]
        for _ in range(2):
            for address, one in zip(addresses, data, strict=True):
                self.assertEqual(one, self.get(address).body)
                files = [path for path in (self.folder / "files").rglob("*") if path.is_file()]
                self.assertEqual(3, len(files))
        self.app.restart()
        # What is there is counted, and not fetched again.
        self.bucket.calls.clear()
        self.assertEqual(data[-1], self.get(addresses[-1]).body)
        self.assertEqual([], self.asked())
        self.upload(os.urandom(900_000))
        files = [path for path in (self.folder / "files").rglob("*") if path.is_file()]
        self.assertEqual(1, len(files))

    def test_thumbnails_that_are_not_kept_take_no_room(self) -> None:
        self.patch(files, "MAX_VARIANTS", 2)
        address = self.upload(picture(300, 300))
        for height in range(10, 60, 10):
            found = self.get(address, None, {**SIZE, "width": 90, "height": height}, THUMBNAIL)
            self.assertEqual((200, "image/jpeg"), (found.status, found.headers["content-type"]))
        self.assertEqual(2, len(self.stored("thumbnails")))
        storage = self.storage
        assert isinstance(storage, BucketStore)
        there = sum(size for _, _, size, _ in storage._cache.files.inventory())
        self.assertEqual(there, storage._at_hand.bytes)

    def test_in_parts(self) -> None:
        self.configure(max_upload_bytes=3 * PART_BYTES)
        data = os.urandom(2 * PART_BYTES + 5)
        address = self.upload(data)
        self.assertEqual(({}, [name_of(data)]), (self.bucket.uploads, self.stored()))
        self.reopen()
        self.configure(max_upload_bytes=3 * PART_BYTES)
        self.assertEqual(data, self.get(address).body)

    def test_parts_that_do_not_become_one(self) -> None:
        self.configure(max_upload_bytes=3 * PART_BYTES)
        data = os.urandom(PART_BYTES + 5)

        def fail_at_the_end(call: Call) -> Reply | None:
            # With 200, as S3 does.
            ends = call.method == "POST" and "uploadId" in call.query
            return replace(error(200, "InternalError")) if ends else None

        for script in (
            fail_at_the_end,
            lambda call: error(403, "AccessDenied") if "partNumber" in call.query else None,
        ):
            self.bucket.script = script
            self.refused(self.post(data), 503, "M_UNKNOWN")
            self.assertEqual(([], {}), (self.stored(), self.bucket.uploads))
            self.assertEqual([], self.stored("incoming"))
            self.assertEqual(1, len(self.errors()))


class Acknowledged(BucketCase):
    def test_not_before_the_bucket_has_it(self) -> None:
        self.upload(b"first")
        self.bucket_http.holds = lambda call: call.method == "PUT"
        waiting = self.app.start("POST", UPLOAD, b"data", self.alice)
        self.app.advance(1)
        self.assertFalse(waiting.called)
        self.bucket_http.release()
        self.assertEqual(200, self.app.wait(waiting).status)
        self.assertEqual(sorted([name_of(b"first"), name_of(b"data")]), self.stored())

    def test_who_goes_away_leaves_what_the_sweep_takes(self) -> None:
        self.upload(b"first")
        self.bucket_http.holds = lambda call: call.method == "PUT"
        request = self.app.http.request("POST", UPLOAD, b"data", self.alice)
        waiting = self.app.app.router.dispatch(request)
        assert isinstance(waiting, Deferred)
        waiting.addErrback(lambda _: None)
        self.app.advance(0)
        waiting.cancel()
        self.bucket_http.release()
        self.app.advance(1)
        self.assertEqual([], self.stored("incoming"))
        # It arrived at the bucket all the same.
        self.bucket.objects[
            "chat/media/files/" + "/".join([name_of(b"data")[:2], name_of(b"data")[2:4], name_of(b"data")])
        ] = (
            b"data",
            self.app.time.seconds(),
        )
        self.app.advance(ORPHAN_AGE_S + 1)
        self.sweep()
        self.assertEqual([name_of(b"first")], self.stored())

    def test_the_sweep_does_not_take_what_comes_meanwhile(self) -> None:
        name = self.app.wait(Deferred.fromCoroutine(self.storage.store([b"again"])))
        self.app.advance(ORPHAN_AGE_S + 1)
        self.bucket_http.holds = lambda call: call.method == "DELETE"
        sweep = Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep())
        self.app.advance(0)
        self.assertEqual(1, len(self.bucket_http.held))
        # The sweep has begun to remove it: the upload comes after that.
        waiting = self.app.start("POST", UPLOAD, b"again", self.alice)
        self.app.advance(1)
        self.assertFalse(waiting.called)
        self.bucket_http.holds = lambda _: False
        self.bucket_http.release()
        address = self.app.wait(waiting).json["content_uri"].removeprefix("mxc://")
        self.app.wait(sweep)
        self.assertEqual([name], self.stored())
        self.reopen()
        self.assertEqual(b"again", self.get(address).body)

    def test_filled_later(self) -> None:
        address = self.create()
        self.script(error(403, "AccessDenied"))
        path = f"/_matrix/media/v3/upload/{address}"
        self.refused(self.app.answer("PUT", path, b"later", self.alice), 503, "M_UNKNOWN")
        self.errors()
        self.assertEqual(200, self.app.answer("PUT", path, b"later", self.alice).status)
        self.reopen()
        self.assertEqual(b"later", self.get(address).body)


class Broken(BucketCase):
    """Whatever it says: the specification's error, one clear line, and it works again when the bucket does."""

    def setUp(self) -> None:
        super().setUp()
        self.address = self.upload(b"data" * 50_000)
        self.reopen()
        self.post(b"so that the bucket is known to be ours")

    def expect(self, *replies: Reply | Exception, line: str) -> None:
        for method, path, data in (("GET", f"{DOWNLOAD}/{self.address}", None), ("POST", UPLOAD, b"new")):
            self.script(*replies)
            self.assertEqual((503, "M_UNKNOWN"), self.patient(method, path, data), line)
            (said,) = self.errors()
            self.assertIn(line, said)
            self.assertIn("chaos-media at http://s3.test.example:9000", said)
            self.app.advance(GIVEN_UP_S)
        self.script()
        self.assertEqual([], self.stored("incoming"))
        found = self.get(self.address)
        self.assertEqual((200, b"data" * 50_000), (found.status, found.body))
        self.empty()

    def test_refusals(self) -> None:
        for status, code, line in (
            (403, "InvalidAccessKeyId", "it does not know the access key"),
            (403, "SignatureDoesNotMatch", "the secret access key is wrong"),
            (403, "AccessDenied", "may not do this"),
            (404, "NoSuchBucket", "there is no such bucket"),
            (400, "AuthorizationHeaderMalformed", "the region is wrong"),
            (301, "PermanentRedirect", "at another endpoint"),
            (307, "TemporaryRedirect", "it refuses (status 307, TemporaryRedirect)"),
            (418, "x" * 500, "it refuses (status 418)"),
        ):
            self.expect(error(status, code), line=line)

    def test_busy(self) -> None:
        for status in (429, 500, 503):
            self.expect(*[error(status, "SlowDown")] * 3, line=f"busy or broken (status {status})")
            # Once is forgiven.
            self.script(error(status, "SlowDown"))
            self.assertEqual((200, None), self.patient("GET", f"{DOWNLOAD}/{self.address}"))
            self.script(error(status, "SlowDown"))
            self.assertEqual((200, None), self.patient("POST", UPLOAD, b"new"))
            self.empty()

    def test_nobody_there(self) -> None:
        self.expect(*[Unreachable("refused")] * 3, line="cannot be reached: refused")
        self.expect(TimedOut("no answer in time"), line="cannot be reached: no answer in time")

    def test_after_no_answer_nobody_waits_for_one(self) -> None:
        self.bucket.script = lambda _: TimedOut("no answer")
        self.assertEqual((503, "M_UNKNOWN"), self.patient("GET", f"{DOWNLOAD}/{self.address}"))
        self.bucket.calls.clear()
        self.refused(self.get(self.address), 503, "M_UNKNOWN")
        self.refused(self.post(b"x"), 503, "M_UNKNOWN")
        self.assertEqual([], self.bucket.calls)
        self.script()
        self.app.advance(GIVEN_UP_S)
        self.assertEqual(200, self.get(self.address).status)
        self.errors()

    def test_answers_that_are_not_the_file(self) -> None:
        for reply, line in (
            (Reply(200, b"data" * 49_999), "is something else"),
            (Reply(200, b"tada" * 50_000), "is something else"),
            (Reply(200, b"data" * 50_001), "too large"),
            (Reply(200, b""), "is something else"),
            (Reply(200, b"data" * 100, ends_early=True), "broke off"),
            (Reply(206, b"data" * 50_000), "refuses (status 206)"),
        ):
            self.script(reply)
            self.assertEqual((503, "M_UNKNOWN"), self.patient("GET", f"{DOWNLOAD}/{self.address}"))
            self.assertIn(line, *self.errors())
            self.app.advance(GIVEN_UP_S)
            self.assertEqual([], self.stored("incoming"))
            self.assertEqual(b"data" * 50_000, self.get(self.address).body)
            self.empty()

    def test_a_bucket_that_stalls(self) -> None:
        self.bucket_http.holds = lambda _: True
        waiting = self.app.start("GET", f"{DOWNLOAD}/{self.address}", None, self.alice)
        self.app.advance(20 + WATCH_S)
        answer = self.app.wait(waiting)
        self.assertEqual((503, "M_UNKNOWN"), (answer.status, answer.errcode))
        self.assertIn("too slowly", *self.errors())
        self.assertLess(20 + WATCH_S, GET_S)

    def test_a_few_at_once_and_others_are_not_held_up(self) -> None:
        data = [bytes([number]) * 1000 for number in range(AT_ONCE_EACH_WAY + 5)]
        addresses = [self.upload(one) for one in data]
        at_hand = self.upload(b"at hand")
        self.reopen()
        self.get(at_hand)
        self.bucket_http.holds = lambda _: True
        waiting = [self.app.start("GET", f"{DOWNLOAD}/{one}", None, self.alice) for one in addresses]
        self.app.advance(0)
        self.assertEqual(AT_ONCE_EACH_WAY, len(self.bucket_http.held))
        self.assertEqual(b"at hand", self.get(at_hand).body)
        self.bucket_http.holds = lambda _: False
        self.bucket_http.release()
        self.assertEqual(data, [self.app.wait(one).body for one in waiting])

    def test_what_is_at_hand_does_not_wait_for_what_comes(self) -> None:
        data = picture(100, 100)
        address = self.upload(data)
        self.assertEqual(200, self.get(address, None, SIZE, THUMBNAIL).status)
        for path in (self.folder / "files").rglob(name_of(data)):
            path.unlink()
        self.bucket_http.holds = lambda _: True
        waiting = self.app.start("GET", f"{DOWNLOAD}/{address}", None, self.alice)
        self.app.advance(0)
        self.assertEqual(1, len(self.bucket_http.held))
        # The thumbnail is there, though the file is under way.
        self.assertEqual(200, self.get(address, None, SIZE, THUMBNAIL).status)
        self.bucket_http.release()
        self.assertEqual(data, self.app.wait(waiting).body)

    def test_room_is_made_without_waiting(self) -> None:
        self.reopen(cache_bytes=1)
        at_hand, other = self.upload(b"one"), self.upload(b"other")
        self.bucket_http.holds = lambda call: name_of(b"one") in call.path
        waiting = self.app.start("GET", f"{DOWNLOAD}/{at_hand}", None, self.alice)
        self.app.advance(0)
        self.assertEqual(b"other", self.get(other).body)
        self.upload(b"more")
        self.bucket_http.release()
        self.assertEqual(b"one", self.app.wait(waiting).body)
        self.assertEqual([], [path for path in (self.folder / "files").rglob("*") if path.is_file()])

    def test_one_fetch_for_all_who_want_it(self) -> None:
        self.bucket.calls.clear()
        self.bucket_http.holds = lambda _: True
        waiting = [self.app.start("GET", f"{DOWNLOAD}/{self.address}", None, self.alice) for _ in range(5)]
        self.app.advance(0)
        waiting[0].addErrback(lambda _: None)
        waiting[0].cancel()
        self.assertEqual(1, len(self.bucket_http.held))
        self.bucket_http.release()
        for one in waiting[1:]:
            self.assertEqual(200, self.app.wait(one).status)
        self.assertEqual(1, len(self.bucket.calls))

    def test_thumbnails_of_what_cannot_be_had(self) -> None:
        address = self.upload(picture(100, 100))
        self.empty()
        self.script(error(403, "AccessDenied"))
        self.refused(self.get(address, None, SIZE, THUMBNAIL), 503, "M_UNKNOWN")
        self.assertIn("may not do this", *self.errors())
        self.script(error(404, "NoSuchKey"))
        self.refused(self.get(address, None, SIZE, THUMBNAIL), 404, "M_NOT_FOUND")
        self.assertEqual(1, len(self.errors()))
        self.assertEqual(200, self.get(address, None, SIZE, THUMBNAIL).status)

    def test_lists_that_make_no_sense(self) -> None:
        bomb = b'<!DOCTYPE a [<!ENTITY b "cc">]><ListBucketResult>&b;</ListBucketResult>'
        inside = b"<ListBucketResult><Contents><Key>k</Key><LastModified>%s</LastModified></Contents>%s</ListBucketResult>"
        for body in (
            b"",
            b"\xff\x00<",
            b"{}",
            bomb,
            b"<Other/>",
            b"<a>" * 100_000,
            inside % (b"yesterday", b""),
            inside % (b"2026-01-01T00:00:00", b""),
            inside % (b"2026-01-01T00:00:00Z", b"<IsTruncated>true</IsTruncated>"),
        ):
            self.script(Reply(200, body))
            self.assertIn("makes no sense", self.failing_sweep())
        self.script()
        self.assertEqual(2, len(self.stored()))

    def test_a_list_without_an_end(self) -> None:
        endless = b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>"
        self.bucket.script = lambda call: Reply(200, endless) if "list-type" in call.query else None
        names = Deferred.fromCoroutine(self.storage.older_than("ab", 1.0))
        self.assertEqual([], self.app.wait(names))


class Others(BucketCase):
    def test_a_bucket_of_somebody_else(self) -> None:
        mine = self.upload(b"mine")
        self.bucket.objects[f"chat/media/{OWNER_KEY}"] = (b"other.example", 0.0)
        self.reopen()
        self.refused(self.post(b"x"), 503, "M_UNKNOWN")
        self.assertIn("'other.example' keeps its media there; take another prefix", *self.errors())
        self.app.advance(ORPHAN_AGE_S + 1)
        name = name_of(b"theirs")
        self.bucket.objects[f"chat/media/files/{name[:2]}/{name[2:4]}/{name}"] = (b"theirs", 0.0)
        self.assertIn("take another prefix", self.failing_sweep())
        self.assertEqual(sorted([name, name_of(b"mine")]), self.stored())
        self.assertEqual(b"mine", self.get(mine).body)

    def test_what_is_not_ours_under_our_prefix(self) -> None:
        keys = ["chat/media/files/ab/README", "chat/media/files/ab/ab/" + "AB" * 32, "chat/mediafiles/x", "z"]
        for key in keys:
            self.bucket.objects[key] = (b"", 0.0)
        self.upload(b"mine")
        self.app.advance(ORPHAN_AGE_S + 1)
        self.sweep()
        self.assertLessEqual(set(keys), set(self.bucket.objects))

    def test_the_sweep_reads_long_lists(self) -> None:
        for number in range(8):
            name = f"ab{number:062x}"
            self.bucket.objects[f"chat/media/files/ab/00/{name}"] = (b"", 0.0)
        self.upload(b"mine")
        self.app.advance(ORPHAN_AGE_S + 1)
        self.sweep()
        self.assertEqual([name_of(b"mine")], self.stored())
