"""GET /: one plain page that says what this is and how to connect a client, until the web client takes its place.

The page is whole in itself: no script runs and nothing is loaded, and its Content-Security-Policy says so.
spec: docs/reference/web.md#first-page
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from homeserver.api.web.frame import digest_source
from homeserver.config.schema import Config, RegistrationMode
from homeserver.http.request import Request
from homeserver.http.response import Response
from homeserver.http.route import Auth, Handler, Route
from homeserver.oauth.metadata import ACCOUNT

HTML: Final = b"text/html; charset=utf-8"
SVG: Final = b"image/svg+xml"
_JOINING: Final[dict[RegistrationMode, str]] = {
    "open": "Anyone may create an account here: choose <em>Create account</em> in your client.",
    "token": "New accounts need a registration token. Ask the people who run this server for one.",
    "closed": "New accounts are made by the people who run this server. Ask them for yours.",
}


@dataclass(frozen=True, slots=True)
class SampleLogin:
    """Somebody of the sample community whom a developer may log in as. All have the same password."""

    user_id: str
    name: str
    password: str


class PageApi:
    """The page, its icon, and what robots are told. Rendered once, and again when what it shows changes."""

    def __init__(self, config: Config) -> None:
        folder = files("homeserver.api.web")
        self._template = Template((folder / "page.html").read_text("utf-8"))
        self._style = (folder / "page.css").read_text("utf-8")
        self._icon = (folder / "icon.svg").read_bytes()
        self._config = config
        self._logins: Sequence[SampleLogin] = ()
        self._headers = _security_headers(self._style)
        self._page = self._render()

    def show_logins(self, logins: Sequence[SampleLogin]) -> None:
        """On a development server: the logins of the sample community."""
        self._logins = logins
        self._page = self._render()

    def reload(self, config: Config) -> None:
        """Go on with this configuration."""
        self._config = config
        self._page = self._render()

    def routes(self) -> list[Route]:
        return [
            _get("/", self.page),
            _get("/favicon.ico", self.icon),
            _get("/favicon.svg", self.icon),
            _get("/robots.txt", self.robots),
        ]

    async def page(self, _: Request) -> Response:
        return Response(200, self._page, list(self._headers), content_type=HTML)

    async def icon(self, _: Request) -> Response:
        headers = [(b"Cache-Control", b"public, max-age=86400"), (b"X-Content-Type-Options", b"nosniff")]
        return Response(200, self._icon, headers, content_type=SVG)

    async def robots(self, _: Request) -> Response:
        return Response(200, b"User-agent: *\nDisallow: /\n", content_type=b"text/plain; charset=utf-8")

    def _render(self) -> bytes:
        config = self._config
        page = self._template.substitute(
            style=self._style,
            server_name=escape(config.server_name),
            base_url=escape(config.base_url),
            joining=_JOINING[config.registration.mode],
            sample=_sample(self._logins),
            account=_account(config),
        )
        return page.encode("utf-8")


def _account(config: Config) -> str:
    if not config.has_oauth:
        return ""
    return f'<p><a href="{escape(config.base_url + ACCOUNT)}">Look after your account</a></p>'


def _sample(logins: Sequence[SampleLogin]) -> str:
    if not logins:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td><code>{escape(one.user_id)}</code></td></tr>" for one in logins
    )
    return (
        '<section class="card" aria-labelledby="sample"><h2 id="sample">Sample community</h2>'
        "<p>This is a development server, with servers full of channels to look at. Log in as any of these, with "
        f'the password <code class="word">{escape(logins[0].password)}</code>:</p>'
        '<div class="scroll"><table><thead><tr><th scope="col">Who</th><th scope="col">User name</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _security_headers(style: str) -> tuple[tuple[bytes, bytes], ...]:
    policy = (
        b"default-src 'none'; style-src %b; img-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'" % digest_source(style)
    )
    return (
        (b"Content-Security-Policy", policy),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
        (b"Cache-Control", b"no-cache"),
    )


def _get(template: str, handler: Handler) -> Route:
    return Route(
        method="GET",
        template=template,
        handler=handler,
        auth=Auth.NONE,
        serve="web",
        spec="docs/reference/web.md#first-page",
    )
