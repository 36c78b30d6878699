"""What rooms and users keep beside events, from the tables: receipts and account data, for one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from homeserver.db.tx import Ask, Tx
from homeserver.store.account_data import (
    AccountDataChanged,
    AccountDatum,
    ask_account_data_of,
    load_account_data_of,
    load_account_data_since,
)
from homeserver.store.receipts import ReceiptChange, load_receipts
from homeserver.store.sliding_reads import ask_receipts_at, load_receipts_at
from homeserver.store.thread_subscriptions import SubscriptionChange, load_changes_of

# Rooms that were told of at different times are read together from the earliest on: a receipt told twice is no harm.
_TIMES_MOST = 8


@dataclass(slots=True)
class ExtrasWanted:
    """What one read unit is to load."""

    user_nid: int
    upto: int
    receipts_at: list[int] = field(default_factory=list)  # rooms whose receipts are told for the first time
    shown: list[int] = field(default_factory=list)  # the events there that are told
    receipts_since: dict[int, list[int]] = field(default_factory=dict)  # rooms by when they were last told of
    account_of: list[int] = field(default_factory=list)  # rooms (0: the account) to be told in full
    account_again: list[int] = field(default_factory=list)  # the same, where the client has something older
    account_since: int | None = None
    threads_since: int | None = None  # subscriptions of threads; 0: those that there are
    threads_most: int = 0

    @property
    def empty(self) -> bool:
        return not (
            self.receipts_at
            or self.receipts_since
            or self.account_of
            or self.account_again
            or self.account_since is not None
            or self.threads_since is not None
        )

    def at(self, shown: Mapping[int, Sequence[int]]) -> ExtrasWanted:
        """The same, with the events that rooms are told with."""
        return replace(
            self, shown=[event_nid for nid in self.receipts_at for event_nid in shown.get(nid, ())]
        )

    def covers(self, other: ExtrasWanted) -> bool:
        """Whether what this one loads is all that another would."""
        return (
            set(other.receipts_at) <= set(self.receipts_at)
            and other.receipts_since.items() <= self.receipts_since.items()
            and set(other.account_of) <= set(self.account_of)
            and set(other.account_again) <= set(self.account_again)
            and other.account_since in (None, self.account_since)
            and other.threads_since in (None, self.threads_since)
        )


@dataclass(slots=True)
class Extras:
    """What it found."""

    receipts: dict[int, list[ReceiptChange]] = field(default_factory=dict)
    account: list[AccountDatum | AccountDataChanged] = field(default_factory=list)
    threads: list[SubscriptionChange] = field(
        default_factory=list
    )  # the newest first, and one more than asked for


def ask_extras(wanted: ExtrasWanted) -> list[Ask]:
    """What :func:`load_extras` asks of rooms that are told of for the first time."""
    asks: list[Ask] = []
    if wanted.receipts_at:
        asks.append(ask_receipts_at(wanted.user_nid, wanted.receipts_at, wanted.shown, wanted.upto))
    if wanted.account_of:
        asks.append(ask_account_data_of(wanted.user_nid, wanted.account_of, wanted.upto))
    return asks


def load_extras(tx: Tx, wanted: ExtrasWanted) -> Extras:
    """See the module."""
    found = Extras()
    for since, rooms in _bundled(wanted.receipts_since).items():
        for receipt in load_receipts(tx, rooms, since, wanted.upto):
            found.receipts.setdefault(receipt.room_nid, []).append(receipt)
    if wanted.receipts_at:
        at = load_receipts_at(tx, wanted.user_nid, wanted.receipts_at, wanted.shown, wanted.upto)
        for receipt in at:
            found.receipts.setdefault(receipt.room_nid, []).append(receipt)
    if wanted.account_since is not None:
        found.account += load_account_data_since(tx, wanted.user_nid, wanted.account_since, wanted.upto)
    if wanted.account_of:
        found.account += load_account_data_of(tx, wanted.user_nid, wanted.account_of, wanted.upto)
    if wanted.account_again:
        found.account += load_account_data_of(
            tx, wanted.user_nid, wanted.account_again, wanted.upto, deleted=True
        )
    if wanted.threads_since is not None:
        found.threads = load_changes_of(
            tx,
            wanted.user_nid,
            wanted.threads_since,
            wanted.upto,
            wanted.threads_most + 1,
            ended=wanted.threads_since > 0,
        )
    return found


def _bundled(by_since: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    times = sorted(by_since, reverse=True)
    found = {since: list(by_since[since]) for since in times[:_TIMES_MOST]}
    if len(times) > _TIMES_MOST:
        found[times[-1]] = [nid for since in times[_TIMES_MOST:] for nid in by_since[since]]
    return found
