"""WebBrowser: what a person's browser does with the pages, without scripts: cookies, forms, links and redirections.

Every page that comes is looked at: whole, harmless, and to be used without a mouse or eyes.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from tests.support.app import TestApp
from tests.support.http import Answer
from tests.support.oauth import BASE, FORM


@dataclass
class Form:
    """A form, with what it holds already, its buttons by what is on them, and the names that have a label."""

    method: str = "get"
    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)


class Page(HTMLParser):
    """What a page says and holds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.style = ""
        self.text = ""
        self._open: list[tuple[str, dict[str, str], int]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.elements.append((tag, said))
        if tag == "form":
            self.forms.append(Form(said.get("method", "get"), said.get("action", "")))
        if tag == "input" and said.get("type") == "checkbox":
            return
        if tag == "input":
            self.forms[-1].fields[said["name"]] = said.get("value", "")
        if tag in ("a", "button", "style"):
            self._open.append((tag, said, len(self.text)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            return
        _, said, start = self._open.pop()
        words = " ".join(self.text[start:].split())
        if tag == "a":
            self.links[words] = said.get("href", "")
        elif tag == "button":
            self.forms[-1].buttons[words] = (said.get("name", ""), said.get("value", ""))

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "style":
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def title(self) -> str:
        """What it is about."""
        return " ".join(self.text.split("\n")[0].split())


class WebBrowser:
    """See the module. ``answer`` is the last one, ``page`` the last page, ``url`` where it is from."""

    def __init__(self, app: TestApp, base: str = BASE) -> None:
        self.app = app
        self.base = base
        self.cookies: dict[str, str] = {}
        self.url = base + "/"
        self.answer: Answer | None = None
        self.page = Page("")
        self.left = ""  # where it was led that is not here

    def open(self, address: str, status: int = 200, **query: Any) -> Page:
        """Go there, and wherever that leads."""
        url = urljoin(self.url, address)
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query)
        return self._go("GET", url, b"", {}, status)

    def send(
        self,
        press: str = "",
        status: int = 200,
        *,
        headers: dict[str, str] | None = None,
        without: tuple[str, ...] = (),
        **fields: Any,
    ) -> Page:
        """Fill the page's form in, and press one of its buttons."""
        form = next(one for one in self.page.forms if not press or press in one.buttons)
        unknown = set(fields) - set(form.fields) - {one["name"] for one in self.page.all("input")}
        assert not unknown, f"the form has no {unknown}"
        name, value = form.buttons[press] if press else ("", "")
        said = {**form.fields, **fields, **({name: value} if name else {})}
        body = urlencode({one: said[one] for one in said if one not in without})
        url = urljoin(self.url, form.action) if form.action else self.url
        if form.method == "get":
            return self._go("GET", f"{url.partition('?')[0]}?{body}", b"", {}, status)
        return self._go("POST", url, body.encode(), headers or {"Origin": self.base}, status)

    def follow(self, words: str, status: int = 200) -> Page:
        """Press a link."""
        return self.open(self.page.links[words], status)

    def _go(self, method: str, url: str, body: bytes, headers: dict[str, str], status: int) -> Page:
        while True:
            if not url.startswith(self.base + "/"):
                self.left = url
                return self.page
            said = {**headers, **({"Cookie": self._cookie()} if self.cookies else {})}
            if method == "POST":
                said = {**FORM, **said}
            parts = urlsplit(url)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            answer = self.app.answer(method, path, body, headers=said)
            self.answer = answer
            self._keep(answer)
            if answer.status not in (302, 303):
                break
            assert answer.headers["cache-control"] == "no-store"
            url, method, body, headers = urljoin(url, answer.headers["location"]), "GET", b"", {}
        if answer.status != status:
            raise AssertionError(f"{answer.status}, not {status}: {answer.body.decode()[-1500:]}")
        self.url = url
        self.page = check_page(answer)
        return self.page

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _keep(self, answer: Answer) -> None:
        cookie = answer.headers.get("set-cookie")
        if cookie is None:
            return
        pair, *rules = cookie.split("; ")
        assert {"HttpOnly", "SameSite=Lax", "Secure", "Path=/"} <= set(rules), cookie
        name, _, value = pair.partition("=")
        if "Max-Age=0" in rules:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value


def check_page(answer: Answer) -> Page:
    """A page as all of ours have to be."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8", answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = Page(answer.body.decode())
    rules: dict[str, Any] = dict(
        one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";")
    )
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["form-action"].split(" ")[0] == "'self'"
    style = b64encode(sha256(page.style.encode()).digest()).decode()
    assert rules["style-src"] == f"'sha256-{style}'"
    assert not page.all("script")
    assert "script-src" not in rules
    assert (len(page.all("h1")), len(page.all("main"))) == (1, 1)
    labelled = {one["for"] for one in page.all("label")}
    entries = [one for one in page.all("input") if one.get("type") != "hidden"]
    assert {one["id"] for one in entries} == labelled
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)), ids
    described = {one["aria-describedby"] for one in entries if "aria-describedby" in one}
    assert described <= set(ids)
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "src")], attrs
    return page
