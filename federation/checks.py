"""The seven checks on receipt of a PDU, in the order of the specification, as pure functions.

A flow runs them one by one, because between them it must ask for keys, auth events and states. Each answers with a
`Verdict`; the flow stops at the first that is no `Accept`. Check 3 does not refuse, it redacts, hence its own shape.

    1 format      2 signatures    -> Drop
    3 hash                        -> the event goes on redacted
    4 auth events 5 state before  -> Reject
    6 current state 7 policy      -> SoftFail

Spec anchor: server-server-api#checks-performed-on-receipt-of-a-pdu.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from federation.auth.power import PowerLevels
from federation.auth.rules import check_state_dependent, check_state_independent
from federation.auth.select import CREATE, StateKey, StateLookup
from federation.errors import Malformed
from federation.event import Event, parse_stored, parse_untrusted
from federation.ids import EventId
from federation.redaction import redact
from federation.verdict import ACCEPT, Accept, Drop, Reject, SoftFail, Verdict
from federation.versions import RoomRules


class Check(IntEnum):
    """The checks by their numbers in the specification."""

    FORMAT = 1
    SIGNATURES = 2
    HASH = 3
    AUTH_EVENTS = 4
    STATE_BEFORE = 5
    CURRENT_STATE = 6
    POLICY = 7


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where an event got to: the check that decided, and its verdict (Accept only after the last)."""

    check: Check
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AuthEvents:
    """What check 4 needs: all the cited auth events, which of them were rejected, and the room's create event."""

    events: Sequence[Event]
    rejected: Collection[EventId]
    create: Event | None


_POLICY_REFUSED: Final = SoftFail("the policy server did not sign this event", final=True)


def check_format(data: dict[str, Any], rules: RoomRules, *, is_old: bool = False) -> Event | Drop:
    """Check 1: the event, or why it is dropped. `is_old`: see `parse_untrusted`."""
    # spec: server-server-api#checks-performed-on-receipt-of-a-pdu
    try:
        return parse_untrusted(data, rules, is_old=is_old)
    except Malformed as error:
        return Drop(error.message)


def check_signatures(required: Collection[str], valid: Collection[str]) -> Verdict:
    """Check 2: every server that must have signed did. Both are sets of server names."""
    missing = sorted(server for server in required if server not in valid)
    return Drop(f"not validly signed by {missing[0]}") if missing else ACCEPT


def check_hash(event: Event, hash_is_valid: bool) -> Event:
    """Check 3: the event as it is to be processed further, redacted where the content hash does not fit.

    The event id does not change: it never covered what redaction takes away.
    """
    if hash_is_valid:
        return event
    return parse_stored(event.event_id, redact(event.json, event.rules), event.rules)


def check_auth_events(
    event: Event, auth: AuthEvents, lookup: StateLookup | None = None, power: PowerLevels | None = None
) -> Verdict:
    """Check 4: the rules about the auth events, and then all the others with the auth events as the state.

    `lookup`: what `lookup_in` makes of them, where it is at hand. `power`: their levels, where the caller has them parsed.
    """
    verdict = check_state_independent(event, auth.events, create=auth.create, rejected=auth.rejected)
    if not isinstance(verdict, Accept):
        return verdict
    if lookup is None:
        lookup = lookup_in(auth.events, event.rules, auth.create)
    return check_state_dependent(event, lookup, power)


def lookup_in(events: Sequence[Event], rules: RoomRules, create: Event | None = None) -> StateLookup:
    """The state that a few state events make. The create event joins it where the room id implies it."""
    state: dict[StateKey, Event] = {event.key(): event for event in events}
    if create is not None and rules.create_not_in_auth_events:
        state.setdefault(CREATE, create)
    return lookup_of(state)


def lookup_of(state: Mapping[StateKey, Event]) -> StateLookup:
    def lookup(event_type: str, state_key: str) -> Event | None:
        return state.get((event_type, state_key))

    return lookup


def check_state_before(event: Event, lookup: StateLookup, power: PowerLevels | None = None) -> Verdict:
    """Check 5: the rules by the state before the event."""
    return check_state_dependent(event, lookup, power)


def check_current_state(event: Event, lookup: StateLookup, power: PowerLevels | None = None) -> Verdict:
    """Check 6: the rules by the current state of the room; to fail them now is a soft failure."""
    # spec: server-server-api#soft-failure
    verdict = check_state_dependent(event, lookup, power)
    return SoftFail(verdict.reason) if isinstance(verdict, Reject) else verdict


def check_policy(is_required: bool, is_signed: bool) -> Verdict:
    """Check 7: the policy server's signature, where the room uses one and the event is of a kind that needs it."""
    # spec: server-server-api#validating-policy-server-signatures
    return _POLICY_REFUSED if is_required and not is_signed else ACCEPT


def check_authorisation(
    event: Event,
    auth: AuthEvents,
    before: StateLookup,
    current: StateLookup | None,
    *,
    policy_required: bool = False,
    policy_signed: bool = False,
) -> Outcome:
    """Checks 4 to 7 where all they need is at hand.

    `current` is None for events that are not new, such as those of backfill: soft failure is not for them.
    """
    steps: list[tuple[Check, Verdict]] = [(Check.AUTH_EVENTS, check_auth_events(event, auth))]
    if isinstance(steps[-1][1], Accept):
        steps.append((Check.STATE_BEFORE, check_state_before(event, before)))
    if current is not None and isinstance(steps[-1][1], Accept):
        steps.append((Check.CURRENT_STATE, check_current_state(event, current)))
        if isinstance(steps[-1][1], Accept):
            steps.append((Check.POLICY, check_policy(policy_required, policy_signed)))
    return Outcome(*steps[-1])
