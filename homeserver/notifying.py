"""Notifications: who is told of what, and how much is unread. Built with the services; what sends, with what leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homeserver.core import Core
from homeserver.db.tx import Tx
from homeserver.push.composer import Composer
from homeserver.push.counts import Unread
from homeserver.push.evaluation import Evaluator
from homeserver.push.follower import FOLLOWER, PushFollower
from homeserver.push.listing import NotificationList
from homeserver.push.readers import Readers
from homeserver.push.sender import PushSender
from homeserver.store.pushers import Debt, Pusher, load_all_pushers, load_debts
from homeserver.stream.followers import Follower


@dataclass(frozen=True, slots=True)
class Notifying:
    """Whose rules, and what they make unread."""

    readers: Readers
    unread: Unread
    listing: NotificationList


def build_notifying(core: Core) -> Notifying:
    """Read models of the log."""
    readers = Readers(core.around.database)
    core.changes.subscribe(readers.apply)
    around = core.around
    unread = Unread(around.database, readers, core.changes, core.index, core.events)
    listing = NotificationList(
        around.database,
        core.interner,
        core.index,
        core.changes,
        readers,
        unread,
        core.events,
        core.client_events,
    )
    return Notifying(readers, unread, listing)


@dataclass(frozen=True, slots=True)
class Pushing:
    """What tells push gateways."""

    core: Core
    sender: PushSender
    follower: Follower

    async def start(self) -> None:
        """Go on with what an earlier process left."""
        self.sender.load(*await self.core.around.database.read(_load))

    async def stop(self) -> None:
        """Send nothing more."""
        await self.sender.stop()


def build_pushing(core: Core, notifying: Notifying, store_soon: Callable[[], None]) -> Pushing | None:
    """The push gateway client; None where this process has no way out."""
    around = core.around
    if around.http is None:
        return None
    composer = Composer(around.database, core.interner, core.index, core.events)
    sender = PushSender(
        around.http,
        composer,
        notifying.unread.total,
        core.committer,
        around.clock,
        around.entropy,
        around.log,
        store_soon,
    )
    evaluator = Evaluator(around.database, notifying.readers, core.index, core.events)
    follower = PushFollower(around.database, core.index, evaluator, core.events, around.clock, [sender])
    return Pushing(core, sender, Follower(FOLLOWER, follower.handle, memory=sender))


def _load(tx: Tx) -> tuple[list[Pusher], list[Debt]]:
    return load_all_pushers(tx), load_debts(tx)
