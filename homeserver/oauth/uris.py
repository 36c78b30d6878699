"""Addresses of apps: which are good, and whose they are.

An app proves who it is by getting the answer at its address: so each must be of the app, and of nobody else.

# spec: client-server-api#redirect-uri-validation
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from homeserver.oauth.types import OAuthError

URI_LENGTH_MOST: Final = 2048
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
# With these a browser does something itself.
_ODD: Final = frozenset(("javascript", "data", "vbscript", "file", "blob", "about", "view-source"))


def split(uri: object, field: str, error: str = "invalid_client_metadata") -> SplitResult:
    """The parts of an absolute address. Raises OAuthError."""
    if not isinstance(uri, str) or not 1 <= len(uri) <= URI_LENGTH_MOST:
        raise OAuthError(error, f"{field} must be an address of at most {URI_LENGTH_MOST} characters")
    if not uri.isascii() or any(char <= " " or char in '"<>\\^`{|}\x7f' for char in uri):
        raise OAuthError(error, f"{field} holds characters that no address has")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise OAuthError(error, f"{field} is not an address") from None
    if not parts.scheme:
        raise OAuthError(error, f"{field} must be an absolute address")
    return parts


def check_client_uri(uri: object, *, with_loopback: bool) -> SplitResult:
    """The address that all others of an app are measured by. ``with_loopback``: apps under development are let in."""
    parts = split(uri, "client_uri")
    is_local = with_loopback and parts.scheme == "http" and parts.hostname in _LOOPBACK
    if (parts.scheme != "https" and not is_local) or not parts.hostname:
        raise OAuthError("invalid_client_metadata", "client_uri must be an https address")
    if "@" in parts.netloc:
        raise OAuthError("invalid_client_metadata", "client_uri must not name a user")
    if not is_local and "." not in parts.hostname.rstrip("."):
        # Everything below it would count as the app's.
        raise OAuthError("invalid_client_metadata", "client_uri must not be at a whole domain of others")
    return parts


def check_page(uri: object, field: str, client: SplitResult) -> str:
    """An address of a page or picture of the app."""
    parts = split(uri, field)
    if not _is_of(parts, client):
        raise OAuthError("invalid_client_metadata", f"{field} must be at client_uri's host or below it")
    return str(uri)


def check_redirect(uri: object, client: SplitResult, *, is_native: bool) -> str:
    """Where answers may go."""
    parts = split(uri, "redirect_uris", "invalid_redirect_uri")
    text = str(uri)
    if "#" in text:
        raise OAuthError("invalid_redirect_uri", "A redirect URI must not have a fragment")
    if _is_of(parts, client):
        return text
    # COMPAT(FluffyChat on desktops, 2026): it names a port, which no app should. That takes nothing from anybody: the
    # port may vary (RFC 8252, section 7.3), so without one it could have had the answer at each.
    if is_native and (_is_own_scheme(parts, text, client) or _is_loopback(parts)):
        return text
    raise OAuthError("invalid_redirect_uri", "A redirect URI is not of the app that client_uri names")


def _is_of(parts: SplitResult, client: SplitResult) -> bool:
    host, base = parts.hostname or "", client.hostname or ""
    if parts.scheme != client.scheme or "@" in parts.netloc:
        return False
    return host == base or host.endswith(f".{base}")


def _is_own_scheme(parts: SplitResult, text: str, client: SplitResult) -> bool:
    own = ".".join(reversed((client.hostname or "").split(".")))
    scheme = parts.scheme.lower()
    if scheme in _ODD or "." not in scheme:
        return False
    is_own = scheme == own or scheme.startswith(f"{own}.")
    return is_own and not text[len(scheme) + 1 :].startswith("//")


def _is_loopback(parts: SplitResult) -> bool:
    return parts.scheme == "http" and parts.hostname in _LOOPBACK and "@" not in parts.netloc


def is_same(asked: str, registered: str) -> bool:
    """Whether an address is one that was registered: to the letter, but for a port of one's own machine.

    Which port that is may vary where none was registered.
    """
    if asked == registered:
        return True
    try:
        known, parts = urlsplit(registered), urlsplit(asked)
        if not _is_loopback(known) or known.port is not None or "@" in parts.netloc or parts.port is None:
            return False
    except ValueError:
        return False
    return asked == registered.replace(known.netloc, f"{known.netloc}:{parts.port}", 1)
