"""State resolution 2.0 and 2.1 as the text has it, sentence by sentence, with no thought of speed.

A reference to compare with: plain sets, whole auth chains, no caches, its own sorting.
"""

from collections.abc import Iterable, Mapping, Sequence

from federation.auth.power import parse_power_levels
from federation.auth.rules import check_state_dependent
from federation.auth.select import StateKey, auth_keys_for
from federation.event import Event
from federation.verdict import Accept
from federation.versions import RoomRules

POWER: StateKey = ("m.room.power_levels", "")
CREATE: StateKey = ("m.room.create", "")
State = Mapping[StateKey, str]


class Naive:
    def __init__(self, rules: RoomRules, events: Mapping[str, Event], rejected: Iterable[str] = ()) -> None:
        self.rules = rules
        self.events = events
        self.rejected = set(rejected)

    def auth_chain(self, event_id: str) -> set[str]:
        chain: set[str] = set()
        waiting = list(self.events[event_id].auth_event_ids)
        while waiting:
            other = waiting.pop()
            if other not in chain and other in self.events:
                chain.add(other)
                waiting.extend(self.events[other].auth_event_ids)
        return chain

    def full_auth_chain(self, state: State) -> set[str]:
        chain: set[str] = set()
        for event_id in state.values():
            chain |= {event_id} | self.auth_chain(event_id)
        return chain

    def auth_difference(self, states: Sequence[State]) -> set[str]:
        chains = [self.full_auth_chain(state) for state in states]
        union, intersection = set(chains[0]), set(chains[0])
        for chain in chains[1:]:
            union |= chain
            intersection &= chain
        return union - intersection

    def subgraph(self, conflicted: set[str]) -> set[str]:
        result = set(conflicted)
        for start in conflicted:
            for middle in self.auth_chain(start):
                if self.auth_chain(middle) & conflicted:
                    result.add(middle)
        return result

    def is_power_event(self, event: Event) -> bool:
        if event.type in ("m.room.power_levels", "m.room.join_rules"):
            return True
        return (
            event.type == "m.room.member"
            and event.content["membership"] in ("leave", "ban")
            and event.sender != event.state_key
        )

    def resolve(self, states: Sequence[State]) -> dict[StateKey, str]:
        keys = {key for state in states for key in state}
        unconflicted: dict[StateKey, str] = {}
        conflicted: set[str] = set()
        for key in keys:
            values = {state.get(key) for state in states}
            if len(values) == 1:
                unconflicted[key] = states[0][key]
            else:
                conflicted |= {value for value in values if value is not None}
        if not conflicted:
            return unconflicted
        full = conflicted | self.auth_difference(states)
        if self.rules.state_resolution_conflicted_subgraph:
            full |= self.subgraph(conflicted)
        chosen = {event_id for event_id in full if self.is_power_event(self.events[event_id])}
        while True:  # the auth chains of the power events, inside the full conflicted set
            more = {
                parent
                for event_id in chosen
                for parent in self.events[event_id].auth_event_ids
                if parent in full and parent not in chosen
            }
            if not more:
                break
            chosen |= more
        create = self.events[unconflicted[CREATE]]
        partial: dict[StateKey, str] = {} if self.rules.state_resolution_starts_empty else dict(unconflicted)
        self.iterate(partial, self.power_order(chosen, create), create)
        self.iterate(partial, self.mainline_order(full - chosen, partial.get(POWER)), create)
        return {**partial, **unconflicted}

    def power_order(self, chosen: set[str], create: Event) -> list[str]:
        ordered: list[str] = []
        while len(ordered) < len(chosen):
            candidates = [
                event_id
                for event_id in chosen
                if event_id not in ordered
                and all(p in ordered for p in self.events[event_id].auth_event_ids if p in chosen)
            ]
            ordered.append(min(candidates, key=lambda event_id: self.power_key(event_id, create)))
        return ordered

    def power_key(self, event_id: str, create: Event) -> tuple[int, int, str]:
        event = self.events[event_id]
        levels = parse_power_levels(self.auth_event(event, POWER), create, self.rules)
        cites_create = self.rules.create_not_in_auth_events or self.auth_event(event, CREATE) is not None
        level = levels.user(event.sender) if cites_create else 0
        return (-level, event.origin_server_ts, event.event_id)

    def auth_event(self, event: Event, key: StateKey) -> Event | None:
        for event_id in event.auth_event_ids:
            if (
                event_id in self.events
                and event_id not in self.rejected
                and self.events[event_id].key() == key
            ):
                return self.events[event_id]
        return None

    def power_list(self, event_id: str) -> list[str]:
        result: list[str] = []
        event = self.auth_event(self.events[event_id], POWER)
        while event is not None:
            result.append(event.event_id)
            event = self.auth_event(event, POWER)
        return result

    def mainline_order(self, remaining: set[str], power: str | None) -> list[str]:
        mainline = [] if power is None else [power, *self.power_list(power)]

        def key(event_id: str) -> tuple[float, int, str]:
            position = float("inf")
            for other in self.power_list(event_id):
                if other in mainline:
                    position = mainline.index(other)
                    break
            event = self.events[event_id]
            return (-position, event.origin_server_ts, event.event_id)

        return sorted(remaining, key=key)

    def iterate(self, state: dict[StateKey, str], event_ids: Iterable[str], create: Event) -> None:
        for event_id in event_ids:
            event = self.events[event_id]
            view: dict[StateKey, Event] = {}
            for key in auth_keys_for(self.rules, event.type, event.sender, event.state_key, event.content):
                if key in state:
                    view[key] = self.events[state[key]]
                else:
                    cited = self.auth_event(event, key)
                    if cited is not None:
                        view[key] = cited
            if self.rules.create_not_in_auth_events:
                view[CREATE] = create
            if isinstance(check_state_dependent(event, lambda *key, view=view: view.get(key)), Accept):
                state[event.key()] = event_id
