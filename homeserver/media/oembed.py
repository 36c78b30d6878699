"""What a site says of a page by oEmbed: a small JSON beside the page, for pages that say little of themselves.

Nothing of it is shown as it is (its HTML least of all): names and one picture, cut short.
spec: https://oembed.com (sections 2.3 and 4)
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

MAX_BYTES: Final = 64 * 1024
MAX_VALUE: Final = 1000
MAX_URL: Final = 4096
_BLANKS: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class Embedded(NamedTuple):
    """Properties as Open Graph names them, and the address of a picture ("": none)."""

    properties: dict[str, str]
    image: str


class _Answer(msgspec.Struct):
    """What is used of it. Wrong types count as absent."""

    type: Any = None
    title: Any = None
    author_name: Any = None
    provider_name: Any = None
    thumbnail_url: Any = None
    url: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def parse_oembed(body: bytes) -> Embedded | None:
    """None: this is no oEmbed."""
    try:
        said = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    named = {
        "og:title": _text(said.title),
        "og:site_name": _text(said.provider_name),
        # Open Graph has no name for who made a page; this is where clients show one.
        "og:description": _text(said.author_name),
    }
    image = said.url if said.type == "photo" else said.thumbnail_url
    is_usable = isinstance(image, str) and 0 < len(image) <= MAX_URL
    return Embedded({name: text for name, text in named.items() if text}, image if is_usable else "")


def _text(value: Any) -> str:
    return _BLANKS.sub(" ", value[: 4 * MAX_VALUE]).strip()[:MAX_VALUE] if isinstance(value, str) else ""
