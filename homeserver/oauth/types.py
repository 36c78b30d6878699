"""What the parts of OAuth 2.0 tell each other, and the pages on which people decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from homeserver.store.users import Account

DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"
GRANT_TYPES: Final = ("authorization_code", "refresh_token", DEVICE_CODE)

ResponseMode = Literal["query", "fragment"]


class OAuthError(Exception):
    """A refusal as OAuth 2.0 tells it: ``{"error": …, "error_description": …}``.

    # spec: RFC 6749 section 5.2
    """

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error, description)
        self.error = error
        self.description = description
        self.status = status

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error, "error_description": self.description}


class RequestRefusedError(Exception):
    """An authorization request of which nothing is sent back to the app: whose it is, is not sure."""


class SentBackError(Exception):
    """An authorization request that is refused; the browser goes back to the app with the reason."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(frozen=True, slots=True)
class Client:
    """An app that registered itself. What it says of itself is no more than that."""

    client_id: str
    uri: str
    name: str
    redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[str, ...] = ()
    tos_uri: str | None = None
    policy_uri: str | None = None

    @property
    def host(self) -> str:
        """What people can tell an app by: its own name may be anything."""
        return self.uri.split("/")[2]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an app asks for. All that there is now is the whole account, with one device."""

    text: str  # what is granted of it, as it was asked for
    device_id: str
    wants_id_token: bool = False


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """What a browser was sent here with; everything in it was checked."""

    client: Client
    redirect_uri: str
    scope: Scope
    challenge: str
    mode: ResponseMode = "query"
    state: str | None = None
    nonce: str | None = None
    login_hint: str | None = None
    wants_nobody: bool = False  # prompt=none: without asking anybody, so in vain


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A device without a browser that asks to be let in."""

    user_code: str
    client: Client
    scope: Scope


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who uses a browser, and since when they have been signed in with it."""

    account: Account  # as it was while the session was good
    since_ts_ms: int
    form_token: str  # part of every form, so that no other page sends one for them
