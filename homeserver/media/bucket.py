"""A bucket of S3, or of whatever speaks like it: the five things that are done with one.

1. Objects are written whole or not at all: in one request, or in parts that become an object when all are there.
2. Every request is bounded in time, its answer in size; no redirect is followed. What may be tried again is, shortly.
3. Memory: one part of each file that is being sent (`PART_BYTES`), and of what comes whatever its taker holds.
4. What goes wrong is a BucketError with one line for the administrator, and FileNotFoundError for no such object.
   Neither ever has the secret in it: nothing but the signature knows that.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from twisted.internet.defer import Deferred

from homeserver.http.client import HttpLimits, HttpResponse, parse_url
from homeserver.http.transport import AnswerTooLarge, PeerResponse, TimedOut, Unreachable
from homeserver.http.watched import SLOWEST_BYTES, WATCH_S, Take, Watched
from homeserver.media.files import open_file, read_piece
from homeserver.media.multipart import TooLongError
from homeserver.media.sigv4 import EMPTY_SHA256, Asked, Credentials, encode_query, sign
from homeserver.media.types import RunInThread
from homeserver.runtime.clock import Clock, sleep

# LIMIT(10,000 parts is what S3 takes, so an object may have 80 GiB)
PART_BYTES: Final = 8 * 1024 * 1024
# Besides what a file may take at the slowest pace.
GET_S: Final = 300.0
PUT_S: Final = 120.0
ASK_S: Final = 20.0
PAUSES_S: Final = (0.3, 1.5)
SMALL_BYTES: Final = 64 * 1024
LIST_BYTES: Final = 8 * 1024 * 1024
# LIMIT(1,000 names a page, so a shelf may have half a million: 128 million files in all)
MAX_PAGES: Final = 500

_NAME = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_MEANINGS: Final = {
    "InvalidAccessKeyId": "it does not know the access key",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "AccessDenied": "the access key may not do this",
    "NoSuchBucket": "there is no such bucket",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "PermanentRedirect": "the bucket is at another endpoint",
}


class BucketError(OSError):
    """The bucket cannot be used now."""


class NoAnswerError(BucketError):
    """Nobody there, or nobody who answers in time."""


class BucketHttp(Protocol):
    """Requests to addresses that the administrator names: ``HttpClient``."""

    def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = ...,
        headers: Mapping[str, str] = ...,
        limits: HttpLimits,
        receive: Take | None = ...,
    ) -> Deferred[HttpResponse]:
        """The answer, whatever its status. Fails with Unreachable alone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bucket is."""

    endpoint: str
    """With scheme, without a slash at the end."""
    bucket: str
    prefix: str
    """Of all keys: empty, or with a slash at the end."""
    in_path: bool
    """Whether the bucket's name is in the path (else in the host name)."""

    def url(self, key: str) -> str:
        """Of an object, or (without a key) of the bucket."""
        if self.in_path:
            return f"{self.endpoint}/{self.bucket}" + (f"/{key}" if key else "")
        scheme, _, rest = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{rest}/{key}"

    def key_of(self, name: str) -> str:
        """The key of a file: what its path below the media folder would be."""
        if _NAME.fullmatch(name) is None:
            raise ValueError("not the name of a file")
        return f"{self.prefix}files/{name[:2]}/{name[2:4]}/{name}"

    def __str__(self) -> str:
        return f"{self.bucket} at {self.endpoint}"


