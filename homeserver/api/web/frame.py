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

from homeserver.http.errors import MatrixError
from homeserver.http.response import Response

_HTML: Final = b"text/html; charset=utf-8"
_FOLDER = files("homeserver.api.web")


def digest_source(text: str) -> bytes:
    """As a Content-Security-Policy names a style or a script."""
    return b"'sha256-%b'" % b64encode(sha256(text.encode()).digest())


class Look:
    """The house's style, and what some pages add to it."""

    __slots__ = ("rule", "style")

    def __init__(self, more: str = "") -> None:
        names = ("page.css", "form.css")
        self.style = "".join((_FOLDER / name).read_text("utf-8") for name in names) + more
        self.rule = b"style-src " + digest_source(self.style)


_PLAIN: Final = Look()
_ICON: Final = (
    (_FOLDER / "icon.svg").read_text("utf-8").replace('role="img" aria-label="CHAOS"', 'aria-hidden="true"')
)


def load_script(name: str) -> str:
    """A script of ours, by the name of its file."""
    return (_FOLDER / name).read_text("utf-8")


def framed_page(
    status: int,
    title: str,
    text: str,
    *,
    server_name: str = "",
    script: str = "",
    connects: bool = False,
    look: Look = _PLAIN,
    form_targets: str = "",
    above: str = "",
) -> Response:
    """A whole page; ``text`` is HTML already, ``title`` is not. ``connects``: its script talks to this server.

    ``above``: HTML before the title. ``form_targets``: where else its forms may lead, by a redirection too, as a Content-Security-Policy names it.
    """
    named = f"<p>{escape(server_name)}</p>" if server_name else "<p>CHAOS</p>"
    run = f"<script>{script}</script>" if script else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{look.style}</style></head>"
        f'<body><main class="narrow"><header>{_ICON}{named}</header>'
        f'<section class="card">{above}<h1>{escape(title)}</h1>{text}</section></main>{run}</body></html>'
    )
    headers = _headers(look, script, form_targets, connects=connects)
    return Response(status, page.encode(), headers, content_type=_HTML)


def refusal_page(error: MatrixError, *, server_name: str = "", look: Look = _PLAIN) -> Response:
    """A page that says why something is refused."""
    text = f"<p>{escape(words_of(error))}</p>"
    page = framed_page(error.status, "That did not work", text, server_name=server_name, look=look)
    page.headers.extend(error.headers)
    return page


def words_of(error: MatrixError | None, otherwise: str = "") -> str:
    """A refusal, as a page says it; ``otherwise``: unless somebody has tried too often."""
    if error is None:
        return ""
    if error.status != 429:
        return otherwise or f"{error.error}."
    seconds = max(1, -(-int(error.extra.get("retry_after_ms", 0)) // 1000))
    return f"That was too often. Please try again in {seconds} second{'s' if seconds != 1 else ''}."


def _headers(look: Look, script: str, form_targets: str, *, connects: bool) -> list[tuple[bytes, bytes]]:
    # A page that talks by its script sends no form: without the script it must not put a password anywhere.
    rules = [
        b"default-src 'none'",
        look.rule,
        b"base-uri 'none'",
        b"frame-ancestors 'none'",
        b"form-action 'none'" if connects else f"form-action 'self' {form_targets}".rstrip().encode(),
    ]
    if script:
        rules.append(b"script-src " + digest_source(script))
    if connects:
        rules.append(b"connect-src 'self'")
    return [
        (b"Content-Security-Policy", b"; ".join(rules)),
        (b"X-Content-Type-Options", b"nosniff"),
        # To ourselves alone: with less, browsers leave out of forms from which page they are (`Origin: null`).
        (b"Referrer-Policy", b"same-origin"),
        (b"Cache-Control", b"no-store"),
    ]
