"""Pages on which a stage of interactive authentication is completed, for clients that do not know how to.

A GET shows a form and changes nothing; its POST completes the stage. The page says what the proof is for: whoever sends
somebody here may be anybody.
spec: client-server-api#fallback
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Final

from homeserver.accounts.login import PASSWORD
from homeserver.accounts.uia import InteractiveAuth, Pending, StageRefusedError, UnknownSessionError
from homeserver.accounts.validations import STAGE, AddressStage
from homeserver.api.client.register import DUMMY, REGISTRATION_TOKEN
from homeserver.api.web.frame import framed_page, load_script, refusal_page
from homeserver.http.errors import MatrixError
from homeserver.http.ratelimit import RateLimiter
from homeserver.http.request import Request, parse_query
from homeserver.http.response import Response
from homeserver.http.route import Auth, Handler, Route
from homeserver.http.router import address_key
from homeserver.oauth.resets import STAGES

_DONE: Final = load_script("auth_done.js")
_V3: Final = "/_matrix/client/v3"
# What is done when it is confirmed: (method, how the path begins) and the words for it.
_ACTIONS: Final = (
    ("POST", f"{_V3}/register", "create an account here"),
    ("POST", f"{_V3}/account/password", "set a new password"),
    ("POST", f"{_V3}/account/deactivate", "end your account, for good"),
    ("POST", f"{_V3}/account/3pid", "add an address to your account"),
    ("POST", f"{_V3}/delete_devices", "log out some of your devices"),
    ("DELETE", f"{_V3}/devices/", "log out one of your devices"),
    ("POST", f"{_V3}/keys/device_signing/", "replace the keys by which others know your devices"),
    ("POST", "/_matrix/client/v1/login/get_token", "log in another device"),
)


class AuthFallbackApi:
    """See the module."""

    def __init__(self, server_name: str, interactive: InteractiveAuth, limiter: RateLimiter) -> None:
        self._server_name = server_name
        self._interactive = interactive
        self._limiter = limiter

    def routes(self) -> list[Route]:
        return [self._route("GET", self.ask), self._route("POST", self.complete)]

    def _route(self, method: str, handler: Handler) -> Route:
        return Route(
            method=method,
            template="/_matrix/client/v3/auth/{auth_type}/fallback/web",
            handler=handler,
            auth=Auth.NONE,
            max_body=8192,
            spec="client-server-api#fallback",
            refuse=partial(refusal_page, server_name=self._server_name),
        )

    async def ask(self, request: Request, auth_type: str) -> Response:
        """The form."""
        found = self._look(request, auth_type)
        return found if isinstance(found, Response) else self._form(200, found, auth_type)

    async def complete(self, request: Request, auth_type: str) -> Response:
        """Judge what was filled in."""
        pending = self._look(request, auth_type)
        if isinstance(pending, Response):
            return pending
        session_id = request.arg("session", "")
        filled: dict[str, str] = {}
        try:
            filled = {name: values[0] for name, values in parse_query(request.body).items()}
            # Guesses are counted, as where a client makes them.
            self._limiter.check(
                "login" if auth_type == PASSWORD else "register", address_key(request.client_ip)
            )
            stage = pending.offer.stages[auth_type]
            if isinstance(stage, AddressStage) and "email" in filled:
                return await self._send_letter(stage, pending, filled["email"])
            await self._interactive.complete(session_id, auth_type, _auth(auth_type, pending, filled))
        except StageRefusedError as refused:
            return self._form(401, pending, auth_type, refused.error, filled)
        except UnknownSessionError:
            return self._gone()
        except MatrixError as error:
            # With what was filled in, so that who has to wait need not have another letter sent.
            return self._form(error.status, pending, auth_type, error.error, filled)
        return self._done()

    def _look(self, request: Request, auth_type: str) -> Pending | Response:
        """The session, where this stage can be completed now; else the page that says why not."""
        pending = self._interactive.look(request.arg("session", ""))
        if pending is None:
            return self._gone()
        if auth_type in pending.completed:
            return self._done()
        if auth_type not in pending.next_stages or auth_type not in _FORMS:
            return self._page(
                404, "Not asked for", "<p>This is not, or not now, what is to be confirmed.</p>"
            )
        return pending

    async def _send_letter(self, stage: AddressStage, pending: Pending, email: str) -> Response:
        attempt = await stage.validations.begin_on_page(stage.purpose, email)
        return self._form(200, pending, STAGE, "", attempt)

    # --- pages -----------------------------------------------------------------------------------------

    def _form(
        self,
        status: int,
        pending: Pending,
        kind: str,
        error: str = "",
        filled: Mapping[str, str] | None = None,
    ) -> Response:
        title, lead, form = _FORMS[kind](pending, filled or {})
        alert = f'<p class="alert" role="alert">{escape(error)}</p>' if error else ""
        return self._page(status, title, f"<p>{_purpose(pending)}</p><p>{lead}</p>{alert}{form}")

    def _done(self) -> Response:
        text = '<p class="done" aria-hidden="true">✓</p><p>You can close this page and go on where you began.</p>'
        return self._page(200, "Confirmed", text, _DONE)

    def _gone(self) -> Response:
        text = "<p>This page is not, or no longer, good for anything. Begin again where you came from.</p>"
        return self._page(404, "Too late", text)

    def _page(self, status: int, title: str, text: str, script: str = "") -> Response:
        return framed_page(status, title, text, server_name=self._server_name, script=script)


def _purpose(pending: Pending) -> str:
    for method, path, words in _ACTIONS:
        if pending.method == method and pending.path.startswith(path):
            return f"An app wants to <em>{words}</em>. If you did not ask for that, close this page."
    return "An app asks you to confirm something. If you did not begin it, close this page."


def _auth(kind: str, pending: Pending, filled: Mapping[str, str]) -> dict[str, object]:
    """What a client would have sent."""
    if kind == PASSWORD:
        user = {"type": "m.id.user", "user": pending.offer.user_id}
        return {"type": kind, "identifier": user, "password": filled.get("password", "")}
    if kind == REGISTRATION_TOKEN:
        return {"type": kind, "token": filled.get("token", "").strip()}
    if kind == STAGE:
        creds = {name: filled.get(name, "") for name in ("sid", "client_secret")}
        return {"type": kind, "threepid_creds": creds}
    return {"type": kind}


def _password_form(pending: Pending, _: Mapping[str, str]) -> tuple[str, str, str]:
    form = (
        '<form method="post">'
        '<label for="user">Account</label>'
        f'<input id="user" name="user" value="{escape(pending.offer.user_id)}" autocomplete="username" readonly>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>'
        '<button type="submit">Confirm</button></form>'
    )
    return "Is it you?", "Your password shows that it is you.", form


def _token_form(_: Pending, __: Mapping[str, str]) -> tuple[str, str, str]:
    form = (
        '<form method="post"><label for="token">Registration token</label>'
        '<input id="token" name="token" maxlength="64" autocomplete="off" autocapitalize="off" spellcheck="false" '
        'required autofocus><button type="submit">Continue</button></form>'
    )
    return "Your registration token", "The people who run this server gave you one.", form


def _mail_form(_: Pending, filled: Mapping[str, str]) -> tuple[str, str, str]:
    if "sid" not in filled:
        form = (
            '<form method="post"><label for="email">E-mail address</label>'
            '<input id="email" name="email" type="email" autocomplete="email" required autofocus>'
            '<button type="submit">Send a letter</button></form>'
        )
        return (
            "Your e-mail address",
            "You will get a letter with a link, which shows that the address is yours.",
            form,
        )
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(filled.get(name, ""))}">'
        for name in ("sid", "client_secret")
    )
    form = (
        f'<form method="post">{hidden}<button type="submit">I have confirmed it</button></form>'
        '<p class="other"><a href="">Another address</a></p>'
    )
    return "Look into your mail", "Open the link in the letter, then come back to this page.", form


def _dummy_form(_: Pending, __: Mapping[str, str]) -> tuple[str, str, str]:
    form = '<form method="post"><button type="submit" autofocus>Continue</button></form>'
    return "Go on?", "Nothing else is to be proved.", form


def _account_form(pending: Pending, _: Mapping[str, str]) -> tuple[str, str, str]:
    url = next(pending.offer.params[stage]["url"] for stage in STAGES if stage in pending.offer.params)
    form = (
        f'<p><a href="{escape(url)}" target="_blank" rel="noopener">The page of your account</a></p>'
        '<form method="post"><button type="submit">I have allowed it</button></form>'
    )
    return "Is it you?", "Allow it on the page of your account, then come back to this one.", form


_FORMS: Final = {
    PASSWORD: _password_form,
    REGISTRATION_TOKEN: _token_form,
    STAGE: _mail_form,
    DUMMY: _dummy_form,
    **dict.fromkeys(STAGES, _account_form),
}