class Bucket:
    """See the module."""

    def __init__(
        self,
        http: BucketHttp,
        place: Place,
        credentials: Credentials,
        run_in_thread: RunInThread,
        clock: Clock,
    ) -> None:
        self._http = http
        self.place = place
        self._credentials = credentials
        self._run = run_in_thread
        self._clock = clock

    # --- files ---

    async def put(self, name: str, path: Path, size: int) -> None:
        """The file at ``path``, whose name and size are these. When this is over, the bucket has it."""
        key = self.place.key_of(name)
        if size > PART_BYTES:
            await self._put_parts(key, path, size)
            return
        data = await self._run(_read, path, 0, size)
        await self._ask("PUT", key, body=data, payload_sha256=name, timeout_s=PUT_S)

    async def get(self, name: str, size: int, take: Take) -> None:
        """The bytes of a file, which go to ``take`` as they come: it raises TooLongError after ``size``."""
        key = self.place.key_of(name)

        async def ask(receive: Take) -> PeerResponse:
            # Room for what a refusal says, too; the taker knows when it is enough.
            most = max(size, SMALL_BYTES)
            timeout_s = GET_S + size / SLOWEST_BYTES * WATCH_S
            answer = await self._ask("GET", key, timeout_s=timeout_s, max_bytes=most, receive=receive)
            return PeerResponse(answer.status, b"")

        try:
            await Watched(self._clock, take).run(ask, ASK_S)
        except Unreachable as error:
            raise BucketError(f"bucket {self.place}: {error}") from None
        except TooLongError:
            raise BucketError(f"bucket {self.place}: {key} is larger than it was") from None

    async def remove(self, name: str) -> None:
        """No longer have a file; nothing happens where there is none."""
        await self._ask("DELETE", self.place.key_of(name))

    async def modified_s(self, name: str) -> float | None:
        """When a file was put there, by the bucket's clock; None where it is not there."""
        key = self.place.key_of(name)
        found, _ = await self._page({"prefix": key, "max-keys": "1"})
        return found.get(key)

    async def names(self, shelf: str) -> AsyncIterator[tuple[str, float]]:
        """Name and age of the files whose names begin with these two digits."""
        parameters = {"prefix": f"{self.place.prefix}files/{shelf}/"}
        for _ in range(MAX_PAGES):
            found, more = await self._page(parameters)
            for key, modified_s in found.items():
                name = key.rpartition("/")[2]
                if _NAME.fullmatch(name) and key == self.place.key_of(name):
                    yield name, modified_s
            if not more:
                return
            parameters["continuation-token"] = more

    # --- small things ---

    async def put_note(self, key: str, text: str) -> None:
        """A few bytes under a key that is no file's."""
        data = text.encode()
        digest = sha256(data).hexdigest()
        await self._ask("PUT", self.place.prefix + key, body=data, payload_sha256=digest)

    async def get_note(self, key: str) -> str | None:
        """What was noted, if anything was."""
        try:
            answer = await self._ask("GET", self.place.prefix + key)
        except FileNotFoundError:
            return None
        return answer.body.decode("utf-8", "replace")

    async def remove_note(self, key: str) -> None:
        """Remove what was noted."""
        await self._ask("DELETE", self.place.prefix + key)

    # --- how ---

    async def _put_parts(self, key: str, path: Path, size: int) -> None:
        begun = await self._ask("POST", key, {"uploads": ""})
        upload_id = await self._parse(begun.body, "InitiateMultipartUploadResult", "UploadId")
        try:
            parts = []
            for number, offset in enumerate(range(0, size, PART_BYTES), 1):
                data, digest = await self._run(_read_hashed, path, offset, min(PART_BYTES, size - offset))
                query = {"partNumber": str(number), "uploadId": upload_id}
                sent = await self._ask("PUT", key, query, body=data, payload_sha256=digest, timeout_s=PUT_S)
                etag = escape(sent.headers.get("etag", ""))
                parts.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            text = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()
            ended = await self._ask(
                "POST",
                key,
                {"uploadId": upload_id},
                body=text,
                payload_sha256=sha256(text).hexdigest(),
                timeout_s=PUT_S,
            )
            # It may say 200 and fail all the same: the status is sent before the parts are put together.
            await self._parse(ended.body, "CompleteMultipartUploadResult", "ETag")
        except BaseException:
            # The parts would be paid for. Nobody waits for this; what is left is for a rule of the bucket.
            forget = Deferred.fromCoroutine(self._ask("DELETE", key, {"uploadId": upload_id}))
            forget.addErrback(lambda _: None)
            raise

    async def _page(self, parameters: Mapping[str, str]) -> tuple[dict[str, float], str]:
        """Keys with their ages, and what to ask for those that follow."""
        answer = await self._ask("GET", "", {"list-type": "2", **parameters}, max_bytes=LIST_BYTES)
        try:
            page: tuple[dict[str, float], str] = await self._run(_read_page, answer.body)
        except (ET.ParseError, ValueError):
            raise BucketError(f"bucket {self.place}: its list makes no sense") from None
        return page

    async def _parse(self, body: bytes, root: str, field: str) -> str:
        try:
            document = _parse_xml(body)
        except (ET.ParseError, ValueError):
            raise BucketError(f"bucket {self.place}: its answer makes no sense") from None
        text = _text(document, field)
        if _plain(document.tag) != root or not text:
            raise self._refusal(200, body)
        return text

    async def _ask(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        payload_sha256: str = EMPTY_SHA256,
        timeout_s: float = ASK_S,
        max_bytes: int = SMALL_BYTES,
        receive: Take | None = None,
    ) -> HttpResponse:
        """A 2xx answer. Tries again where nothing has come yet; all that is done here may be done twice."""
        has_begun = False

        def note(data: bytes) -> None:
            nonlocal has_begun
            has_begun = True
            if receive is not None:
                receive(data)

        limits = HttpLimits(timeout_s, max_bytes)
        text = encode_query(query or {})
        url = self.place.url(key) + (f"?{text}" if text else "")
        problem = BucketError("")
        for pause_s in (*PAUSES_S, None):
            headers = self._sign(method, url, text, payload_sha256)
            try:
                answer = await self._http.request(
                    method,
                    url,
                    body=body,
                    headers=headers,
                    limits=limits,
                    receive=None if receive is None else note,
                )
            except AnswerTooLarge:
                raise BucketError(f"bucket {self.place}: its answer is too large") from None
            except Unreachable as error:
                if has_begun:
                    # It did answer: others need not give it up.
                    raise BucketError(f"bucket {self.place} breaks off: {error}") from None
                problem = NoAnswerError(f"bucket {self.place} cannot be reached: {error}")
                if isinstance(error, TimedOut):
                    raise problem from None
            else:
                if answer.status in (200, 204):
                    return answer
                if answer.status not in _BUSY:
                    raise self._refusal(answer.status, answer.body)
                problem = BucketError(f"bucket {self.place} is busy or broken (status {answer.status})")
            if pause_s is not None:
                await sleep(self._clock, pause_s)
        raise problem

    def _sign(self, method: str, url: str, query: str, payload_sha256: str) -> dict[str, str]:
        _, host, target = parse_url(url, ("https", "http"), verify=True)
        asked = Asked(method, target.partition("?")[0], query, {"host": host}, payload_sha256)
        return sign(asked, self._credentials, self._clock.now_ms())

    def _refusal(self, status: int, body: bytes) -> OSError:
        found = _CODE.search(body[:SMALL_BYTES])
        code = "" if found is None else found[1].decode("ascii")
        # Whatever else is not found, like the bucket itself or what a proxy looks for, has not lost this file.
        if status == 404 and code == "NoSuchKey":
            return FileNotFoundError(f"bucket {self.place}: no such object")
        meaning = _MEANINGS.get(code, "it refuses")
        return BucketError(f"bucket {self.place}: {meaning} (status {status}{code and f', {code}'})")


