"""The frame of small pages: one card in the house's look, whole in itself; nothing is loaded but what the page names.

What a page shows of a request is escaped by whoever writes its text. A script is a file of ours, never made of what came
from outside; the Content-Security-Policy names it by its hash, so nothing else runs.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

from homeserver.http.response import Response

_HTML: Final = b"text/html; charset=utf-8"
_FOLDER = files("homeserver.api.web")
_STYLE: Final = (_FOLDER / "page.css").read_text("utf-8") + (_FOLDER / "form.css").read_text("utf-8")


def digest_source(text: str) -> bytes:
    """As a Content-Security-Policy names a style or a script."""
    return b"'sha256-%b'" % b64encode(sha256(text.encode()).digest())


_STYLE_RULE: Final = b"style-src " + digest_source(_STYLE)
_ICON: Final = (
    (_FOLDER / "icon.svg").read_text("utf-8").replace('role="img" aria-label="CHAOS"', 'aria-hidden="true"')
)


def load_script(name: str) -> str:
    """A script of ours, by the name of its file."""
    return (_FOLDER / name).read_text("utf-8")


def framed_page(
    status: int, title: str, text: str, *, server_name: str = "", script: str = "", connects: bool = False
) -> Response:
    """A whole page; ``text`` is HTML already, ``title`` is not. ``connects``: its script talks to this server."""
    named = f"<p>{escape(server_name)}</p>" if server_name else "<p>CHAOS</p>"
    run = f"<script>{script}</script>" if script else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f'<body><main class="narrow"><header>{_ICON}{named}</header>'
        f'<section class="card"><h1>{escape(title)}</h1>{text}</section></main>{run}</body></html>'
    )
    return Response(status, page.encode(), _headers(script, connects=connects), content_type=_HTML)


def _headers(script: str, *, connects: bool) -> list[tuple[bytes, bytes]]:
    # A page that talks by its script sends no form: without the script it must not put a password anywhere.
    rules = [
        b"default-src 'none'",
        _STYLE_RULE,
        b"base-uri 'none'",
        b"frame-ancestors 'none'",
        b"form-action 'none'" if connects else b"form-action 'self'",
    ]
    if script:
        rules.append(b"script-src " + digest_source(script))
    if connects:
        rules.append(b"connect-src 'self'")
    return [
        (b"Content-Security-Policy", b"; ".join(rules)),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
        (b"Cache-Control", b"no-store"),
    ]
