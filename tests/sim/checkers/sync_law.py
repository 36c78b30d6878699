"""Previous sync + increments = a new initial sync: every client's folded view is what a new client is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.sim.client import SimClient, View
from tests.sim.sliding import SlidingClient
from tests.sim.world import World

Receipts = Mapping[tuple[str, str, str, str], str]


def check(world: World) -> Iterator[str]:
    """See the module."""
    for client in world.clients:
        folded, fresh = client.view, world.fresh[client.name]
        if len(world.servers) > 1:
            _forget_what_went_away(folded, fresh)
        if folded.state != fresh.state:
            rooms = sorted(set(folded.state) ^ set(fresh.state))
            keys = [
                (room_id, key, folded.state[room_id].get(key), fresh.state[room_id].get(key))
                for room_id in sorted(set(folded.state) & set(fresh.state))
                for key in sorted(set(folded.state[room_id]) | set(fresh.state[room_id]))
                if folded.state[room_id].get(key) != fresh.state[room_id].get(key)
            ]
            yield f"{client.name}: states differ from an initial sync's: rooms {rooms}, keys {keys}"
        if folded.invited != fresh.invited:
            yield f"{client.name}: invited to {sorted(folded.invited)}, initially {sorted(fresh.invited)}"
        there = {
            key: value for key, value in folded.account_data.items() if not key[0] or key[0] in folded.state
        }
        if there != fresh.account_data:
            yield f"{client.name}: account data differ from an initial sync's"
        if folded.one_time_keys != fresh.one_time_keys:
            yield f"{client.name}: {folded.one_time_keys} one-time keys are left, initially {fresh.one_time_keys}"
        receipts = {key: value for key, value in folded.receipts.items() if key[0] in folded.state}
        if isinstance(client, SlidingClient):
            yield from _compare_own(client, receipts, fresh.receipts)
        elif receipts != fresh.receipts:
            yield f"{client.name}: receipts differ from an initial sync's: {receipts} and {fresh.receipts}"


def _compare_own(client: SimClient, mine: Receipts, fresh: Receipts) -> Iterator[str]:
    """Sliding sync tells all of the user's own receipts, and of others those at events that it shows, and new ones."""
    wrong = {key: value for key, value in mine.items() if fresh.get(key) != value}
    lacking = {key for key in fresh if key[2] == client.user_id and key not in mine}
    if wrong or lacking:
        yield f"{client.name}: receipts differ from an initial sync's: {wrong}, lacking {sorted(lacking)}"


def _forget_what_went_away(folded: View, fresh: View) -> None:
    """State resolution may leave a key without a value, and no sync has words for that."""
    for room_id, state in fresh.state.items():
        there = folded.state.get(room_id, {})
        for key in [key for key in there if key not in state]:
            del there[key]
