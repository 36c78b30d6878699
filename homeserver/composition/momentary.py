"""Puts together who is online."""

from __future__ import annotations

from homeserver.composition.core import Core
from homeserver.db.errors import DatabaseUnavailable
from homeserver.ephemeral.presence import APPEAR_OFFLINE, Presence, appears_offline
from homeserver.ephemeral.remote_presence import RemotePresence
from homeserver.ephemeral.ticker import Ticker
from homeserver.ephemeral.waking import Waking
from homeserver.runtime.tasks import TaskGroup
from homeserver.store.account_data import load_account_data


def build_presence(core: Core, ticker: Ticker, tasks: TaskGroup) -> Presence | None:
    """Who is online, here and elsewhere; None where nobody wants to know."""
    if not core.config.presence.enabled:
        return None
    clock, index, notifier, database = core.around.clock, core.index, core.notifier, core.around.database
    # One for both, so that together they cost no more.
    waking = Waking(clock, notifier.wake_users, notifier.is_waiting)
    remote = RemotePresence(clock, ticker, index, waking)
    presence = Presence(clock, ticker, index, waking, remote)
    presence.closing.append(waking.close)

    async def find_out(user_nid: int) -> None:
        hides: bool | None = None
        try:
            content = await database.read(load_account_data, user_nid, 0, APPEAR_OFFLINE)
            hides = appears_offline(content)
        except DatabaseUnavailable:
            pass  # unknown, so not shown: it is asked again at the next sign of the user
        finally:
            presence.answer_choice(user_nid, hides)

    def ask_choice(user_nid: int) -> None:
        if tasks.stopped:
            return
        tasks.spawn("find out who appears offline", find_out(user_nid))

    presence.ask_choice = ask_choice
    core.changes.subscribe(presence.apply, presence.kinds)
    core.changes.subscribe(remote.apply, remote.kinds)
    return presence
