"""The program that reads one page of a stranger and says what a preview would show of it; then it ends.

It is started by its path, in isolation, and imports nothing but the standard library. On standard input: a line of JSON
(`{"charset": …}`, what the answer's header said), then the page. On standard output: one object of JSON,
`{"properties": {…}, "plain": {…}, "images": […], "picture": …, "oembed": …, "base": …}`: what the page says of itself, what else
it could be called by, and addresses as they stand in the page.

A tree is never built, so memory grows with the page alone; time and memory are limited by the system besides.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import resource
import sys
from html.parser import HTMLParser
from typing import Any

MEMORY = 512 * 1024 * 1024
CPU_S = 3
MAX_PROPERTIES = 30
MAX_VALUE = 1000
MAX_IMAGES = 4
MAX_URL = 4096
MAX_TEXT = 300

_OPEN_GRAPH = re.compile(r"(?:og|article|profile|book|music|video):[a-z0-9_:-]{1,60}")
# Whatever else a page says of its picture describes one that is not at our address.
_OF_IMAGE = "og:image"
_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
# Those of the web, by the names of Python's codecs; there are others that take long, or run what they read.
_CHARSETS = frozenset(
    [
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "gb2312", "gbk", "gb18030", "big5", "big5hkscs"),
        *("euc_jp", "shift_jis", "cp932", "iso2022_jp", "euc_kr", "cp949", "koi8-r", "koi8-u", "mac-roman"),
        *("tis-620", "cp874", "cp866", *(f"cp125{number}" for number in range(9))),
        *(f"iso8859-{number}" for number in range(1, 17)),
    ]
)
# Names of the web that Python does not know.
_LABELS = {
    "windows-31j": "cp932",
    "x-sjis": "cp932",
    "x-euc-jp": "euc_jp",
    "windows-949": "cp949",
    "x-gbk": "gbk",
    "gb_2312-80": "gbk",
    "x-x-big5": "big5",
    "cn-big5": "big5",
    "windows-874": "cp874",
    "dos-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "logical": "iso8859-8",
    **{f"x-cp125{number}": f"cp125{number}" for number in range(9)},
}
# As every browser reads them: as what has more letters.
# spec: https://encoding.spec.whatwg.org/#names-and-labels
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
}
# What does not show, or shows what is not the page.
_SILENT = frozenset({"script", "style", "noscript", "template", "svg", "nav", "header", "footer", "aside"})
_TITLES = ("og:title", "twitter:title")
_DESCRIPTIONS = ("og:description", "twitter:description", "description")
# What stands in for these where a page does not have them.
_PLAIN = {"og:title": ("<title>", "<h1>"), "og:description": ("<p>",)}
_TEXTS = ("<title>", "<h1>", "<p>")
_OEMBED = "application/json+oembed"
_IMAGES = ("og:image:secure_url", "og:image", "og:image:url", "twitter:image", "twitter:image:src", "image")


def decode(page: bytes, said: str) -> str:
    """The text of a page, by its first bytes, by the header, by its own word, or as UTF-8."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if page.startswith(mark):
            return page[len(mark) :].decode(name, "replace")
    found = _DECLARED.search(page[:2048])
    declared = found[1].decode("ascii") if found else ""
    for label in (said, declared):
        name = known_charset(label)
        # A page whose declaration could be read as ASCII is in none of two bytes a letter.
        if name and not (label is declared and name.startswith("utf-16")):
            return page.decode(name, "replace")
    return page.decode("utf-8", "replace")


def known_charset(label: str) -> str:
    """The codec of a charset's name; empty for those that are not used."""
    label = label.strip().strip("\"'").lower()
    try:
        name = codecs.lookup(_LABELS.get(label, label)).name
    except (LookupError, ValueError):
        return ""
    name = _WIDER.get(name, name)
    return name if name in _CHARSETS else ""


