"""Dehydrated devices (MSC3814): what a user is sent while nowhere logged in, for whoever logs in next.

Clients read the messages in one of two ways, by GET as the proposal has it now, or by POST as it had it before; neither
takes them away.

# spec: msc3814#proposal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.db.threads import Database
from homeserver.e2ee.sections import MESSAGES_MOST
from homeserver.e2ee.shapes import check_device_keys, is_name
from homeserver.e2ee.types import Requester
from homeserver.e2ee.uploads import read_keys, upload_errors
from homeserver.http.errors import (
    UserLimitReachedError,
    bad_json,
    forbidden,
    invalid_param,
    not_found,
    too_large,
)
from homeserver.runtime.clock import Clock
from homeserver.store.dehydrated import (
    DeviceInUseError,
    NewDehydrated,
    drop_dehydrated,
    load_dehydrated,
    load_dehydrated_messages,
    put_dehydrated,
)
from homeserver.store.devices import DeviceIdTakenError, Login, TooManyDevicesError
from homeserver.store.ids import Interner
from homeserver.store.work import Worker
from homeserver.stream.log import ChangeLog

# LIMIT(honest data takes some kilobytes, with the private halves of a hundred keys)
MAX_DATA_BYTES = 64 * 1024
MAX_DISPLAY_NAME = 255

_encode = msgspec.json.Encoder().encode


class DehydratedDevices:
    """See the module."""

    def __init__(
        self, database: Database, worker: Worker, interner: Interner, changes: ChangeLog, clock: Clock
    ) -> None:
        self._database = database
        self._worker = worker
        self._interner = interner
        self._changes = changes
        self._clock = clock

    async def put(
        self,
        requester: Requester,
        device_id: str,
        display_name: str | None,
        device_data: Mapping[str, Any],
        keys: Mapping[str, Any],
    ) -> None:
        """Keep a device in place of the one that there was; ``keys`` is the body of a key upload."""
        if not is_name(device_id):
            raise invalid_param("device_id is empty or too long")
        if display_name is not None and (len(display_name) > MAX_DISPLAY_NAME or "\0" in display_name):
            raise invalid_param("initial_device_display_name is too long")
        if not isinstance(device_data.get("algorithm"), str):
            raise bad_json("device_data.algorithm must be a string")
        data = _encode(device_data)
        if len(data) > MAX_DATA_BYTES:
            raise too_large(f"device_data takes more than {MAX_DATA_BYTES} bytes")
        identity = check_device_keys(keys.get("device_keys"), requester.user_id, device_id)
        one_time, fallbacks = read_keys(keys)
        login = Login(
            requester.user_nid, device_id, self._interner.take_nid(), display_name, self._clock.now_ms()
        )
        new = NewDehydrated(requester.device_nid, login, data.decode(), identity, one_time, fallbacks)
        try:
            with upload_errors():
                await self._worker.work(put_dehydrated, new)
        except (DeviceInUseError, DeviceIdTakenError):
            raise invalid_param("Another of the user's devices or keys has this name") from None
        except TooManyDevicesError:
            raise UserLimitReachedError("This account has too many devices: log some out") from None

    async def get(self, requester: Requester) -> dict[str, Any]:
        """The device and what its client left with it."""
        found = await self._database.read(load_dehydrated, requester.user_nid)
        if found is None:
            raise _none()
        return {"device_id": found.device_id, "device_data": msgspec.Raw(found.device_data.encode())}

    async def delete(self, requester: Requester) -> str:
        """Delete the device; its id."""
        device_id = await self._worker.work(drop_dehydrated, requester.user_nid)
        if device_id is None:
            raise _none()
        return device_id

    async def messages(
        self, requester: Requester, device_id: str, since: str | None, limit: int = MESSAGES_MOST
    ) -> tuple[list[msgspec.Raw], str, bool]:
        """A page of messages, the token of the next one, and whether there is anything on it yet."""
        after = _position(since)
        page = await self._database.read(
            load_dehydrated_messages,
            requester.user_nid,
            device_id,
            after,
            self._changes.position,
            min(limit, MESSAGES_MOST),
        )
        if page is None:
            raise forbidden("This is not the user's dehydrated device")
        upto = page.messages[-1][0] if page.messages else after
        return [msgspec.Raw(message) for _, message in page.messages], str(upto), page.has_more


def _none() -> Exception:
    return not_found("There is no dehydrated device")


def _position(token: str | None) -> int:
    if token is None:
        return 0
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        raise invalid_param("This is no token of this endpoint")
    return int(token)
