"""A client that follows its server by sliding sync, through windows that are now wide and now narrow.

What it makes of its answers is held to what classic sync tells a new client: one law for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.sim.client import Segment, SimClient, View
from tests.sim.clock import SimClock
from tests.sim.draws import Draws
from tests.sim.server import SimServer

_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_OUT = ("leave", "ban")


class SlidingView(View):
    """The same view, folded from other answers."""

    def fold_sliding(self, answer: Mapping[str, Any]) -> None:
        """Take in one answer."""
        extensions = answer["extensions"]
        for room_id, room in answer["rooms"].items():
            self._fold_room(room_id, room)
        account_data = extensions.get("account_data", {})
        for event in account_data.get("global", ()):
            self.account_data[("", event["type"])] = event["content"]
        for room_id, events in account_data.get("rooms", {}).items():
            for event in events:
                self.account_data[(room_id, event["type"])] = event["content"]
        for room_id, event in extensions.get("receipts", {}).get("rooms", {}).items():
            self._fold_receipts(room_id, event["content"])
        self.fold_keys(extensions.get("e2ee", {}))

    def _fold_room(self, room_id: str, room: Mapping[str, Any]) -> None:
        self.invited.discard(room_id)
        if room["membership"] == "invite":
            self.invited.add(room_id)
        if room["membership"] != "join":
            self.state.pop(room_id, None)
            return
        if room.get("initial"):
            self.state[room_id] = {}
            # Of others the receipts at what is shown are told, and those that come.
            self.receipts = {key: one for key, one in self.receipts.items() if key[0] != room_id}
        for event in room["required_state"]:
            key = (event["type"], event["state_key"])
            if "content" in event:
                self.state[room_id][key] = event["event_id"]
            else:
                self.state[room_id].pop(key, None)


class SlidingClient(SimClient):
    """See the module."""

    def __init__(self, name: str, server: SimServer, clock: SimClock, draws: Draws, *, forks: bool) -> None:
        super().__init__(name, server, clock, forks=forks)
        self._draws = draws
        self._inbox: str | None = None
        self.view: SlidingView = SlidingView()

    async def sync_once(self, timeout_ms: int) -> None:
        """One answer, folded into the view; without a time limit through the widest window."""
        query: dict[str, Any] = {"timeout": timeout_ms}
        if self.since:
            query["pos"] = self.since
        status, json = await self.ask("POST", _SLIDING, self._body(wide=timeout_ms == 0), query)
        self.expect(status, 200, "sliding sync", json)
        if status != 200:
            return
        self.since = json["pos"]
        self.view.fold_sliding(json)
        to_device = json["extensions"]["to_device"]
        self._inbox = to_device["next_batch"]
        for event in to_device["events"]:
            self.handed.append((event["sender"], event["content"]))
        for room_id, room in json["rooms"].items():
            self._follow_timeline(room_id, room)

    def _body(self, *, wide: bool) -> dict[str, Any]:
        last = 99 if wide else self._draws.pick((99, 99, 99, 1, 0))
        lists = {"all": {"ranges": [[0, last]], "timeline_limit": 20, "required_state": [["*", "*"]]}}
        to_device: dict[str, Any] = {"enabled": True}
        if self._inbox is not None:
            to_device["since"] = self._inbox
        enabled = {"enabled": True}
        extensions = {"to_device": to_device, "e2ee": enabled, "account_data": enabled, "receipts": enabled}
        return {"conn_id": "sim", "lists": lists, "extensions": extensions}

    def _follow_timeline(self, room_id: str, room: Mapping[str, Any]) -> None:
        if room["membership"] not in ("join", *_OUT):
            return
        segment = self.open_segment(room_id)
        if segment is None or room.get("limited") or room.get("initial"):
            if segment is not None:
                segment.open = False
            segment = Segment(room_id)
            self.segments.append(segment)
        segment.event_ids += [event["event_id"] for event in room["timeline"]]
        if room["membership"] in _OUT:
            segment.open = False
