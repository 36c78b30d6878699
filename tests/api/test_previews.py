"""Previews of links over the API, whatever a page says. spec: client-server-api#content-repository"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.config.schema import Media, RateLimit, RateLimits, Switch
from homeserver.http.client import HttpLimits, HttpResponse
from homeserver.http.transport import Unreachable
from homeserver.media.oembed import MAX_BYTES as MAX_OEMBED
from homeserver.media.pages import read_page
from homeserver.media.preview import FETCHES_EACH, KEEP_MS, MAX_REDIRECTS
from homeserver.media.sweep import ORPHAN_AGE_S
from tests.api.media import DOWNLOAD, in_a_bucket_too
from tests.support.app import SERVER_NAME, TestApp, new_time, test_config
from tests.support.bucket import BucketHttp, FakeBucket, s3_settings
from tests.support.databases import DatabaseCase, on_each_database
from tests.support.http import Answer, Query
from tests.unit.media.pictures import picture

PREVIEW = "/_matrix/client/v1/media/preview_url"
OLD = "/_matrix/media/v3/preview_url"
PAGE = "https://blog.example/post"
HTML = "text/html; charset=utf-8"

Says = tuple[int, str, bytes]


class FakeWeb:
    """Stands in for ``HttpClient``: pages by address; what is None never answers."""

    def __init__(self) -> None:
        self.pages: dict[str, Says | None] = {}
        self.asked: list[str] = []
        self.limits: list[HttpLimits] = []
        self.hanging: list[tuple[str, Deferred[HttpResponse]]] = []

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], limits: HttpLimits, **_: Any
    ) -> Deferred[HttpResponse]:
        """See ``HttpClient.request``."""
        if method != "GET" or "Accept" not in headers:
            raise AssertionError("not what a preview asks")
        self.asked.append(url)
        self.limits.append(limits)
        waiting: Deferred[HttpResponse] = Deferred()
        said = self.pages.get(url, (0, "", b""))
        if said is None:
            self.hanging.append((url, waiting))
        else:
            answer(waiting, url, said)
        return waiting


def answer(waiting: Deferred[HttpResponse], url: str, said: Says) -> None:
    """Status 0: nobody is there."""
    status, content_type, body = said
    if not status:
        waiting.errback(Unreachable("nobody there"))
    else:
        waiting.callback(HttpResponse(url, status, body, {"content-type": content_type}))


class PreviewCase(DatabaseCase):
    """Alice, and a small web."""

    in_bucket = False

    def setUp(self) -> None:
        self.web = FakeWeb()
        time = new_time()
        self.time, self.bucket = time, FakeBucket(time.seconds)
        self.app = self.make()
        self.alice = self.app.register("alice")

    def make(self, **config: Any) -> TestApp:
        media = Media(max_upload_bytes=1_000_000, max_thumbnail_pixels=1_000_000)
        if self.in_bucket:
            media = replace(media, storage="s3", s3=s3_settings())
        given = {"data_dir": Path(self.mktemp()).absolute(), "media": media, **config}
        return TestApp(
            self,
            self.new_database(),
            test_config(**given),
            time=self.time,
            http=self.web,
            appservice_http=BucketHttp(self.bucket),
        )

    def get(self, url: str, query: Query | None = None, path: str = PREVIEW) -> Answer:
        return self.app.answer("GET", path, None, self.alice, {"url": url, **(query or {})})

    def preview(self, page: str | bytes, content_type: str = HTML, url: str = PAGE) -> dict[str, Any]:
        body = page.encode() if isinstance(page, str) else page
        self.web.pages[url] = (200, content_type, body)
        answer = self.get(url)
        self.assertEqual(200, answer.status, answer.json)
        found: dict[str, Any] = answer.json
        return found

    def refused(self, answer: Answer, status: int, errcode: str) -> None:
        self.assertEqual((status, errcode), (answer.status, answer.errcode), answer.json)


@on_each_database
@in_a_bucket_too
class Previews(PreviewCase):
    """# spec: client-server-api#get_matrixclientv1mediapreview_url"""

    def test_what_a_page_says_of_itself(self) -> None:
        data = picture(48, 40)
        self.web.pages["https://blog.example/img/a.png?b=1"] = (200, "application/octet-stream", data)
        found = self.preview(
            '<html prefix="og"><head><title>Other</title>'
            '<meta property="og:title" content="Matrix &amp; more"><meta property="og:title" content="2nd">'
            '<meta name="description" content="not this"/><meta content=" A\n post " property="og:description">'
            '<meta property="og:image" content="/img/a.png?b=1#c"><meta property="og:image:width" content="9">'
            '<meta property="og:site_name" content="Blog"><meta property="fb:app" content="1"></head></html>'
        )
        uri = found.pop("og:image")
        expected = {
            "og:title": "Matrix & more",
            "og:description": "A post",
            "og:site_name": "Blog",
            "og:image:type": "image/png",
            "og:image:width": 48,
            "og:image:height": 40,
            "matrix:image:size": len(data),
        }
        self.assertEqual(expected, found)
        self.assertTrue(uri.startswith(f"mxc://{SERVER_NAME}/"))
        shown = self.app.answer("GET", f"{DOWNLOAD}/{uri.removeprefix('mxc://')}", None, self.alice)
        self.assertEqual((200, data, "image/png"), (shown.status, shown.body, shown.headers["content-type"]))
        limits = self.web.limits[0]
        self.assertEqual((MAX_REDIRECTS, ("https", "http")), (limits.max_redirects, limits.schemes))
        self.assertEqual(1_000_000, limits.max_bytes)

    def test_what_stands_in_for_it(self) -> None:
        text = "A paragraph that is long enough to say what this page is about."
        for page, title, description in (
            (f"<title> A\t title </title><p>menu<p>{text}</p>", "A title", text),
            (f"<nav><p>{text}</nav><h1>Big <b>one</b></h1>", "Big one", None),
            ('<meta name="twitter:title" content=T><meta name=description content=D>', "T", "D"),
            ("<script>document.title = '<title>x</title>'</script>", None, None),
            ("", None, None),
        ):
            self.app.advance(KEEP_MS / 1000)
            found = self.preview(page)
            self.assertEqual((title, description), (found.get("og:title"), found.get("og:description")), page)

    def test_what_its_site_says(self) -> None:
        said = {
            "version": "1.0",
            "type": "video",
            "title": " A  film ",
            "author_name": "Ada",
            "provider_name": "Films",
            "thumbnail_url": "https://i.example/still",
            "html": "<script>alert(1)</script>",
        }
        self.web.pages["https://i.example/still"] = (200, "image/png", picture(20, 10))
        self.web.pages["https://blog.example/oembed?url=x"] = (200, "text/plain", json.dumps(said).encode())
        link = '<link rel="alternate" type="application/json+oembed" href="/oembed?url=x#y">'
        found = self.preview(f"<title>Films: a film</title>{link}<img src=logo.png>")
        named = {"og:title": "A film", "og:description": "Ada", "og:site_name": "Films"}
        self.assertEqual(named, {name: found[name] for name in named})
        self.assertEqual((20, 10), (found["og:image:width"], found["og:image:height"]))
        self.assertNotIn("alert(1)", str(found))
        self.assertNotIn("https://blog.example/logo.png", self.web.asked)
        # What a page says of itself goes before.
        page = f'{link}<meta property="og:title" content="Own"><p>{"A paragraph of its own. " * 3}</p>'
        found = self.preview(page, url="https://blog.example/own")
        self.assertEqual(("Own", "Ada"), (found["og:title"], found["og:description"]))

    def test_its_site_is_not_asked_in_vain(self) -> None:
        link = '<link rel="alternate" type="application/json+oembed" href="{}">'
        whole = (
            '<meta property="og:title" content="T"><meta property="og:description" content="D">'
            '<meta property="og:image" content="i.png">'
        )
        for number, head in enumerate(
            (
                link.format("/oembed") + whole,
                link.format("file:///etc/passwd"),
                link.format("http://[::1"),
                link.format("https://" + "x" * 5000),
                link.format("/oembed").replace("alternate", "stylesheet"),
                link.format("/oembed").replace("json", "xml"),
            )
        ):
            self.preview(f"{head}<title>T</title>", url=f"https://blog.example/{number}")
        self.assertEqual([], [url for url in self.web.asked if "oembed" in url or "passwd" in url])

    def test_hostile_oembed(self) -> None:
        link = '<title>T</title><link rel="alternate" type="application/json+oembed" href="/oembed">'
        for number, body in enumerate(
            (
                b"",
                b"<html>",
                b"[1]",
                b"\xff",
                b"[" * 60_000,
                b'{"x":' * 10_000,
                b'{"title":{"a":1},"thumbnail_url":["x"],"type":1}',
                b'{"title":"\\u0000 \\n","thumbnail_url":"javascript:alert(1)","type":"photo","url":"//["}',
            )
        ):
            self.web.pages["https://blog.example/oembed"] = (200, "application/json", body)
            found = self.preview(link, url=f"https://blog.example/{number}")
            self.assertEqual({"og:title": "T"}, found, body[:50])
        # A name is cut short, and no more than so much is taken in.
        self.web.pages["https://blog.example/oembed"] = (200, "x/y", b'{"title":"%b"}' % (b"t" * 50_000))
        found = self.preview(link, url="https://blog.example/long")
        self.assertEqual("t" * 1000, found["og:title"])
        self.assertEqual(MAX_OEMBED, self.web.limits[-1].max_bytes)
        self.web.pages["https://blog.example/oembed"] = (404, "application/json", b'{"title":"x"}')
        self.assertEqual({"og:title": "T"}, self.preview(link, url="https://blog.example/gone"))

    def test_a_link_to_a_picture(self) -> None:
        for kind in ("JPEG", "PNG", "GIF", "WEBP"):
            url = f"https://i.example/{kind}"
            data = picture(30, 20, kind)
            found = self.preview(data, f"image/{kind.lower()}", url)
            self.assertEqual((30, 20), (found["og:image:width"], found["og:image:height"]))
            self.assertEqual(f"image/{kind.lower()}", found["og:image:type"])
        self.assertEqual({}, self.preview(b"<svg/>", "image/svg+xml", "https://i.example/svg"))
        self.assertEqual({}, self.preview(picture(2000, 2000), "image/png", "https://i.example/huge"))
        self.assertEqual({}, self.preview(b"%PDF", "application/pdf", "https://i.example/pdf"))

    def test_the_first_picture_that_can_be_shown(self) -> None:
        self.web.pages["https://cdn.example/no.svg"] = (200, "image/png", b"<svg/>")
        self.web.pages["https://cdn.example/x/yes"] = (200, "text/html", picture(5, 6))
        found = self.preview(
            '<base href="https://cdn.example/x/"><meta property="og:image" content="//cdn.example/no.svg">'
            '<meta property="og:image:url" content="file:///etc/passwd"><meta name="twitter:image" content="gone">'
            '<img src="yes">'
        )
        self.assertEqual((5, 6), (found["og:image:width"], found["og:image:height"]))
        self.assertNotIn("file:///etc/passwd", self.web.asked)

    def test_pages_take_one_thread_however_many_there_are(self) -> None:
        # The others are of those who log in, and of files.
        previews = self.app.app.services.media.previews
        run, held = previews._run, Deferred[None]()
        reading: list[Any] = []

        def wait(work: Any, *args: Any) -> Any:
            if work is not read_page:
                return run(work, *args)
            reading.append(args)
            return held.addCallback(lambda _: run(work, *args))

        self.patch(previews, "_run", wait)
        urls = [f"https://h{number}.example/" for number in range(4)]
        self.web.pages.update(dict.fromkeys(urls, (200, HTML, b"<title>x</title>")))
        waiting = [self.app.start("GET", PREVIEW, None, self.alice, {"url": url}) for url in urls]
        self.app.advance(0)
        self.assertEqual((4, 1), (len(self.web.asked), len(reading)))
        held.callback(None)
        for one in waiting:
            self.assertEqual("x", self.app.wait(one).json["og:title"])

    def test_charsets(self) -> None:
        for number, (body, content_type, title) in enumerate(
            (
                ("<title>é</title>".encode("latin-1"), "text/html; charset=ISO-8859-1", "é"),
                (
                    '<meta charset="windows-1251"><title>Привет</title>'.encode("cp1251"),
                    "text/html",
                    "Привет",
                ),
                ("<title>日本</title>".encode("shift_jis"), 'text/html; charset="Shift_JIS"', "日本"),
                ("<title>朱镕基</title>".encode("gbk"), "text/html; charset=gb2312", "朱镕基"),
                ("<title>똠방각하</title>".encode("cp949"), "text/html; charset=EUC-KR", "똠방각하"),
                ("<title>①㈱</title>".encode("cp932"), "text/html; charset=shift_jis", "①㈱"),
                ("<title>①㈱</title>".encode("cp932"), "text/html; charset=x-sjis", "①㈱"),
                ("<title>Привет</title>".encode("cp1251"), "text/html; charset=x-cp1251", "Привет"),
                ("\ufeff<title>ü</title>".encode("utf-16-le"), "text/html; charset=latin1", "ü"),
                (b"<title>\xff\xc3</title>", "text/html", "\ufffd\ufffd"),
                ("<title>ö</title>".encode(), "text/html; a*=x; a*0=y", "ö"),
                ("<title>ö</title>".encode("latin-1"), "TEXT/HTML ;x; charset=latin1; a*1*=''", "ö"),
                ("<title>ö</title>".encode(), "text/html; charset=rot13", "ö"),
                ("<title>ö</title>".encode(), "text/html; charset=unicode_escape", "ö"),
                (b"<title>a&#0;b&#xD800;c\x00d</title>", "text/html", "a\ufffdb\ufffdc d"),
            )
        ):
            found = self.preview(body, content_type, f"https://c.example/{number}")
            self.assertEqual(title, found["og:title"], content_type)

    def test_kept_for_a_while(self) -> None:
        self.preview("<title>one</title>")
        self.web.pages[PAGE] = (200, HTML, b"<title>two</title>")
        self.app.restart()
        self.assertEqual("one", self.get(f"{PAGE}#part", {"ts": "1510610716656"}).json["og:title"])
        self.assertEqual([PAGE], self.web.asked)
        self.app.advance(KEEP_MS / 1000)
        self.assertEqual("two", self.get(PAGE).json["og:title"])

    def test_failures_are_not_kept(self) -> None:
        self.refused(self.get(PAGE), 502, "M_UNKNOWN")
        self.web.pages[PAGE] = (404, HTML, b"<title>not found</title>")
        self.refused(self.get(PAGE), 502, "M_UNKNOWN")
        self.assertEqual("here", self.preview("<title>here</title>")["og:title"])

    def test_one_fetch_for_all(self) -> None:
        self.web.pages[PAGE] = None
        waiting = [self.app.start("GET", PREVIEW, None, self.alice, {"url": PAGE}) for _ in range(3)]
        self.assertEqual([PAGE], self.web.asked)
        ((url, page),) = self.web.hanging
        answer(page, url, (200, HTML, b"<title>shared</title>"))
        for one in waiting:
            self.assertEqual("shared", self.app.wait(one).json["og:title"])

    def test_a_slow_host_holds_up_itself_alone(self) -> None:
        urls = [f"https://slow.example/{number}" for number in range(FETCHES_EACH + 1)]
        for url in urls:
            self.web.pages[url] = None
            self.app.start("GET", PREVIEW, None, self.alice, {"url": url})
        self.assertEqual(urls[:FETCHES_EACH], self.web.asked)
        self.assertEqual("quick", self.preview("<title>quick</title>")["og:title"])
        for url, page in self.web.hanging:
            answer(page, url, (0, "", b""))
        self.assertEqual(urls[-1], self.web.asked[-1])

    def test_refused(self) -> None:
        for url in (
            "",
            "blog.example",
            "file:///etc/passwd",
            "ftp://blog.example/",
            "https://",
            "https://user:pass@blog.example/",
            "https://blog.example:99999/",
            "https://[::1/",
            "https://" + "x" * 300 + ".example/",
            "https://blog.example/" + "x" * 9000,
        ):
            self.refused(self.get(url), 400, "M_INVALID_PARAM")
        self.refused(self.app.answer("GET", PREVIEW, None, self.alice), 400, "M_MISSING_PARAM")
        self.refused(self.get(PAGE, {"ts": "yesterday"}), 400, "M_INVALID_PARAM")
        self.refused(self.app.answer("GET", PREVIEW, None, None, {"url": PAGE}), 401, "M_MISSING_TOKEN")
        self.assertEqual([], self.web.asked)

    def test_the_older_path(self) -> None:
        self.web.pages[PAGE] = (200, HTML, b"<title>old</title>")
        self.assertEqual({"og:title": "old"}, self.get(PAGE, path=OLD).json)
        self.refused(self.app.answer("GET", OLD, None, None, {"url": PAGE}), 401, "M_MISSING_TOKEN")
        self.refused(self.app.answer("GET", OLD, None, self.alice), 400, "M_MISSING_PARAM")

    def test_pictures_go_when_nobody_looks(self) -> None:
        uri = self.preview(picture(9, 9), "image/png")["og:image"]
        self.app.advance(90 * 86_400 + ORPHAN_AGE_S + 1)
        self.app.wait(Deferred.fromCoroutine(self.app.app.services.media.sweeper.sweep()))
        shown = self.app.answer("GET", f"{DOWNLOAD}/{uri.removeprefix('mxc://')}", None, self.alice)
        self.refused(shown, 404, "M_NOT_FOUND")
        files = self.app.config.data_dir / ("media-cache" if self.in_bucket else "media") / "files"
        self.assertEqual([], [path for path in files.rglob("*") if path.is_file()])
        self.assertEqual([], self.bucket.names())

    def test_hostile_pages(self) -> None:
        for number, page in enumerate(
            (
                b"<div>" * 200_000,
                b"".join(b"<b a=%d>" % one for one in range(40_000)) + b"<p>" * 150_000,
                b"<p>" + b"".join(b"<b a=%d>" % one for one in range(20_000)) + b"<p>x" * 150_000,
                b"<meta property='og:%s' content='x'>" * 10_000,
                b"".join(b"<meta property=og:x%d content='%s'>" % (one, b"y" * 900) for one in range(1_000)),
                b"<title>" + b"t" * 900_000,
                b"<" + b"a" * 500_000,
                b"<meta property=og:image content='" + b"h" * 300_000 + b"'>",
                bytes(range(256)) * 3_000,
            )
        ):
            found = self.preview(page, "text/html", f"https://h.example/{number}")
            self.assertLess(len(str(found)), 50_000)


class Switched(PreviewCase):
    """How many, and whether at all."""

    def test_so_many_by_user(self) -> None:
        self.app = self.make(rate_limits=RateLimits(enabled=True, preview=RateLimit(0.1, 2)))
        self.alice = self.app.register("alice")
        for _ in range(2):
            self.preview("<title>x</title>")
        self.refused(self.get(PAGE), 429, "M_LIMIT_EXCEEDED")
        self.refused(self.get(PAGE, path=OLD), 429, "M_LIMIT_EXCEEDED")

    def test_switched_off(self) -> None:
        self.app = self.make(url_previews=Switch(enabled=False))
        self.alice = self.app.register("alice")
        self.refused(self.get(PAGE), 404, "M_UNRECOGNIZED")
        self.assertEqual([], self.web.asked)