def _read(path: Path, offset: int, length: int) -> bytes:
    with open_file(path) as file:
        data = read_piece(file, offset, length)
    if len(data) != length:
        raise OSError("a file is shorter than it was")
    return data


def _read_hashed(path: Path, offset: int, length: int) -> tuple[bytes, str]:
    data = _read(path, offset, length)
    return data, sha256(data).hexdigest()


def _read_page(body: bytes) -> tuple[dict[str, float], str]:
    document = _parse_xml(body)
    if _plain(document.tag) != "ListBucketResult":
        raise ValueError("no list")
    found: dict[str, float] = {}
    for entry in document:
        if _plain(entry.tag) == "Contents":
            moment = datetime.fromisoformat(_text(entry, "LastModified"))
            if moment.tzinfo is None:
                raise ValueError("a time without a zone")
            found[_text(entry, "Key")] = moment.timestamp()
    if _text(document, "IsTruncated") != "true":
        return found, ""
    more = _text(document, "NextContinuationToken")
    if not more:
        raise ValueError("a list that goes on nowhere")
    return found, more


def _parse_xml(body: bytes) -> ET.Element:
    if b"<!" in body:
        # Neither document types nor entities, so nothing in it can grow.
        raise ValueError("not the XML of a bucket")
    return ET.fromstring(body)  # noqa: S314 (see above; its size is bounded too)


def _plain(tag: str) -> str:
    """A name without its namespace: some say it, some do not."""
    return tag.rpartition("}")[2]


def _text(element: ET.Element, field: str) -> str:
    return next((child.text or "" for child in element if _plain(child.tag) == field), "")
