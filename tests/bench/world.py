"""What the rows need before their clock starts: users, rooms, members and messages on the server under test.

All of it is made through the client-server API, the same way on every server; only the users come from the
shared-secret registration that every server here has. Nothing in this module is timed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from tests.bench.wire import BlockingConnection, Connection, Response, build_request, encode, expect_ok

CLIENT = "/_matrix/client/v3"
REGISTER = "/_synapse/admin/v1/register"
SETUP_CONNECTIONS = 4
MESSAGE = "A message of ordinary length, such as people write to each other all day long."

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class User:
    """A registered user with the access token of one device."""

    user_id: str
    token: str


class World:
    """One server under test, as the rows see it."""

    def __init__(
        self,
        port: int,
        registration_secret: str,
        measuring: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.port = port
        # Entered around what a row times: a profiler looks at the server only then.
        self.measuring = measuring
        self._secret = registration_secret.encode()
        self._serial = itertools.count(1)

    def next_serial(self) -> int:
        """A number that this world has not given out yet: for names and transaction ids."""
        return next(self._serial)

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[Connection]]:
        """Fresh connections for one row: a server may have closed what lay idle since the last."""
        opened: list[Connection] = []
        try:
            while len(opened) < count:
                opened.append(await Connection.open(self.port))
            yield opened
        finally:
            for connection in opened:
                connection.close()

    async def register(self, count: int) -> list[User]:
        """New users, by the shared secret."""
        serials = [self.next_serial() for _ in range(count)]
        return await self.spread(serials, self._register_one)

    async def _register_one(self, connection: Connection, serial: int) -> User:
        answer = expect_ok(await connection.send(build_request("GET", REGISTER)))
        nonce: str = answer.json()["nonce"]
        name, password = f"user{serial}", f"password of user {serial}"
        signed = b"\x00".join([nonce.encode(), name.encode(), password.encode(), b"notadmin"])
        content = {
            "nonce": nonce,
            "username": name,
            "password": password,
            "admin": False,
            "mac": hmac.new(self._secret, signed, hashlib.sha1).hexdigest(),
        }
        answer = expect_ok(await connection.send(build_request("POST", REGISTER, None, content)))
        account = answer.json()
        return User(account["user_id"], account["access_token"])

    async def spread(
        self,
        items: Iterable[Item],
        work: Callable[[Connection, Item], Awaitable[Result]],
        at_a_time: int = SETUP_CONNECTIONS,
    ) -> list[Result]:
        """Do `work` on every item over a few connections; the results in the items' order."""
        numbered = enumerate(items)
        results: dict[int, Result] = {}

        async def drain(connection: Connection) -> None:
            for number, item in numbered:
                results[number] = await work(connection, item)

        async with self.connections(at_a_time) as connections:
            await asyncio.gather(*(drain(connection) for connection in connections))
        return [results[number] for number in sorted(results)]

    async def create_rooms(self, creators: Sequence[User]) -> list[str]:
        """One public room for each entry of `creators`."""

        async def create(connection: Connection, creator: User) -> str:
            answer = expect_ok(await connection.send(self.room_request(creator)))
            room_id: str = answer.json()["room_id"]
            return room_id

        return await self.spread(creators, create)

    async def join(self, pairs: Iterable[tuple[User, str]], at_a_time: int = SETUP_CONNECTIONS) -> None:
        async def join_one(connection: Connection, pair: tuple[User, str]) -> None:
            expect_ok(await connection.send(join_request(*pair)))

        await self.spread(pairs, join_one, at_a_time)

    async def fill(self, senders: Sequence[tuple[User, str]], messages: int) -> None:
        """`messages` messages from each sender in its room, the senders side by side."""

        async def send_all(connection: Connection, sender: tuple[User, str]) -> None:
            for _ in range(messages):
                expect_ok(await connection.send(self.message_request(*sender)))

        await self.spread(senders, send_all)

    def room_request(self, creator: User) -> bytes:
        content = {"preset": "public_chat", "name": f"Room {self.next_serial()}"}
        return build_request("POST", f"{CLIENT}/createRoom", creator.token, content)

    def message_request(self, sender: User, room_id: str, body: str = MESSAGE) -> bytes:
        path = f"{CLIENT}/rooms/{encode(room_id)}/send/m.room.message/t{self.next_serial()}"
        return build_request("PUT", path, sender.token, {"msgtype": "m.text", "body": body})

    def ask(self, data: bytes) -> Response:
        """One request on a connection of its own."""
        with BlockingConnection(self.port) as connection:
            return expect_ok(connection.request(data))

    def current_token(self, user: User) -> str:
        """The user's sync token of now."""
        token: str = self.ask(sync_request(user)).json()["next_batch"]
        return token


def join_request(user: User, room_id: str) -> bytes:
    return build_request("POST", f"{CLIENT}/join/{encode(room_id)}", user.token)


def sync_request(user: User, since: str | None = None, timeout_ms: int = 0) -> bytes:
    query = {"timeout": str(timeout_ms)}
    if since is not None:
        query["since"] = since
    return build_request("GET", f"{CLIENT}/sync", user.token, query=query)