class Reader(HTMLParser):
    """Collects as the page goes by: of each property the first, of texts the first piece."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, str] = {}
        self.base = ""
        self.first_picture = ""
        self.oembed = ""
        self._silent = 0
        self._inside = ""
        self._text: list[str] = []
        self._length = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        values = {name: value or "" for name, value in reversed(attrs[:50])}
        if tag == "meta":
            self._meta(values)
        elif tag == "base" and not self.base:
            self.base = values.get("href", "")
        elif tag == "link" and values.get("rel", "").lower() == "image_src":
            self._note("image", values.get("href", ""))
        elif tag == "link" and not self.oembed and values.get("type", "").strip().lower() == _OEMBED:
            if "alternate" in values.get("rel", "").lower().split():
                self.oembed = values.get("href", "").strip()
        elif tag == "img" and not self._silent and not self.first_picture:
            self.first_picture = values.get("src", "")
        elif tag in _SILENT:
            self._silent += 1
        elif tag in ("title", "h1", "p") and not self._silent:
            self._end_text()
            self._inside = "" if f"<{tag}>" in self.found else tag

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == self._inside:
            self._end_text()

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        if self._inside and not self._silent and self._length < 4 * MAX_TEXT:
            self._text.append(data[: 4 * MAX_TEXT])
            self._length += len(data)

    def close(self) -> None:
        """See HTMLParser."""
        super().close()
        self._end_text()

    def _end_text(self) -> None:
        if self._inside:
            text = _BLANKS.sub(" ", "".join(self._text)).strip()
            # A paragraph of a few letters is a label.
            if self._inside != "p" or len(text) >= 40:
                self._note(f"<{self._inside}>", text[:MAX_TEXT])
        self._inside, self._text, self._length = "", [], 0

    def _meta(self, values: dict[str, str]) -> None:
        content = values.get("content", "")
        for name in (values.get("property", ""), values.get("name", ""), values.get("itemprop", "")):
            self._note(name.strip().lower(), content)

    def _note(self, name: str, value: str) -> None:
        is_used = _OPEN_GRAPH.fullmatch(name) or name in (*_TITLES, *_DESCRIPTIONS, *_TEXTS, *_IMAGES)
        if name in self.found or not is_used or len(self.found) >= 4 * MAX_PROPERTIES:
            return
        text = _BLANKS.sub(" ", value).strip()
        if text:
            self.found[name] = text


def summary(reader: Reader) -> dict[str, Any]:
    """What a preview shows."""
    found, properties = reader.found, dict[str, str]()
    for target, sources in (("og:title", _TITLES), ("og:description", _DESCRIPTIONS)):
        value = next((found[name] for name in sources if name in found), "")
        if value:
            properties[target] = value[:MAX_VALUE]
    for name, value in found.items():
        if len(properties) >= MAX_PROPERTIES:
            break
        if name.startswith("og:") and not name.startswith(_OF_IMAGE):
            properties.setdefault(name, value[:MAX_VALUE])
    plain = {
        target: next((found[name] for name in sources if name in found), "")
        for target, sources in _PLAIN.items()
        if target not in properties
    }
    images = [found[name] for name in _IMAGES if name in found]
    usable = list(dict.fromkeys(url for url in images if 0 < len(url) <= MAX_URL))
    return {
        "properties": properties,
        "plain": {target: value[:MAX_VALUE] for target, value in plain.items() if value},
        "images": usable[:MAX_IMAGES],
        "picture": _address(reader.first_picture),
        "oembed": _address(reader.oembed),
        "base": reader.base.strip()[:MAX_URL],
    }


def _address(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_URL else ""


def read(page: bytes, charset: str) -> dict[str, Any]:
    """One page."""
    reader = Reader()
    reader.feed(decode(page, charset))
    reader.close()
    return summary(reader)


def main() -> None:
    """One page, and the end."""
    os.nice(10)  # nobody waits for a page as they wait for the server
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):
            # The administrator's own limit is lower still, or this system does not know this one.
            continue
    job = json.loads(sys.stdin.buffer.readline())
    answer = read(sys.stdin.buffer.read(), job["charset"])
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
