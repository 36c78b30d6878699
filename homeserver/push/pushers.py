"""Pushers of a requester: checked and kept. spec: client-server-api#post_matrixclientv3pushersset"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.http.errors import (
    MatrixError,
    UserLimitReachedError,
    invalid_param,
    missing_param,
    too_large,
    unknown_token,
)
from homeserver.runtime.clock import Clock
from homeserver.store.device_life import NoDeviceError
from homeserver.store.pushers import (
    Pusher,
    TooManyPushersError,
    drop_pusher,
    find_device,
    load_pushers,
    put_pusher,
)
from homeserver.store.work import Worker

MAX_APP_ID_LENGTH = 64
MAX_PUSHKEY_BYTES = 512
MAX_NAME_LENGTH = 255
MAX_DATA_BYTES = 16_384
GATEWAY_PATH = "/_matrix/push/v1/notify"
EMAIL_APP_ID = "m.email"
ENABLED = "org.matrix.msc3881.enabled"
DEVICE_ID = "org.matrix.msc3881.device_id"

_encode = msgspec.json.Encoder().encode


class PusherBody(msgspec.Struct):
    """A request to set a pusher."""

    app_id: str
    pushkey: str
    kind: str | None
    app_display_name: str | None = None
    device_display_name: str | None = None
    profile_tag: str | None = None
    lang: str | None = None
    data: dict[str, Any] | None = None
    append: bool = False
    # Proposed: switched on and off from another device. matrix-js-sdk, Element.
    enabled: bool = msgspec.field(default=True, name=ENABLED)
    device_id: str | None = msgspec.field(default=None, name=DEVICE_ID)


class Owner(Protocol):
    """Whose pushers, and the device that sets them."""

    @property
    def user_nid(self) -> int: ...
    @property
    def device_nid(self) -> int: ...


LoadAddresses = Callable[[Tx, int], Collection[str]]
"""The mail addresses of a user of which it was verified that they are theirs."""


def no_addresses(tx: Tx, user_nid: int) -> Collection[str]:  # noqa: ARG001
    """Of a server where nobody can have one."""
    return ()


class Pushers:
    """See the module. Mail goes to verified addresses alone, or the server would write to whomever a user names."""

    def __init__(
        self, database: Database, worker: Worker, clock: Clock, addresses: LoadAddresses = no_addresses
    ) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock
        self._addresses = addresses

    async def load(self, owner: Owner) -> list[dict[str, Any]]:
        """A user's pushers as clients are told them."""
        return [_to_json(one) for one in await self._database.read(load_pushers, owner.user_nid)]

    async def put(self, owner: Owner, body: PusherBody) -> None:
        """Set a pusher, or end it where its kind is null."""
        # spec: client-server-api#post_matrixclientv3pushersset ("64 chars", and of the pushkey "512 bytes")
        if len(body.app_id) > MAX_APP_ID_LENGTH:
            raise invalid_param(f"app_id is longer than {MAX_APP_ID_LENGTH} characters")
        _check_nul(body.app_id, "app_id")
        _check_length(body.pushkey, "pushkey", MAX_PUSHKEY_BYTES)
        if body.kind is None:
            await self._worker.work(drop_pusher, owner.user_nid, body.app_id, body.pushkey)
            return
        pusher = self._check(owner, body, await self._device_of(owner, body))
        if pusher.kind == "email":
            known = await self._database.read(self._addresses, owner.user_nid)
            if pusher.pushkey not in known:
                raise MatrixError(400, "M_THREEPID_NOT_FOUND", "This is no verified address of the account")
        try:
            await self._worker.work(put_pusher, pusher, body.append)
        except TooManyPushersError:
            raise UserLimitReachedError("There are too many pushers") from None
        except NoDeviceError:
            raise unknown_token() from None

    async def _device_of(self, owner: Owner, body: PusherBody) -> int:
        """Whose pusher it is: who switches another device's off does not make it theirs."""
        if body.device_id is None or "\0" in body.device_id:
            return owner.device_nid
        found = await self._database.read(find_device, owner.user_nid, body.device_id)
        return owner.device_nid if found is None else found

    def _check(self, owner: Owner, body: PusherBody, device_nid: int) -> Pusher:
        app_name, device_name, lang, data = (
            body.app_display_name,
            body.device_display_name,
            body.lang,
            body.data,
        )
        if app_name is None or device_name is None or lang is None or data is None:
            required = ("app_display_name", "device_display_name", "lang", "data")
            missing = ", ".join(name for name in required if getattr(body, name) is None)
            raise missing_param(f"Missing parameters: {missing}")
        for name in ("kind", "app_display_name", "device_display_name", "profile_tag", "lang"):
            _check_length(getattr(body, name) or "", name, MAX_NAME_LENGTH)
        if body.kind == "http":
            _check_url(data.get("url"))
        elif body.kind != "email":
            raise invalid_param("The kind of a pusher must be http or email")
        elif body.app_id != EMAIL_APP_ID:
            # spec: client-server-api#post_matrixclientv3pushersset ("If the kind is email, this is m.email")
            raise invalid_param(f"The app_id of a pusher that sends mail must be {EMAIL_APP_ID}")
        if data.get("format") is None:
            # A null is an absent one, as everywhere in this body.
            data = {name: value for name, value in data.items() if name != "format"}
        elif not isinstance(data["format"], str):
            raise invalid_param("data.format must be a string")
        text = _encode(data)
        if len(text) > MAX_DATA_BYTES:
            raise too_large("The pusher's data is too large")
        return Pusher(
            owner.user_nid,
            body.app_id,
            body.pushkey,
            body.kind,
            app_name,
            device_name,
            body.profile_tag,
            lang,
            text.decode(),
            device_nid,
            self._clock.now_ms(),
            int(body.enabled),
        )


def _check_length(value: str, name: str, most: int) -> None:
    if len(value.encode()) > most:
        raise invalid_param(f"{name} is longer than {most} bytes")
    _check_nul(value, name)


def _check_nul(value: str, name: str) -> None:
    if "\0" in value:
        raise invalid_param(f"{name} contains a NUL")


def _check_url(url: object) -> None:
    # spec: client-server-api#post_matrixclientv3pushersset ("MUST be an HTTPS URL with a path of …")
    if url is None:
        raise missing_param("Missing parameters: data.url")
    if not isinstance(url, str):
        raise invalid_param("data.url must be a string")
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "https" and bool(parts.hostname) and parts.path == GATEWAY_PATH
    except ValueError:
        fits = False
    if not fits:
        raise invalid_param(f"data.url must be an HTTPS URL with the path {GATEWAY_PATH}")


def _to_json(pusher: Pusher) -> dict[str, Any]:
    found: dict[str, Any] = {
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "kind": pusher.kind,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": msgspec.Raw(pusher.data.encode()),
        ENABLED: bool(pusher.enabled),
    }
    if pusher.device_id is not None:
        found[DEVICE_ID] = pusher.device_id
    if pusher.profile_tag is not None:
        found["profile_tag"] = pusher.profile_tag
    return found
