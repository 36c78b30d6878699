"""The pages' frame and their parts. Every part takes plain text and escapes it; only what ends in ``_html`` is HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from homeserver.api.web.frame import Look, framed_page, refusal_page
from homeserver.http.errors import MatrixError
from homeserver.http.response import Response

_LOOK: Final = Look((files("homeserver.api.account") / "account.css").read_text("utf-8"))
FORM_TOKEN: Final = "form_token"  # noqa: S105 (the name of a field)
STEP: Final = "step"


class Pages:
    """The frame, with the server's name."""

    def __init__(self, server_name: str) -> None:
        self.server_name = server_name

    def page(
        self, status: int, title: str, text_html: str, *, back_html: str = "", form_targets: str = ""
    ) -> Response:
        """A whole page. ``back_html``: a link to the page above it."""
        return framed_page(
            status,
            title,
            text_html,
            server_name=self.server_name,
            look=_LOOK,
            form_targets=form_targets,
            above=back_html,
        )

    def form_page(
        self, error: MatrixError | None, title: str, text_html: str, *, back_html: str = ""
    ) -> Response:
        """A page with a form, as it comes first or after an error (which the text shows)."""
        page = self.page(200 if error is None else error.status, title, text_html, back_html=back_html)
        page.headers.extend(() if error is None else error.headers)
        return page

    def refusal(self, error: MatrixError) -> Response:
        """A page that says why something is refused."""
        return refusal_page(error, server_name=self.server_name, look=_LOOK)


def see_other(location: str, *headers: tuple[bytes, bytes]) -> Response:
    """On to another page, after a form."""
    return Response(
        303,
        b"",
        [(b"Location", location.encode()), (b"Cache-Control", b"no-store"), *headers],
        content_type=None,
    )


def form(step: str, content_html: str, *, form_token: str = "", is_deliberate: bool = False) -> str:
    """A form, which goes to the address of its page.

    ``is_deliberate``: with a mouse, its buttons work half a second after it has come to the page. Another page may lay a
    window over this one that goes away in the middle of a double click, whose second half would be for our button.
    """
    look = ' class="deliberate"' if is_deliberate else ""
    token = hidden(FORM_TOKEN, form_token) if form_token else ""
    return f'<form method="post"{look}>{hidden(STEP, step)}{token}{content_html}</form>'


def hidden(name: str, value: str) -> str:
    """A field that nobody sees."""
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def attempt_fields(attempt: Mapping[str, str]) -> str:
    """What says whose attempt to prove an address it is (``Validations.begin_on_page``)."""
    return "".join(hidden(name, attempt.get(name, "")) for name in ("sid", "client_secret"))


def field(
    name: str, label: str, attributes: str = "", *, value: str = "", hint: str = "", affix: str = ""
) -> str:
    """A field with its label; ``attributes`` are ours and already HTML."""
    described = f' aria-describedby="{name}-hint"' if hint else ""
    filled = f' value="{escape(value)}"' if value else ""
    entry = f'<input id="{name}" name="{name}"{filled}{described} {attributes}>'
    if affix:
        entry = f'<span class="affixed">{entry}<span aria-hidden="true">{escape(affix)}</span></span>'
    told = f'<p class="hint" id="{name}-hint">{escape(hint)}</p>' if hint else ""
    return f'<label for="{name}">{escape(label)}</label>{entry}{told}'


def password_field(name: str, label: str, *, is_new: bool = False, hint: str = "", more: str = "") -> str:
    """A field for a password, as password managers know it."""
    kind = "new-password" if is_new else "current-password"
    return field(name, label, f'type="password" autocomplete="{kind}" required {more}'.strip(), hint=hint)


def button(label: str, *, value: str = "", kind: str = "") -> str:
    """A button; with a value, it says by ``answer`` which of several it was."""
    said = f' name="answer" value="{escape(value)}"' if value else ""
    look = f' class="{kind}"' if kind else ""
    return f'<button type="submit"{said}{look}>{escape(label)}</button>'


def alert(error: str) -> str:
    """What went wrong, read out at once."""
    return f'<p class="alert" role="alert">{escape(error)}</p>' if error else ""


def badge(name: str, below: str, *, is_person: bool = False) -> str:
    """An app or a person: the first letter, the name, and what it is known by."""
    letter = next((char for char in name if char.isalnum()), "?").upper()
    look = "tile round" if is_person else "tile"
    return (
        f'<div class="who"><span class="{look}" aria-hidden="true">{escape(letter)}</span>'
        f"<div><strong>{escape(name)}</strong> <span>{broken(below)}</span></div></div>"
    )


def broken(user_id: str) -> str:
    """A user id that goes into two lines before its colon, if it has to."""
    return escape(user_id).replace(":", "<wbr>:")


def back(link: str, name: str) -> str:
    """A link to the page above."""
    return f'<a class="back" href="{escape(link)}"><span aria-hidden="true">‹ </span>{escape(name)}</a>'


def rows(links: Sequence[tuple[str, str, str]]) -> str:
    """A list of pages: the address, the name, and a few words below it."""
    items = [
        f'<li><a href="{escape(link)}"><span><strong>{escape(name)}</strong> <small>{escape(below)}</small></span></a></li>'
        for link, name, below in links
    ]
    return f'<ul class="rows">{"".join(items)}</ul>'


def check_box(name: str, label: str) -> str:
    """A choice that nobody has made yet."""
    return (
        f'<label class="check" for="{name}"><input id="{name}" name="{name}" type="checkbox" value="yes">'
        f"<span>{escape(label)}</span></label>"
    )


DONE: Final = '<p class="done" aria-hidden="true">✓</p>'
