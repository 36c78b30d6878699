"""What the people of a world do, drawn step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import sleep
from tests.sim.client import SimClient
from tests.sim.clock import SimClock
from tests.sim.draws import Draws
from tests.sim.options import Options

TO_DEVICE = "im.chaos.sim"


class Workload:
    """The scripts of all clients, and what they have done that somebody must see in the end."""

    def __init__(self, draws: Draws, clock: SimClock, options: Options, clients: Sequence[SimClient]) -> None:
        self.rooms: list[str] = []
        self.handed: list[tuple[SimClient, SimClient, str]] = []  # messages between devices: from, to, text
        self.leavers: set[tuple[str, str]] = set()  # rooms and who left them at any time
        self._draws = draws
        self._clock = clock
        self._options = options
        self._clients = clients
        self._founder = clients[0]

    async def script(self, client: SimClient) -> None:
        """What one user does. The first one makes the rooms, on a server that does not lie."""
        await client.register()
        if client is self._founder:
            for number in range(self._options.rooms):
                fields = {"room_version": self._options.version if number == 0 else "12"}
                if self._options.contested:
                    fields["power_level_content_override"] = {"users_default": 50}  # type: ignore[assignment]
                room = await client.create_room(preset="public_chat", name=f"room {number}", **fields)
                self.rooms.append(room)
        while len(self.rooms) < self._options.rooms:
            await self._sleep(0.1)
        inside = set(self.rooms) if client is self._founder else set()
        for step in range(self._options.steps):
            await self._sleep(self._draws.below(600) / 1000)
            room_id = self._draws.pick(self.rooms)
            if room_id not in inside:
                if not await self._join(client, room_id):
                    continue
                inside.add(room_id)
            await self._step(client, room_id, inside, f"{client.name} {step}")

    async def _sleep(self, delay_s: float) -> None:
        await sleep(self._clock, delay_s)  # type: ignore[arg-type]

    async def _join(self, client: SimClient, room_id: str) -> bool:
        status = await client.join(room_id, via=self._founder.server.name)
        # 404: those who answered are not in the room, and those who are did not answer. Where somebody lies, a refusal may
        # be all that was answered; a lie ends with the faults, and whoever is refused then never comes to an end of this.
        again = (404, 403) if self._options.lies and not self._options.contested else (404,)
        while status in again:
            await self._sleep(0.4)
            status = await client.join(room_id, via=self._founder.server.name)
        if status == 403 and self._options.contested:
            return False  # banned
        client.expect(status, 200, f"join {room_id}", None)
        return status == 200

    def _expect(self, client: SimClient, status: int, what: str) -> None:
        """In a contested room anybody may have lost the right to it a moment ago."""
        if not (self._options.contested and status in (403, 404)):
            client.expect(status, 200, what, None)

    async def _step(self, client: SimClient, room_id: str, inside: set[str], text: str) -> None:
        what = self._draws.below(130)
        if what < 40:
            self._expect(client, await client.send(room_id, text), "send")
        elif what < 60:
            sends = [
                Deferred.fromCoroutine(client.send(room_id, f"{text} {part}"))
                for part in range(2 + self._draws.below(6))
            ]
            for one in sends:
                self._expect(client, await one, "send at once")
        elif what < 68:
            await self._change(client, room_id, text)
        elif what < 76:
            # In version 1 the deeper event wins: who comes back before others heard of the leave may be out for them.
            is_oldest = room_id == self.rooms[0] and self._options.version == "1"
            if client is not self._founder and not is_oldest:
                self.leavers.add((room_id, client.user_id))
                self._expect(client, await client.leave(room_id), "leave")
                inside.discard(room_id)
        elif what < 84:
            await self._read_or_redact(client, room_id)
        elif what < 92:
            where = room_id if self._draws.chance(50) else ""
            status = await client.put_account_data(where, "im.chaos.note", {"text": text})
            client.expect(status, 200, "account data", None)
        elif what < 100:
            await self._invite(client)
        elif what < 110:
            await self._hand_over(client, text)
        else:
            await self._keys(client, text)

    async def _keys(self, client: SimClient, text: str) -> None:
        """One's own are uploaded, or one of somebody's is claimed, wherever they live."""
        others = [one for one in self._clients if len(one.uploaded) > len(client.claimed)]
        if self._draws.chance(40) or not others:
            names = [f"{text.replace(' ', '')}{part}" for part in range(1 + self._draws.below(3))]
            client.expect(await client.upload_keys(*names), 200, "upload keys", None)
        else:
            other = self._draws.pick(others)
            client.expect(await client.claim_key(other.user_id, other.device_id), 200, "claim a key", None)

    async def _change(self, client: SimClient, room_id: str, text: str) -> None:
        """State, and in contested rooms who may be there and do what."""
        contested = self._options.contested
        what = self._draws.below(5) if contested else 0
        if what == 0 and (contested or client is self._founder):
            status = await client.put_state(room_id, "m.room.topic", {"topic": text})
            self._expect(client, status, "set the topic")
        elif what == 1:
            await client.put_state(room_id, "im.chaos.sim", {"text": text}, self._draws.pick(("a", "b", "c")))
        elif what in (2, 3):
            # Whoever has the power may do it; the founder is never among them.
            other = self._draws.pick(self._clients[1:])
            await client.send_away(room_id, other.user_id, self._draws.pick(("kick", "ban", "unban")))
        elif client is self._founder:
            levels = {"users_default": self._draws.pick((50, 0, 50)), "state_default": 50}
            if room_id.count(":") and not self._creators_are_privileged(room_id):
                levels["users"] = {client.user_id: 100}  # type: ignore[assignment]
            await client.put_state(room_id, "m.room.power_levels", levels)

    def _creators_are_privileged(self, room_id: str) -> bool:
        return room_id != self.rooms[0] or self._options.version == "12"

    async def _invite(self, client: SimClient) -> None:
        """A private room of one's own; the founder's with a guest, who may live anywhere."""
        inviting = [self._draws.pick(self._clients[1:]).user_id] if client is self._founder else []
        await client.try_to_create_room(preset="private_chat", invite=inviting)

    async def _hand_over(self, client: SimClient, text: str) -> None:
        other = self._draws.pick(self._clients)
        if not other.token:
            return
        status = await client.send_to_device(other.user_id, TO_DEVICE, {"text": text})
        client.expect(status, 200, "send to a device", None)
        self.handed.append((client, other, text))

    async def _read_or_redact(self, client: SimClient, room_id: str) -> None:
        segment = client.open_segment(room_id)
        mine = [event_id for room, _, event_id in client.acknowledged if room == room_id]
        if mine and self._draws.chance(40):
            self._expect(client, await client.redact(room_id, self._draws.pick(mine)), "redact")
        elif segment is not None and segment.event_ids:
            self._expect(client, await client.receipt(room_id, segment.event_ids[-1]), "receipt")

    # --- the end -------------------------------------------------------------------------------------

    async def last_words(self, client: SimClient, members: Any) -> None:
        """A message in every room that all share, so that whatever lay apart is tied together."""
        for room_id in self.rooms:
            if room_id in members:
                await client.send(room_id, f"{client.name} says goodbye")
