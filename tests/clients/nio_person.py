"""One user with a matrix-nio client: what they do, and what their client shows them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import nio

from tests.clients.notes import Account, CheckError, check

WAIT_S = 30.0
LONG_POLL_MS = 2_000
PAGE_SIZE = 10

Answer = TypeVar("Answer")


def demand(answer: object, kind: type[Answer], what: str) -> Answer:
    """The answer, which must be of that kind: nio returns errors instead of raising them."""
    if not isinstance(answer, kind):
        raise CheckError(f"{what}: {answer}")
    return answer


class Person:
    """A logged-in client and everything that its syncs have shown it. With a folder for its keys it encrypts."""

    def __init__(self, base_url: str, name: str, *, store: Path | None = None) -> None:
        config = nio.AsyncClientConfig(
            encryption_enabled=store is not None,
            store_sync_tokens=False,
            max_timeouts=0,
            max_limit_exceeded=0,
        )
        self.client = nio.AsyncClient(
            base_url, name, store_path="" if store is None else str(store), config=config
        )
        self.timeline: list[nio.Event] = []
        self.typing: list[list[str]] = []
        self.receipts: list[nio.Receipt] = []
        self.presence: list[nio.PresenceEvent] = []
        self.prev_batch: dict[str, str] = {}
        self.client.add_event_callback(self._on_event, nio.Event)
        self.client.add_ephemeral_callback(self._on_ephemeral, nio.EphemeralEvent)
        self.client.add_presence_callback(self._on_presence, nio.PresenceEvent)

    @property
    def user_id(self) -> str:
        return str(self.client.user_id)

    async def _on_event(self, _room: nio.MatrixRoom, event: nio.Event) -> None:
        self.timeline.append(event)

    async def _on_ephemeral(self, _room: nio.MatrixRoom, event: nio.EphemeralEvent) -> None:
        if isinstance(event, nio.TypingNoticeEvent):
            self.typing.append(event.users)
        elif isinstance(event, nio.ReceiptEvent):
            self.receipts += event.receipts

    async def _on_presence(self, event: nio.PresenceEvent) -> None:
        self.presence.append(event)

    async def log_in(self, password: str) -> None:
        demand(await self.client.login(password, device_name="nio program"), nio.LoginResponse, "login")

    def resume(self, account: Account) -> None:
        """Go on with the login of before."""
        self.client.restore_login(account.user_id, account.device_id, account.token)

    def account(self, password: str) -> Account:
        return Account(self.user_id, password, str(self.client.access_token), str(self.client.device_id))

    async def sync(self, timeout_ms: int = 0, **options: Any) -> nio.SyncResponse:
        response = demand(await self.client.sync(timeout=timeout_ms, **options), nio.SyncResponse, "sync")
        for room_id, room in response.rooms.join.items():
            if room.timeline.limited and room.timeline.prev_batch:
                self.prev_batch[room_id] = room.timeline.prev_batch
        if self.client.olm is not None:
            await self._keep_keys()
        return response

    async def _keep_keys(self) -> None:
        """What nio's own loop does between syncs."""
        if self.client.should_upload_keys:
            demand(await self.client.keys_upload(), nio.KeysUploadResponse, "key upload")
        if self.client.should_query_keys:
            demand(await self.client.keys_query(), nio.KeysQueryResponse, "key query")
        if self.client.should_claim_keys:
            wanted = self.client.get_users_for_key_claiming()
            demand(await self.client.keys_claim(wanted), nio.KeysClaimResponse, "key claim")
        for answer in await self.client.send_to_device_messages():
            demand(answer, nio.ToDeviceResponse, "message to a device")

    async def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Sync until the client shows it."""
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline_s:
                raise CheckError(f"{self.user_id} waited {WAIT_S:.0f} s in vain until: {what}")
            await self.sync(LONG_POLL_MS)
        check(True, what)

    def sees_member(self, room_id: str, user_id: str) -> bool:
        room = self.client.rooms.get(room_id)
        return room is not None and user_id in room.users and user_id not in room.invited_users

    def seen(self, event_id: str) -> list[nio.Event]:
        """Every copy of the event that this client's timeline was given."""
        return [event for event in self.timeline if event.event_id == event_id]

    async def send(
        self, room_id: str, content: dict[str, Any], kind: str = "m.room.message", txn: str | None = None
    ) -> str:
        answer = await self.client.room_send(room_id, kind, content, tx_id=txn)
        return str(demand(answer, nio.RoomSendResponse, f"sending {kind}").event_id)

    async def say(self, room_id: str, body: str, txn: str | None = None) -> str:
        return await self.send(room_id, {"msgtype": "m.text", "body": body}, txn=txn)

    async def fetch(self, room_id: str, event_id: str) -> nio.Event:
        answer = await self.client.room_get_event(room_id, event_id)
        event: nio.Event = demand(answer, nio.RoomGetEventResponse, "fetching an event").event
        return event

    async def read_back(self, room_id: str, start: str) -> list[nio.Event]:
        """All events of the room before a token, newest first, page by page."""
        events: list[nio.Event] = []
        token: str | None = start
        while token is not None:
            answer = await self.client.room_messages(room_id, token, limit=PAGE_SIZE)
            page = demand(answer, nio.RoomMessagesResponse, "paging back")
            if len(page.chunk) > PAGE_SIZE:
                raise CheckError(f"a page of {len(page.chunk)} events although {PAGE_SIZE} were asked for")
            events += page.chunk
            token = page.end if page.end != token else None
        return events

    async def upload(self, content: bytes, content_type: str, filename: str) -> str:
        answer, _ = await self.client.upload(
            io.BytesIO(content), content_type=content_type, filename=filename, filesize=len(content)
        )
        return str(demand(answer, nio.UploadResponse, "upload").content_uri)

    async def download(self, uri: str) -> nio.MemoryDownloadResponse:
        return demand(await self.client.download(uri), nio.MemoryDownloadResponse, "download")
