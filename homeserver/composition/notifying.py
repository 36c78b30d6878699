"""Notifications: who is told of what, and how much is unread. Built with the services; what sends, with what leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from homeserver.composition.core import Core
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.push.composer import Composer
from homeserver.push.counts import Unread
from homeserver.push.debts import Debts
from homeserver.push.evaluation import Evaluator
from homeserver.push.follower import FOLLOWER, Outlet, PushFollower
from homeserver.push.letter import LetterWriter
from homeserver.push.listing import NotificationList
from homeserver.push.mails import MailOutlet
from homeserver.push.readers import Readers
from homeserver.push.sender import PushSender
from homeserver.push.unsubscribing import Unsubscribing
from homeserver.runtime.metrics import Metrics
from homeserver.store.pushers import Debt, Pusher, load_all_pushers, load_debts
from homeserver.stream.followers import Follower


@dataclass(frozen=True, slots=True)
class Notifying:
    """Whose rules, and what they make unread."""

    readers: Readers
    unread: Unread
    listing: NotificationList
    unsubscribing: Unsubscribing


def build_notifying(core: Core) -> Notifying:
    """Read models of the log."""
    readers = Readers(core.around.database)
    core.changes.subscribe(readers.apply, readers.kinds)
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
    unsubscribing = Unsubscribing(around.signer, core.config.base_url, core.interner, core.committer)
    return Notifying(readers, unread, listing, unsubscribing)


@dataclass(frozen=True, slots=True)
class Pushing:
    """What tells people who are not looking: push gateways, mail."""

    database: Database
    debts: Debts
    sender: PushSender | None
    mails: MailOutlet | None
    follower: Follower

    async def start(self) -> None:
        """Go on with what an earlier process left."""
        pushers, debts = await self.database.read(_load)
        self.debts.load(debts)
        by_key = {debt.key: debt for debt in debts}
        if self.sender is not None:
            self.sender.load(pushers, by_key)
        if self.mails is not None:
            self.mails.load(pushers, by_key)

    async def stop(self) -> None:
        """Send nothing more."""
        if self.sender is not None:
            await self.sender.stop()
        if self.mails is not None:
            await self.mails.stop()

    def watch(self, metrics: Metrics) -> None:
        """Tell how many gateways fail."""
        if self.sender is not None:
            for state, failing in (("failing", True), ("healthy", False)):
                metrics.watch("pushers", partial(self.sender.count, failing=failing), state=state)


def build_pushing(core: Core, notifying: Notifying, store_soon: Callable[[], None]) -> Pushing | None:
    """What sends; None where this process has no way out."""
    around, worker = core.around, core.committer
    if around.http is None and around.mailer is None:
        return None
    composer = Composer(around.database, core.interner, core.index, core.events, notifying.unread)
    debts = Debts(store_soon)
    sender: PushSender | None = None
    mails: MailOutlet | None = None
    outlets: list[Outlet] = []
    if around.http is not None:
        total = notifying.unread.total
        sender = PushSender(
            around.http, composer, total, worker, around.clock, around.entropy, around.log, debts
        )
        outlets.append(sender)
    if around.mailer is not None:
        writer = LetterWriter(core.config.server_name)
        mails = MailOutlet(
            around.mailer,
            composer,
            writer,
            notifying.unsubscribing,
            core.interner,
            around.clock,
            around.log,
            debts,
        )
        outlets.append(mails)
    evaluator = Evaluator(around.database, notifying.readers, core.index, core.events)
    follower = PushFollower(around.database, core.index, evaluator, core.events, around.clock, outlets)
    return Pushing(
        around.database,
        debts,
        sender,
        mails,
        Follower(FOLLOWER, follower.handle, memory=debts, kinds=follower.kinds),
    )


def _load(tx: Tx) -> tuple[list[Pusher], list[Debt]]:
    return load_all_pushers(tx), load_debts(tx)
