"""Profiles: who may set which field to what, and telling others of it. spec: client-server-api#profiles"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from federation.errors import Malformed
from federation.ids import domain_of, parse_server_name
from homeserver.accounts.types import Requester
from homeserver.db.threads import Database
from homeserver.http.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from homeserver.store import profiles
from homeserver.store.ids import Interner
from homeserver.store.remote_profiles import SHOWN
from homeserver.store.work import Worker

RemoteProfile = Callable[[str, str | None, str | None], Awaitable[dict[str, Any] | None]]
"""Asks a user's own server for a profile (of which a field is wanted), for an asker of whom so much at once is taken; None
where it has none."""

MAX_KEY_LENGTH = 255
MAX_DISPLAY_NAME_LENGTH = 256
MAX_AVATAR_URL_LENGTH = 1000
MAX_TIME_ZONE_LENGTH = 255
MAX_STATUS_TEXT_BYTES = 256
MAX_STATUS_EMOJI_BYTES = 32
_STATUS = frozenset({"m.status", "org.matrix.msc4426.status"})
_CALL = frozenset({"m.call", "org.matrix.msc4426.call"})

# spec: appendices#common-namespaced-identifier-grammar
_KEY = re.compile(r"[a-z][a-z0-9_.\-]*")
_MXC = re.compile(r"mxc://([^/]+)/([A-Za-z0-9_\-]+)")
_MISSING = object()


class Profiles:
    """Profiles of local users, and a window to those of others."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        worker: Worker,
        interner: Interner,
        fetch_remote: RemoteProfile | None = None,
        make_user: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._worker = worker
        self._interner = interner
        self._fetch_remote = fetch_remote
        self._make_user = make_user  # has an application service make its users who are not there

    async def load_local(self, user_id: str) -> dict[str, Any] | None:
        """Every field of a local user's profile; None where there is no such user."""
        user_nid = await self._interner.find_user(user_id)
        return None if user_nid is None else await self._database.read(profiles.load_profile, user_nid)

    async def load(
        self,
        user_id: str,
        field: str | None = None,
        *,
        may_lack: frozenset[str] = frozenset(),
        asker: str | None = None,
    ) -> dict[str, Any]:
        """A profile, or one field of it as an object; 404 where there is none, but for those that a profile may lack."""
        if domain_of(user_id) == self._server_name:
            profile = await self.load_local(user_id)
            if profile is None and self._make_user is not None and await self._make_user(user_id):
                profile = await self.load_local(user_id)
        elif self._fetch_remote is None:
            profile = None
        else:
            profile = await self._fetch_remote(user_id, field, asker)
        if profile is None:
            raise not_found("There is no such profile")
        if field is None:
            return profile
        value = profile.get(field, _MISSING)
        if value is _MISSING:
            if field in may_lack:
                return {}
            raise not_found("The profile does not have this field")
        return {field: value}

    async def put(self, requester: Requester, user_id: str, field: str, body: dict[str, Any]) -> None:
        """Set a field of the requester's own profile."""
        # spec: client-server-api#put_matrixclientv3profileuseridkeyname
        check_own(requester, user_id)
        check_key(field)
        if field not in body:
            raise MatrixError(400, "M_MISSING_PARAM", f"The body has no {field}")
        value = body[field]
        if field in SHOWN and value in (None, ""):
            # Clients of before the DELETE endpoint clear a name or picture in this way.
            await self.drop(requester, user_id, field)
            return
        check_value(field, value)
        try:
            await self._worker.work(profiles.put_field, requester.user_nid, field, value)
        except profiles.ProfileTooLargeError:
            raise MatrixError(400, "M_PROFILE_TOO_LARGE", "The profile would be larger than 64 KiB") from None

    async def drop(self, requester: Requester, user_id: str, field: str) -> None:
        """Remove a field of the requester's own profile; it need not be there."""
        # spec: client-server-api#delete_matrixclientv3profileuseridkeyname
        check_own(requester, user_id)
        check_key(field)
        await self._worker.work(profiles.drop_field, requester.user_nid, field)


def check_own(requester: Requester, user_id: str) -> None:
    """Refuse what is somebody else's."""
    if requester.user_id != user_id:
        raise forbidden("This belongs to another user")


def check_key(field: str) -> None:
    """Refuse what cannot be the name of a field."""
    if len(field) > MAX_KEY_LENGTH:
        raise MatrixError(400, "M_KEY_TOO_LARGE", f"The key is longer than {MAX_KEY_LENGTH} bytes")
    if field not in SHOWN and _KEY.fullmatch(field) is None:
        raise invalid_param("The key is not a namespaced identifier")


def check_value(field: str, value: Any) -> None:
    """The fields that the specification defines have a shape; others may hold anything."""
    if field == "displayname":
        _check_string(field, value, MAX_DISPLAY_NAME_LENGTH)
    elif field == "avatar_url":
        _check_string(field, value, MAX_AVATAR_URL_LENGTH)
        if not _is_mxc(value):
            raise invalid_param("avatar_url must be an mxc:// address")
    elif field in _STATUS:
        _check_status(field, value)
    elif field in _CALL:
        _check_call(field, value)
    elif field == "m.tz":
        _check_string(field, value, MAX_TIME_ZONE_LENGTH)


def _check_string(field: str, value: Any, most: int) -> None:
    if not isinstance(value, str):
        raise invalid_param(f"{field} must be a string")
    if len(value) > most:
        raise MatrixError(400, "M_TOO_LARGE", f"{field} is longer than {most} characters")


def _check_status(field: str, value: Any) -> None:
    # proposal: MSC4426 (m.status). Null clears it for those who look, as clients do.
    if value is None:
        return
    if not isinstance(value, dict):
        raise bad_json(f"{field} must be an object")
    for name, most in (("text", MAX_STATUS_TEXT_BYTES), ("emoji", MAX_STATUS_EMOJI_BYTES)):
        text = value.get(name)
        if not isinstance(text, str):
            raise bad_json(f"{field} must have a string {name}")
        if len(text.encode()) > most:
            raise MatrixError(400, "M_TOO_LARGE", f"The {name} of {field} is longer than {most} bytes")


def _check_call(field: str, value: Any) -> None:
    # proposal: MSC4426 (m.call)
    if value is None:
        return
    if not isinstance(value, dict):
        raise bad_json(f"{field} must be an object")
    joined = value.get("call_joined_ts", 0)
    if not isinstance(joined, int) or isinstance(joined, bool) or joined < 0:
        raise bad_json("call_joined_ts must be a number")


def _is_mxc(value: str) -> bool:
    # spec: client-server-api#matrix-content-mxc-uris
    match = _MXC.fullmatch(value)
    if match is None:
        return False
    try:
        parse_server_name(match[1])
    except Malformed:
        return False
    return True
