"""The fields for a new password, and what is checked of them: the same wherever one is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from homeserver.accounts.passwords import check_new_password
from homeserver.api.account.page import password_field
from homeserver.config.schema import Passwords
from homeserver.http.errors import invalid_param


class NewPassword:
    """``policy``: what the configuration asks of passwords, now."""

    def __init__(self, policy: Callable[[], Passwords]) -> None:
        self._policy = policy

    def fields(self, label: str = "New password") -> str:
        """HTML."""
        return password_field("password", label, is_new=True, hint=_hint(self._policy())) + password_field(
            "again", f"{label}, once more", is_new=True
        )

    def read(self, said: Mapping[str, str]) -> str:
        """The password; refuses a weak one, and one that was mistyped."""
        password = said.get("password", "")
        check_new_password(password, self._policy())
        if said.get("again") != password:
            raise invalid_param("The two passwords are not the same")
        return password


def _hint(policy: Passwords) -> str:
    wanted = [
        (policy.require_digit, "a digit"),
        (policy.require_symbol, "a character that is no letter or digit"),
        (policy.require_uppercase, "a capital letter"),
        (policy.require_lowercase, "a small letter"),
    ]
    least = [f"{policy.minimum_length} characters"] if policy.minimum_length > 1 else []
    parts = [*least, *(words for needed, words in wanted if needed)]
    return f"At least {', '.join(parts)}." if parts else ""
