"""Bounds for the strings that clients give us."""

from __future__ import annotations

from homeserver.http.errors import MatrixError, invalid_param

MAX_DEVICE_ID_LENGTH = 255
MAX_DISPLAY_NAME_LENGTH = 255
MAX_PASSWORD_LENGTH = 512
MAX_TOKEN_LENGTH = 4096


def check_text(value: str, what: str, most: int) -> str:
    """The value itself, if it is short enough and has no NUL (which PostgreSQL cannot store)."""
    if len(value) > most:
        raise MatrixError(400, "M_TOO_LARGE", f"The {what} is longer than {most} characters")
    if "\0" in value:
        raise invalid_param(f"The {what} contains a NUL")
    return value


def check_device_id(value: str | None) -> str | None:
    """A device id that a client chose; an empty one counts as none."""
    # spec: appendices#opaque-identifiers (old clients do not keep to the grammar: only the size binds)
    return check_text(value, "device ID", MAX_DEVICE_ID_LENGTH) if value else None


def check_device_name(value: str | None) -> str | None:
    """A device's display name."""
    return None if value is None else check_text(value, "device's name", MAX_DISPLAY_NAME_LENGTH)
