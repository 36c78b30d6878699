"""Those for whom events are evaluated: their rules, compiled, and whom they ignore. In memory, followed by the log."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.push.conditions import ME
from homeserver.push.rules import CompiledRules, compile_rules
from homeserver.push.rulesets import parse_ruleset
from homeserver.store.changes import Change
from homeserver.store.unread import load_personal

PUSH_RULES = "m.push_rules"
IGNORED = "m.ignored_user_list"
# LIMIT(memory: some ten kilobytes of each who changed a rule)
MOST = 5_000

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who may be notified."""

    user_id: str
    rules: CompiledRules
    ignored: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReaderAsk:
    """Somebody who is to be loaded."""

    user_nid: int
    default: CompiledRules
    changes: int  # that were seen when this was asked


class Readers:
    """Those who were asked for lately."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Of all who never changed a rule.
        self._default = compile_rules(parse_ruleset(None, ME).kinds)
        self._known: OrderedDict[int, Reader] = OrderedDict()
        self._changes = 0

    def known(self, user_nid: int) -> Reader | None:
        """Somebody, if in memory."""
        return self._known.get(user_nid)

    def ask(self, user_nid: int) -> Reader | ReaderAsk:
        """Somebody, or what ``load_reader`` takes, for whoever has more to read with it; then call ``keep``."""
        return self._known.get(user_nid) or ReaderAsk(user_nid, self._default, self._changes)

    def keep(self, who: Reader | ReaderAsk, reader: Reader) -> None:
        """Somebody was loaded."""
        if isinstance(who, ReaderAsk) and who.changes == self._changes:
            self._known[who.user_nid] = reader
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    async def load(self, user_nid: int) -> Reader:
        """Somebody, from the database where they are not in memory."""
        who = self.ask(user_nid)
        if isinstance(who, Reader):
            return who
        reader = await self._database.read(load_reader, who)
        self.keep(who, reader)
        return reader

    def note(self, change: Change) -> None:
        """Account data changed."""
        if change.ref == 0 and (change.payload is None or change.payload.type in (PUSH_RULES, IGNORED)):
            self._changes += 1
            self._known.pop(-change.topic, None)

    def forget_all(self) -> None:
        """What changed is not known."""
        self._changes += 1
        self._known.clear()


def load_reader(tx: Tx, who: ReaderAsk) -> Reader:
    """Somebody, from the database."""
    user_id, stored = load_personal(tx, who.user_nid, (PUSH_RULES, IGNORED))
    rules = stored.get(PUSH_RULES)
    compiled = who.default if rules is None else compile_rules(parse_ruleset(rules, user_id).kinds)
    return Reader(user_id, compiled, _ignored(stored.get(IGNORED)))


def _ignored(stored: str | None) -> frozenset[str]:
    # spec: client-server-api#mignored_user_list; a client may have written anything there
    users = _decode(stored).get("ignored_users") if stored is not None else None
    return frozenset(users) if isinstance(users, dict) else frozenset()
