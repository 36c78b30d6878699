"""Previews of links: the page is fetched by this server, read by a process of its own, and its picture kept here.

1. Only what the address filter allows is asked, at each redirect anew, and for pictures as for pages.
2. One fetch for all who ask at the same time; its outcome is kept in a table for some hours.
3. A picture is shown only after the worker of thumbnails has opened it; it goes as files of other servers go, when
   nobody has looked at it for long.
spec: client-server-api#get_matrixclientv1mediapreview_url
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, Protocol
from urllib.parse import urldefrag, urljoin

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.config.schema import Media
from homeserver.db.threads import Database
from homeserver.http.client import HttpLimits, HttpResponse, parse_url
from homeserver.http.errors import MatrixError, invalid_param, limit_exceeded
from homeserver.http.transport import Unreachable
from homeserver.media.multipart import parse_parameters
from homeserver.media.oembed import MAX_BYTES as MAX_OEMBED
from homeserver.media.oembed import Embedded, parse_oembed
from homeserver.media.pages import Page, read_page
from homeserver.media.storage import MediaStore
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.types import RunInThread
from homeserver.runtime.clock import Clock
from homeserver.runtime.log import Log
from homeserver.runtime.shared import Busy, Shared
from homeserver.runtime.slots import Full, Slots
from homeserver.store.media import Upload
from homeserver.store.previews import keep_preview, load_preview
from homeserver.store.work import Worker

KEEP_MS: Final = 6 * 3_600_000
FETCHES: Final = 8
FETCHES_EACH: Final = 2
WAITING: Final = 64
# LIMIT(threads: whoever logs in and every file need them too, and a page may keep one busy for seconds)
READERS: Final = 1
PAGE_S: Final = 15.0
MAX_REDIRECTS: Final = 5
# A page may be longer than what is read of it; beyond this it is no page.
MAX_BYTES: Final = 8 * 1024 * 1024
RETRY_AFTER_MS: Final = 5_000

_SCHEMES: Final = ("https", "http")
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_WANT_PAGE: Final = {"Accept": "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.5"}
_WANT_JSON: Final = {"Accept": "application/json"}
_WANT_IMAGE: Final = {"Accept": "image/png,image/jpeg,image/webp,image/gif"}
_NOTHING: Final = Embedded({}, "")

Preview = dict[str, Any]


class PageHttp(Protocol):
    """Requests to whatever address somebody names, but none of our own network: ``HttpClient``."""

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] = ..., limits: HttpLimits
    ) -> Deferred[HttpResponse]:
        """The answer, whatever its status. Fails with Unreachable alone."""


class Previews:
    """See the module."""

    def __init__(
        self,
        server_name: str,
        http: PageHttp | None,
        database: Database,
        worker: Worker,
        storage: MediaStore,
        thumbnails: Thumbnails,
        run_in_thread: RunInThread,
        clock: Clock,
        log: Log,
        settings: Callable[[], Media],
        new_media_id: Callable[[], str],
    ) -> None:
        self._server_name = server_name
        self._http = http
        self._database = database
        self._worker = worker
        self._storage = storage
        self._thumbnails = thumbnails
        self._run = run_in_thread
        self._clock = clock
        self._log = log
        self._settings = settings
        self._new_media_id = new_media_id
        self._slots = Slots(FETCHES, FETCHES_EACH, WAITING)
        self._reading = DeferredSemaphore(READERS)
        self._fetches: Shared[str, Preview] = Shared(clock, most_running=FETCHES + WAITING)

    def stop(self) -> None:
        """Break off whatever is being fetched."""
        self._fetches.stop()

    async def get(self, url: str) -> Preview:
        """What to show of an address. Raises the MatrixError for the client."""
        host, plain = _check(url)
        key = sha256(plain.encode()).hexdigest()
        kept = await self._database.read(load_preview, key, self._clock.now_ms())
        if kept is not None:
            preview: Preview = msgspec.json.decode(kept)
            return preview
        try:
            return await self._fetches.get(key, lambda: self._in_turn(host, plain, key))
        except (Full, Busy):
            error = limit_exceeded(RETRY_AFTER_MS)
            error.error = "Too many pages are being fetched"
            raise error from None
        except Unreachable:
            raise MatrixError(502, "M_UNKNOWN", "The page cannot be fetched") from None

    async def _in_turn(self, host: str, url: str, key: str) -> Preview:
        async with self._slots.place(host):
            answer = await self._ask(url, _WANT_PAGE)
            preview, image = await self._read(answer)
        now_ms = self._clock.now_ms()
        body = msgspec.json.encode(preview)
        await self._worker.work(keep_preview, self._server_name, key, body, now_ms, now_ms + KEEP_MS, image)
        return preview

    async def _ask(self, url: str, headers: Mapping[str, str], most_bytes: int = MAX_BYTES) -> HttpResponse:
        if self._http is None:
            raise Unreachable("nothing outside is asked")
        most = min(most_bytes, self._settings().max_upload_bytes)
        limits = HttpLimits(PAGE_S, most, MAX_REDIRECTS, _SCHEMES)
        answer = await self._http.request("GET", url, headers=headers, limits=limits)
        if answer.status != 200:
            raise Unreachable(f"the answer is {answer.status}")
        return answer

    async def _read(self, answer: HttpResponse) -> tuple[Preview, tuple[str, Upload] | None]:
        """The preview, and the picture with its address where there is one."""
        content_type, charset = _content_type(answer)
        if content_type.startswith("image/"):
            return await self._with_image({}, answer.body)
        if content_type not in _PAGES:
            # spec: client-server-api#get_matrixclientv1mediapreview_url ("which may be empty")
            return {}, None
        page: Page | None = await self._reading.run(self._run, read_page, answer.body, charset)
        if page is None:
            self._log.debug("a page could not be read", url=answer.url[:200])
            return {}, None
        more = await self._more(page, answer.url)
        properties: Preview = {**page.plain, **more.properties, **page.properties}
        for address in _addresses(page, more, answer.url):
            try:
                picture = await self._ask(address, _WANT_IMAGE)
            except Unreachable:
                continue
            preview, image = await self._with_image(properties, picture.body)
            if image is not None:
                return preview, image
        return properties, None

    async def _more(self, page: Page, url: str) -> Embedded:
        """What the page's site says of it by oEmbed, where the page itself does not say enough."""
        enough = page.images and {"og:title", "og:description"} <= page.properties.keys()
        address = "" if enough or not page.oembed else _whole(page.oembed, page, url)
        if not address:
            return _NOTHING
        try:
            answer = await self._ask(address, _WANT_JSON, MAX_OEMBED)
        except Unreachable:
            return _NOTHING
        return parse_oembed(answer.body) or _NOTHING

    async def _with_image(self, preview: Preview, data: bytes) -> tuple[Preview, tuple[str, Upload] | None]:
        """Store a picture, if it is one. A file that turns out to be none is swept as an orphan."""
        try:
            name = await self._storage.store([data])
            found = await self._thumbnails.measure(name, len(data))
        except OSError as error:
            self._log.error("a picture of a preview could not be stored", problem=str(error))
            return preview, None
        if found is None:
            return preview, None
        content_type, width, height = found
        media_id = self._new_media_id()
        preview |= {
            "og:image": f"mxc://{self._server_name}/{media_id}",
            "og:image:type": content_type,
            "og:image:width": width,
            "og:image:height": height,
            "matrix:image:size": len(data),
        }
        return preview, (media_id, Upload(name, len(data), content_type, None))


def _check(url: str) -> tuple[str, str]:
    """The host of an address that may be asked, and the address without what stays in the browser."""
    try:
        url.encode()
        plain = urldefrag(url.strip()).url
        target, _, _ = parse_url(plain, _SCHEMES, verify=True)
    except (Unreachable, ValueError):
        raise invalid_param("url must be a whole address that begins with https: or http:") from None
    return target.host, plain


def _content_type(answer: HttpResponse) -> tuple[str, str]:
    """Type and charset of an answer, in lower case; empty where it says nothing."""
    essence, parameters = parse_parameters(answer.headers.get("content-type", "")[:500])
    return essence, parameters.get("charset", "")


def _addresses(page: Page, more: Embedded, url: str) -> list[str]:
    """Where the pictures are, the best first."""
    found = [_whole(image, page, url) for image in (*page.images, more.image, page.picture) if image]
    return list(dict.fromkeys(address for address in found if address))


def _whole(address: str, page: Page, url: str) -> str:
    """An address that a page names, if it may be asked; the rules of the page's own base are the browsers'."""
    try:
        whole = urldefrag(urljoin(urljoin(url, page.base), address)).url
        parse_url(whole, _SCHEMES, verify=True)
    except (Unreachable, ValueError):
        return ""
    return whole
