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
from homeserver.store.account_data import load_account_data
from homeserver.store.changes import Change
from homeserver.store.ids import Interner

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


class Readers:
    """Those who were asked for lately."""

    def __init__(self, database: Database, interner: Interner) -> None:
        self._database = database
        self._interner = interner
        # Of all who never changed a rule.
        self._default = compile_rules(parse_ruleset(None, ME).kinds)
        self._known: OrderedDict[int, Reader] = OrderedDict()
        self._changes = 0

    def known(self, user_nid: int) -> Reader | None:
        """Somebody, if in memory."""
        return self._known.get(user_nid)

    async def load(self, user_nid: int) -> Reader:
        """Somebody, from the database."""
        names = await self._interner.user_names([user_nid])
        before = self._changes
        reader = await self._database.read(_load, user_nid, names[user_nid], self._default)
        if self._changes == before:
            self._known[user_nid] = reader
            if len(self._known) > MOST:
                self._known.popitem(last=False)
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


def _load(tx: Tx, user_nid: int, user_id: str, default: CompiledRules) -> Reader:
    rules = load_account_data(tx, user_nid, 0, PUSH_RULES)
    compiled = default if rules is None else compile_rules(parse_ruleset(rules, user_id).kinds)
    return Reader(user_id, compiled, _ignored(load_account_data(tx, user_nid, 0, IGNORED)))


def _ignored(stored: str | None) -> frozenset[str]:
    # spec: client-server-api#mignored_user_list; a client may have written anything there
    users = _decode(stored).get("ignored_users") if stored is not None else None
    return frozenset(users) if isinstance(users, dict) else frozenset()
