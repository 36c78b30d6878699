"""The figures that CHAOS holds itself to, and how a measurement is judged against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `factor`: how many times better than the yardstick CHAOS must be; None: there for a look."""

    key: str
    row: str
    title: str
    unit: str
    more_is_better: bool
    factor: float | None
    # An absolute bound instead of a ratio, in the figure's unit.
    at_most: float | None = None

    def ratio(self, ours: float, yardstick: float) -> float:
        """How many times better ours is; above 1 is better, whichever way the figure points."""
        better, worse = (ours, yardstick) if self.more_is_better else (yardstick, ours)
        return better / worse if worse > 0 else float("inf")

    def is_reached(self, ours: float, yardstick: float | None) -> bool | None:
        """Whether the target is met; None where there is nothing to compare with."""
        if self.at_most is not None:
            return ours <= self.at_most
        if yardstick is None or self.factor is None:
            return None
        return self.ratio(ours, yardstick) >= self.factor

    def describe_target(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:g} {self.unit}"
        if self.factor is None:
            return "none"
        if self.more_is_better:
            return f"at least {self.factor:g}×"
        return "less" if self.factor == 1 else f"at most 1/{self.factor:g}"


FIGURES: Sequence[Figure] = (
    Figure("send_median_ms", "send", "one sender's send, median", "ms", False, 16),
    Figure("send_p99_ms", "send", "one sender's send, 99th percentile", "ms", False, 16),
    Figure("sends_16", "sends16", "sends/s, 16 senders in 16 rooms", "/s", True, 20),
    Figure("sends_32", "sends32", "sends/s, 32 senders in one room", "/s", True, 15),
    Figure("fanout_ms", "fanout", "100 long-polling members have a message, median", "ms", False, 14),
    Figure("creates", "creates", "rooms created/s", "/s", True, 15),
    Figure("joins", "joins", "local joins/s", "/s", True, 10),
    Figure("requests", "requests", "requests/s that need no database, 16 clients", "/s", True, 10),
    Figure("pages", "history", "history pages of 50/s", "/s", True, 10),
    Figure("initial_ms", "initial", "first initial sync, 24 rooms", "ms", False, 10),
    Figure("sliding_first_ms", "sliding", "sliding sync, first screen of 500 rooms", "ms", False, 10),
    Figure(
        "sliding_all_ms", "sliding", "sliding sync, all of 500 rooms, a hundred at a time", "ms", False, 10
    ),
    Figure("many_rooms_ms", "many", "first initial sync, 1,000 rooms", "ms", False, 10),
    Figure("absence_ms", "absence", "sync after 6,000 messages in 24 rooms", "ms", False, 10),
    Figure("idle_syncs", "idle", "idle incremental syncs/s, one client in turn", "/s", True, 8),
    Figure("claims", "claims", "one-time keys claimed/s, 16 clients", "/s", True, 10),
    Figure("claims_50", "claims50", "one-time keys claimed/s, 50 devices a request", "/s", True, 10),
    Figure("inbox_s", "inbox", "10,000 waiting messages to a device, all told", "s", False, 10),
    Figure("push_ms", "push", "a message in a room of 10,000, ten are told their counts", "ms", False, 10),
    Figure("search_ms", "search", "search in 1,000,000 messages, median of all questions", "ms", False, 10),
    Figure(
        "presence_cores",
        "presence",
        "2,000 users online, of the server's processors",
        "of a core",
        False,
        1,
        at_most=0.1,
    ),
    Figure("join_1000_s", "join1000", "remote join of 1,000 members, complete", "s", False, 10),
    Figure("join_10000_s", "join10000", "remote join of 10,000 members, complete", "s", False, 10),
    Figure(
        "join_10000_usable_s",
        "join10000",
        "remote join of 10,000 members, usable",
        "s",
        False,
        1,
        at_most=15.0,
    ),
    Figure(
        "joining_1000_s", "joining1000", "the joining server's part of it, 1,000 members", "s", False, None
    ),
    Figure(
        "joining_10000_s", "joining10000", "the joining server's part of it, 10,000 members", "s", False, None
    ),
    Figure("messages_across", "across", "messages/s from server to server", "/s", True, 10),
    Figure("transactions_in", "inbound", "transactions/s from another server", "/s", True, 10),
    Figure(
        "resolution_ms", "resolve", "10,000 members, a fork of 100 state events, resolved", "ms", False, 10
    ),
    Figure("resident_mb", "memory", "resident memory after the run", "MB", False, 1),
    Figure("start_s", "start", "start to ready, on the database of the run", "s", False, 1, at_most=2.0),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work each row does."""

    sends: int
    sends_each_16: int
    sends_each_32: int
    fanout_rounds: int
    creates: int
    join_rooms: int
    requests_each: int
    history_messages: int
    history_pages: int
    initial_syncs: int
    missed: int
    idle_syncs: int
    starts: int
    large_joins: int
    messages_across: int
    transactions_in: int
    claims_each: int
    claims_of_all: int
    waiting: int
    crowd: int
    crowd_rounds: int
    sliding_rooms: int
    many_rooms: int
    many_devices: int
    present: int
    present_s: float
    texts: int
    searches: int


FULL = Scale(
    sends=400,
    sends_each_16=100,
    sends_each_32=50,
    fanout_rounds=15,
    creates=120,
    join_rooms=3,
    requests_each=500,
    history_messages=1000,
    history_pages=1200,
    initial_syncs=7,
    missed=6_000,
    idle_syncs=2000,
    starts=3,
    large_joins=3,
    messages_across=2000,
    transactions_in=500,
    claims_each=100,
    claims_of_all=40,
    waiting=10_000,
    crowd=10_000,
    crowd_rounds=20,
    sliding_rooms=500,
    many_rooms=1_000,
    many_devices=3,
    present=2_000,
    present_s=90.0,
    texts=1_000_000,
    searches=5,
)
QUICK = Scale(
    sends=100,
    sends_each_16=30,
    sends_each_32=15,
    fanout_rounds=5,
    creates=40,
    join_rooms=1,
    requests_each=100,
    history_messages=300,
    history_pages=300,
    initial_syncs=3,
    missed=600,
    idle_syncs=500,
    starts=1,
    large_joins=1,
    messages_across=400,
    transactions_in=100,
    claims_each=20,
    claims_of_all=5,
    waiting=1_000,
    crowd=10_000,
    crowd_rounds=8,
    sliding_rooms=150,
    many_rooms=150,
    many_devices=3,
    present=2_000,
    present_s=45.0,
    texts=20_000,
    searches=3,
)

# Not a figure, but what spoils figures: the cores that other work on the machine used meanwhile.
OTHERS = "others"
DISTURBED = 0.15

# Of one run on one server: what each figure came to, and `OTHERS`.
Measured = Mapping[str, float]
