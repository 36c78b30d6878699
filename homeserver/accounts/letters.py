"""What the letters say that verify addresses: (subject, text, HTML) each."""

from __future__ import annotations

from html import escape
from typing import Final

from homeserver.store.validations import Purpose

_WHY: Final = {
    Purpose.REGISTER: ("Confirm your address", "to create an account, or to add this address to one"),
    Purpose.ADD: ("Confirm your address", "to add this address to an account"),
    Purpose.PASSWORD: ("Reset your password", "to set a new password for your account"),
}
_NOT_YOU: Final = "If that was not you, you need not do anything: nothing happens without this link."


def with_link(purpose: Purpose, server_name: str, link: str) -> tuple[str, str, str]:
    """A letter with the link that proves something."""
    subject, why = _WHY[purpose]
    asked = f"Somebody asked {why} on {server_name}. To go on, open this link and confirm:"
    text = f"{asked}\n\n{link}\n\n{_NOT_YOU}\n"
    html = f'<p>{escape(asked)}</p><p><a href="{escape(link)}">{escape(subject)}</a></p><p>{_NOT_YOU}</p>'
    return f"{subject} for {server_name}", text, html


def about_own_account(server_name: str) -> tuple[str, str, str]:
    """For who wants to use an address that has an account."""
    said = (
        f"Somebody wanted to use this address on {server_name}, where it belongs to your account already. "
        "If that was you: log in, or ask your client for a new password."
    )
    return f"Your account on {server_name}", f"{said}\n", f"<p>{escape(said)}</p>"


def about_no_account(server_name: str) -> tuple[str, str, str]:
    """For who wants a new password for an address that has no account."""
    said = (
        f"Somebody asked for a new password on {server_name}, but no account there has this address. "
        "If that was you: perhaps your account has another address, or you have yet to create one."
    )
    return f"No account on {server_name}", f"{said}\n", f"<p>{escape(said)}</p>"
