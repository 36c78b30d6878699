"""Those for whom events are evaluated: their rules, compiled, and whom they ignore. In memory, followed by the log.

Rules that are the same are one object, whoever has them: the default rules name their owner by ``ME``, and an event is
evaluated once for all who share them (``push/evaluation.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from federation.event import Event
from homeserver.db.threads import Database
from homeserver.db.tx import Tx
from homeserver.moderation.types import EVERYBODY, INVITE_TYPES, InvitePermission, parse_permission
from homeserver.push.conditions import ME
from homeserver.push.rules import CompiledRules, compile_rules
from homeserver.push.rulesets import parse_ruleset
from homeserver.store.cache import ByteLru
from homeserver.store.changes import Change, Kind
from homeserver.store.unread import load_personal

PUSH_RULES = "m.push_rules"
_TYPES = (PUSH_RULES, *INVITE_TYPES)
# LIMIT(memory: some 300 bytes of each, beside their rules)
MOST = 50_000
_RULES_BYTES = 32 * 1024 * 1024
# LIMIT(time: a read unit is one of few threads' for as long as it takes)
_AT_ONCE = 500


class SharedRules:
    """Compiled rules by what they are: immutable, so that reader threads may fill it."""

    def __init__(self) -> None:
        # Of all who never changed a rule.
        self.default = compile_rules(parse_ruleset(None, ME).kinds)
        # A compiled rule takes some times its text.
        self._known: ByteLru[bytes, tuple[int, CompiledRules]] = ByteLru(_RULES_BYTES, lambda kept: kept[0])

    def compile(self, stored: str | None) -> CompiledRules:
        """The rules of somebody of whom this is stored."""
        if stored is None:
            return self.default
        ruleset = parse_ruleset(stored, ME)
        text = ruleset.to_json()
        kept = self._known.get(text)
        if kept is None:
            kept = (6 * len(text), compile_rules(ruleset.kinds))
            self._known.put(text, kept)
        return kept[1]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who may be notified."""

    user_id: str
    rules: CompiledRules
    ignored: frozenset[str]
    threads: frozenset[str] | None = None  # see ``conditions.Facts``
    inviters: InvitePermission = EVERYBODY  # whose invites they are shown

    def ignores(self, event: Event) -> bool:
        """Whether they do not want to hear of an event, whatever their rules say."""
        if event.sender in self.ignored:
            return True
        if event.type != "m.room.member" or event.state_key != self.user_id:
            return False
        return event.content.get("membership") == "invite" and event.sender in self.inviters


@dataclass(frozen=True, slots=True)
class ReaderAsk:
    """Somebody who is to be loaded."""

    user_nid: int
    shared: SharedRules
    changes: int  # that were seen when this was asked


class Readers:
    """Those who were asked for lately. ``apply`` is subscribed to the log, before whoever evaluates."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._shared = SharedRules()
        self._known: OrderedDict[int, Reader] = OrderedDict()
        self._changes = 0

    def known(self, user_nid: int) -> Reader | None:
        """Somebody, if in memory."""
        return self._known.get(user_nid)

    def ask(self, user_nid: int) -> Reader | ReaderAsk:
        """Somebody, or what ``load_reader`` takes, for whoever has more to read with it; then call ``keep``."""
        return self._known.get(user_nid) or ReaderAsk(user_nid, self._shared, self._changes)

    def keep(self, who: Reader | ReaderAsk, reader: Reader) -> None:
        """Somebody was loaded."""
        if isinstance(who, ReaderAsk) and who.changes == self._changes:
            self._known[who.user_nid] = reader
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    async def load(self, user_nid: int) -> Reader:
        """Somebody, from the database where they are not in memory."""
        return (await self.load_many([user_nid]))[user_nid]

    async def load_many(self, user_nids: Collection[int]) -> dict[int, Reader]:
        """Several; who is no user is absent."""
        found: dict[int, Reader] = {}
        asks: list[ReaderAsk] = []
        for user_nid in user_nids:
            who = self.ask(user_nid)
            if isinstance(who, Reader):
                found[user_nid] = who
            else:
                asks.append(who)
        for start in range(0, len(asks), _AT_ONCE):
            some = asks[start : start + _AT_ONCE]
            loaded = await self._database.read(load_readers, some)
            for ask in some:
                reader = loaded.get(ask.user_nid)
                if reader is not None:
                    self.keep(ask, reader)
                    found[ask.user_nid] = reader
        return found

    kinds = frozenset({Kind.THREAD_SUBSCRIPTION, Kind.ACCOUNT_DATA})  # what ``apply`` looks at

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log."""
        for change in changes:
            if change.kind == Kind.THREAD_SUBSCRIPTION or (
                change.kind == Kind.ACCOUNT_DATA
                and change.ref == 0
                and (change.payload is None or change.payload.type in _TYPES)
            ):
                self._changes += 1
                self._known.pop(-change.topic, None)


def load_reader(tx: Tx, who: ReaderAsk) -> Reader:
    """Somebody, from the database."""
    return load_readers(tx, [who])[who.user_nid]


def load_readers(tx: Tx, asks: Sequence[ReaderAsk]) -> dict[int, Reader]:
    """Several, in one statement."""
    shared = {ask.user_nid: ask.shared for ask in asks}
    found: dict[int, Reader] = {}
    for user_nid, one in load_personal(tx, list(shared), _TYPES).items():
        rules = shared[user_nid].compile(one.stored.get(PUSH_RULES))
        threads = None if one.threads is None else frozenset(one.threads)
        # spec: client-server-api#ignoring-users, and MSC4155: hidden invites do not notify
        inviters = parse_permission({kind: text for kind, text in one.stored.items() if kind in INVITE_TYPES})
        found[user_nid] = Reader(one.user_id, rules, inviters.ignored, threads, inviters)
    return found
