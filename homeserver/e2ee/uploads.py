"""What a device uploads: its identity keys, one-time keys and fallback keys.

# spec: client-server-api#post_matrixclientv3keysupload
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from homeserver.db.tx import WriteTx
from homeserver.e2ee.shapes import check_device_keys, check_one_time_keys
from homeserver.e2ee.types import Requester
from homeserver.http.errors import forbidden, invalid_param, too_large, unknown_token
from homeserver.store.device_keys import ListTooLongError, put_device_keys
from homeserver.store.device_life import NoDeviceError
from homeserver.store.one_time_keys import (
    KeyExistsError,
    KeysLeft,
    NewKey,
    TooManyKeysError,
    put_one_time_keys,
)
from homeserver.store.work import Worker


class KeyUploads:
    """Stores keys of devices."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def upload(self, requester: Requester, body: Mapping[str, Any]) -> dict[str, int]:
        """Store what is in the body, all of it or nothing; how many one-time keys there are then."""
        device_id = requester.device_id
        if device_id is None:
            raise forbidden("Only a device has keys, and this access token belongs to none")
        named = body.get("device_keys")
        keys = None if named is None else check_device_keys(named, requester.user_id, device_id)
        one_time, fallbacks = read_keys(body)
        with upload_errors():
            left = await self._worker.work(
                _upload, requester.user_nid, requester.device_nid, keys, one_time, fallbacks
            )
        return dict(left.counts)


def read_keys(body: Mapping[str, Any]) -> tuple[list[NewKey], list[NewKey]]:
    """The one-time and the fallback keys of an upload. Raises MatrixError."""
    one_time, fallbacks = _keys_of(body, "one_time_keys"), _keys_of(body, "fallback_keys")
    if len({one.algorithm for one in fallbacks}) != len(fallbacks):
        raise invalid_param("fallback_keys: there can be one key per algorithm")
    return one_time, fallbacks


@contextmanager
def upload_errors() -> Iterator[None]:
    """What may be wrong with keys when they are stored, as what the client is told."""
    try:
        yield
    except NoDeviceError:
        raise unknown_token() from None
    except KeyExistsError as error:
        # COMPAT(matrix-rust-sdk, always): by these first words it knows that it has lost track of its keys.
        raise invalid_param(f"One time key {error} already exists, and is another one") from None
    except TooManyKeysError:
        raise too_large("These are more keys than a device may have") from None
    except ListTooLongError:
        raise too_large("The devices of this account have too many keys: log some out") from None


def _keys_of(body: Mapping[str, Any], name: str) -> list[NewKey]:
    value = body.get(name)
    return [] if value is None else check_one_time_keys(value, name)


def _upload(
    tx: WriteTx,
    user_nid: int,
    device_nid: int,
    keys: str | None,
    one_time: Sequence[NewKey],
    fallbacks: Sequence[NewKey],
) -> KeysLeft:
    if keys is not None:
        put_device_keys(tx, user_nid, device_nid, keys)
    return put_one_time_keys(tx, user_nid, device_nid, one_time, fallbacks)
