"""Media of other servers: fetched from where they come from, kept on the disk and as a row like our own.

1. A file is fetched once at a time, however many want it; who stops waiting stops nothing that has begun.
2. Only its own server is asked (``mxc://server/id``), by the signed endpoints, and by the old ones where it has no other.
3. What comes is never larger on the disk than ``max_upload_bytes``, and never seen by anybody before it is whole.
4. Fetches are bounded in number, by server too, in their time, and in how slow they may be. A file that is not uploaded
   yet keeps no others from being fetched.
spec: server-server-api#content-repository
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred

from federation.errors import RemoteError
from federation.ids import ServerName
from homeserver.config.schema import Media
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.errors import MatrixError, limit_exceeded, not_found
from homeserver.http.transport import AnswerTooLarge, PeerResponse, Unreachable, build_uri
from homeserver.http.watched import Take, Watched
from homeserver.media.inflow import Inflow
from homeserver.media.multipart import (
    MAX_AROUND,
    BadMultipartError,
    Described,
    MultipartReader,
    TooLongError,
    file_name_of,
)
from homeserver.media.storage import MediaStore
from homeserver.media.types import MAX_NAME_BYTES, RunInThread, clean_content_type
from homeserver.peers.types import PeerClient
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.runtime.shared import Busy, Shared
from homeserver.runtime.slots import Full, Slots
from homeserver.store.media import Upload, insert_remote
from homeserver.store.work import Worker

FETCHES: Final = 48
FETCHES_EACH: Final = 8
WAITING: Final = 1_000
# For the whole of a file, after the time that its server may wait for it to be uploaded.
FETCH_S: Final = 300.0
RETRY_AFTER_MS: Final = 5_000
# A file that is not uploaded yet is waited for without a place, but for so long at a time: others may be there already.
ASK_FOR_MS: Final = 5_000
_NOT_YET: Final = "M_NOT_YET_UPLOADED"

_SIGNED: Final = "/_matrix/federation/v1/media/download"
_OLD: Final = "/_matrix/media/v3/download"


class PlainHttp(Protocol):
    """Requests to whatever address another server names, but none of our own network: ``HttpClient``."""

    def request(
        self, method: str, url: str, *, limits: HttpLimits, receive: Take | None = None
    ) -> Deferred[HttpResponse]:
        """The answer, whatever its status. Fails with Unreachable alone."""


class RemoteMedia:
    """The fetches."""

    def __init__(
        self,
        client: PeerClient,
        http: PlainHttp | None,
        worker: Worker,
        storage: MediaStore,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
        settings: Callable[[], Media],
    ) -> None:
        self._client = client
        self._http = http
        self._worker = worker
        self._storage = storage
        self._run = run_in_thread
        self._clock = clock
        self._log = log
        self._settings = settings
        self._slots = Slots(FETCHES, FETCHES_EACH, WAITING)
        self._fetches: Shared[tuple[str, str], None] = Shared(clock, most_running=FETCHES + WAITING)

    def stop(self) -> None:
        """Break off whatever comes in."""
        self._fetches.stop()

    async def fetch(self, origin: str, media_id: str, timeout_ms: int) -> None:
        """Have the file here, with its row; raises the MatrixError for the client."""
        if not self._client.allows(origin):
            raise not_found("There is no such media")
        try:
            await self._fetches.get(
                (origin, media_id), lambda: self._in_turn(ServerName(origin), media_id, timeout_ms)
            )
        except (Full, Busy):
            raise _too_many("Too much media is being fetched") from None
        except (RemoteError, Unreachable, BadMultipartError, TooLongError) as error:
            raise _to_client(error, origin) from None
        except OSError as error:
            self._log.error("a file of another server could not be stored", origin=origin, problem=str(error))
            raise MatrixError(503, "M_UNKNOWN", "The server cannot store files at the moment") from None

    async def _in_turn(self, origin: ServerName, media_id: str, timeout_ms: int) -> None:
        """Have the file. Where it is not uploaded yet its server is asked again and again, as long as somebody waits."""
        clock = self._clock
        ends_s = clock.monotonic() + timeout_ms / 1000
        while True:
            async with self._slots.place(origin):
                if not self._fetches.is_wanted((origin, media_id)):
                    # Whoever waited for its turn, or for the upload, has gone meanwhile.
                    raise CancelledError
                began_s = clock.monotonic()
                wait_ms = min(max(round((ends_s - began_s) * 1000), 0), ASK_FOR_MS)
                try:
                    return await self._fetch(origin, media_id, wait_ms)
                except RemoteError as error:
                    now_s = clock.monotonic()
                    # Whoever does not wait as it was asked to would be asked again at once, and in vain.
                    has_waited = (now_s - began_s) * 1000 >= 0.9 * wait_ms
                    if error.errcode != _NOT_YET or not has_waited or now_s >= ends_s:
                        raise

    async def _fetch(self, origin: ServerName, media_id: str, timeout_ms: int) -> None:
        limit = self._settings().max_upload_bytes
        inflow = Inflow(self._storage, self._run, limit)
        try:
            described = await self._ask(origin, media_id, timeout_ms, inflow)
            if described.location is not None:
                described = await self._follow(described.location, inflow)
            name = await inflow.finish()
        except BaseException:
            # Also when the server stops: nothing to wait for then.
            Deferred.fromCoroutine(inflow.discard()).addErrback(self._not_removed)
            raise
        upload = Upload(
            name,
            inflow.size,
            clean_content_type(described.content_type),
            file_name_of(described.disposition, MAX_NAME_BYTES),
        )
        await self._worker.work(insert_remote, origin, media_id, upload, self._clock.now_ms())

    def _not_removed(self, failure: Any) -> None:
        self._log.warning("an unfinished file could not be removed", problem=str(failure.value))

    # --- the three ways to a file --------------------------------------------------------------------

    async def _ask(self, origin: ServerName, media_id: str, timeout_ms: int, inflow: Inflow) -> Described:
        limit = self._settings().max_upload_bytes
        reader = MultipartReader(inflow.write, limit)
        uri = build_uri(_SIGNED, media_id, query={"timeout_ms": timeout_ms})
        try:
            answer = await self._request(origin, uri, timeout_ms, limit + MAX_AROUND, reader.feed)
        except RemoteError as error:
            if not _has_no_endpoint(error):
                raise
            return await self._ask_old(origin, media_id, timeout_ms, inflow)
        return reader.close(answer.headers.get("content-type", ""))

    async def _ask_old(self, origin: ServerName, media_id: str, timeout_ms: int, inflow: Inflow) -> Described:
        # COMPAT(servers of before v1.11, until they are gone)
        # spec: server-server-api#content-repository ("MUST be sure to set allow_remote to false")
        query: Mapping[str, str | int] = {"allow_remote": "false", "timeout_ms": timeout_ms}
        uri = build_uri(_OLD, origin, media_id, query=query)
        limit = self._settings().max_upload_bytes
        return _described(await self._request(origin, uri, timeout_ms, limit, inflow.write))

    async def _follow(self, location: str, inflow: Inflow) -> Described:
        """To where the server keeps its files."""
        if self._http is None or not location.isascii() or not location.lower().startswith("https://"):
            raise BadMultipartError("The file is at a place that is not looked at")
        limit, http = self._settings().max_upload_bytes, self._http

        async def get(receive: Take) -> PeerResponse:
            limits = HttpLimits(FETCH_S, limit, schemes=("https",))
            answer = await http.request("GET", location, limits=limits, receive=receive)
            return PeerResponse(answer.status, answer.body, answer.headers)

        answer = await Watched(self._clock, inflow.write).run(get, 0.0)
        if answer.status != 200:
            raise RemoteError("M_UNKNOWN", 502, "There is no file where the server says")
        return _described(answer)

    def _request(
        self, origin: ServerName, uri: str, timeout_ms: int, max_bytes: int, take: Take
    ) -> Awaitable[PeerResponse]:
        wait_s = timeout_ms / 1000

        def ask(receive: Take) -> Awaitable[PeerResponse]:
            return self._client.ask_raw(
                origin, "GET", uri, timeout_s=wait_s + FETCH_S, max_bytes=max_bytes, receive=receive
            )

        return Watched(self._clock, take).run(ask, wait_s)


def _described(answer: PeerResponse) -> Described:
    headers = answer.headers
    return Described(headers.get("content-type", ""), headers.get("content-disposition", ""))


def _has_no_endpoint(error: RemoteError) -> bool:
    # spec: server-server-api#content-repository (404; 405 and 400 are what still older servers say)
    return error.errcode == "M_UNRECOGNIZED" and error.status in (400, 404, 405)


def _to_client(error: Exception, origin: str) -> MatrixError:
    """# spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid (its errors)"""
    if isinstance(error, TooLongError | AnswerTooLarge):
        return MatrixError(502, "M_TOO_LARGE", "The file is larger than what is shown here")
    if isinstance(error, RemoteError):
        if error.errcode == _NOT_YET:
            return MatrixError(504, _NOT_YET, "The file has not been uploaded yet")
        if error.errcode == "M_TOO_LARGE":
            return MatrixError(502, "M_TOO_LARGE", f"The file is larger than what {origin} serves")
        if error.status in (403, 404):
            return not_found("There is no such media")
        if error.status == 429:
            return _too_many(f"{origin} is asked for too much")
    if isinstance(error, Unreachable):
        return MatrixError(502, "M_UNKNOWN", f"{origin} cannot be reached, or breaks off")
    return MatrixError(502, "M_UNKNOWN", f"{origin} gave no answer that makes sense")


def _too_many(text: str) -> MatrixError:
    error = limit_exceeded(RETRY_AFTER_MS)
    error.error = text
    return error
