"""What apps say of themselves, and what they send browsers here with: refused in OAuth's words, or good for what it says."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from homeserver.oauth.clients import Clients
from homeserver.oauth.requests import AuthorizationRequests
from homeserver.oauth.scopes import parse_scope
from homeserver.oauth.types import OAuthError, RequestRefusedError, SentBackError
from homeserver.runtime.clock import TwistedClock
from tests.fuzz.harness import TEXT, main, mutated
from tests.support.oauth import METADATA, challenge, scope

_URIS = st.one_of(
    TEXT,
    st.from_regex(r"(https?|com\.example|javascript|example\.app)?:/{0,3}[a-z@:.\[\]#?\\ -]{0,20}", fullmatch=True),
    st.sampled_from(
        ["https://app.example/callback", "https://app.example.evil.example/", "https://app.example@evil.example/",
         "http://localhost/", "example.app:/", "example.app://x", "https://app.example:99999/", "https://[::1/"]
    ),
)  # fmt: skip
_QUERY = {
    "response_type": ["code"],
    "response_mode": ["fragment"],
    "redirect_uri": ["https://app.example/callback"],
    "scope": [scope()],
    "state": ["x"],
    "code_challenge": [challenge()],
    "code_challenge_method": ["S256"],
    "prompt": ["create login"],
}
_QUERIES = st.dictionaries(
    st.sampled_from([*_QUERY, "request", "nonce"]), st.lists(st.one_of(TEXT, _URIS), min_size=1, max_size=2)
)
STRATEGY = st.tuples(
    mutated({**METADATA, "logo_uri": "https://app.example/l.png", "tos_uri": "https://a.app.example/"}),
    st.one_of(st.none(), st.lists(_URIS, max_size=3)),
    st.sampled_from(["web", "native", None]),
    _QUERIES,
)


class _Store:
    """The table of apps."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def read(self, _: Any, client_id: str) -> Deferred[str | None]:
        return succeed(self.rows.get(client_id))

    def work(self, _: Any, client_id: str, text: str = "", *__: int) -> Deferred[None]:
        self.rows[client_id] = text
        return succeed(None)


def _outcome(work: Coroutine[Any, Any, Any]) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def target(value: tuple[Any, list[str] | None, str | None, dict[str, list[str]]]) -> None:
    said, uris, kind, changes = value
    if not isinstance(said, dict):
        return  # refused before: no object
    if uris is not None:
        said = {**said, "redirect_uris": uris}
    if kind is not None:
        said = {**said, "application_type": kind}
    store = _Store()
    clients = Clients(store, store, TwistedClock(Clock()), with_loopback=False)  # type: ignore[arg-type]
    try:
        kept = _outcome(clients.register(said))
    except OAuthError as error:
        assert error.status == 400, error
        return
    base = urlsplit(kept["client_uri"])
    assert base.scheme == "https", base
    assert kept == {"client_id": kept["client_id"], **_outcome(clients.register(kept))}, (
        "what is kept is good"
    )
    for uri in kept["redirect_uris"]:
        parts = urlsplit(uri)
        is_own = f".{parts.hostname}".endswith(f".{base.hostname}") and parts.scheme == "https"
        assert is_own or (kept["application_type"] == "native" and parts.scheme != "https"), uri
        assert parts.scheme != "javascript", uri
    requests = AuthorizationRequests(clients, "https://chat.example/")
    args = {**_QUERY, "client_id": [kept["client_id"]], **changes}
    if kept["redirect_uris"] and "redirect_uri" not in changes:
        args["redirect_uri"] = [kept["redirect_uris"][0]]
    try:
        request = _outcome(requests.parse(args))
    except RequestRefusedError:
        return
    except SentBackError as sent:
        request, url = None, sent.url
    else:
        assert not isinstance(parse_scope(request.scope.text), str)
        url = requests.answer(request, code="x")
    assert url.isascii(), url
    assert not set(url) & set('\r\n\t "<>'), url
    assert any(url.startswith(uri) or "://localhost" in uri for uri in kept["redirect_uris"]), url


if __name__ == "__main__":
    main(STRATEGY, target)
