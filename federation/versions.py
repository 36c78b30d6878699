"""Room versions as frozen records of named rules, each one "the previous with changes".

No other module compares version strings: it asks for the rule by name.

# spec: rooms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

EventIdFormat = Literal["explicit", "hash_standard_base64", "hash_urlsafe_base64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionRules:
    """What survives redaction beyond the keys that every version keeps. # spec: rooms/v1#redactions"""

    keep_origin_membership_prev_state: bool
    """The top-level keys `origin`, `membership` and `prev_state` (until version 11)."""
    keep_aliases: bool
    """`aliases` of m.room.aliases (until version 6)."""
    keep_restricted_allow: bool
    """`allow` of m.room.join_rules (from version 8)."""
    keep_join_authorised: bool
    """`join_authorised_via_users_server` of m.room.member (from version 9)."""
    keep_create_all: bool
    """Every content key of m.room.create, instead of `creator` alone (from version 11)."""
    keep_invite_level: bool
    """`invite` of m.room.power_levels (from version 11)."""
    keep_redacts: bool
    """`redacts` in the content of m.room.redaction (from version 11)."""
    keep_third_party_signed: bool
    """`signed` below `third_party_invite` of m.room.member (from version 11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRules:
    """Every difference between room versions, one named field each."""

    version: str
    stable: bool
    event_id_format: EventIdFormat
    references_carry_hashes: bool
    """prev_events and auth_events are lists of [event id, {"sha256": ...}] (versions 1 and 2)."""
    state_resolution: Literal["v1", "v2"]
    state_resolution_starts_empty: bool
    """Iterative auth checks start with an empty state map (algorithm 2.1)."""
    state_resolution_conflicted_subgraph: bool
    """The full conflicted set includes the conflicted state subgraph (algorithm 2.1)."""
    strict_canonical_json: bool
    """No floats, integers within plus or minus 2^53 - 1."""
    enforce_key_validity: bool
    """A signing key counts only for events up to its valid_until_ts."""
    integer_power_levels: bool
    """Power levels given as strings are refused."""
    aliases_authorised_by_domain: bool
    """m.room.aliases has an authorisation rule of its own (until version 6)."""
    check_notification_levels: bool
    """Changes of `notifications` in m.room.power_levels are checked too."""
    redaction_authorised_by_rules: bool
    """Whether one may redact is an authorisation rule (versions 1 and 2), not a later decision."""
    knock: bool
    restricted_join: bool
    knock_restricted_join: bool
    redaction: RedactionRules
    redacts_in_content: bool
    """The target of a redaction is in `content.redacts`, not at the top level."""
    creator_in_content_required: bool
    """m.room.create names its creator in `content.creator`; afterwards the sender is the creator."""
    room_id_is_create_hash: bool
    """The room id is the hash of the create event, which carries no room_id itself."""
    privileged_creators: bool
    """Creators, additional ones included, stand above all power levels."""
    create_not_in_auth_events: bool
    """The room id implies the create event, so auth_events must not name it."""

    @property
    def event_ids_are_hashes(self) -> bool:
        return self.event_id_format != "explicit"


def _version_1() -> RoomRules:
    """Every rule, as it was at first."""
    return RoomRules(
        version="1",
        stable=True,
        event_id_format="explicit",
        references_carry_hashes=True,
        state_resolution="v1",
        state_resolution_starts_empty=False,
        state_resolution_conflicted_subgraph=False,
        strict_canonical_json=False,
        enforce_key_validity=False,
        integer_power_levels=False,
        aliases_authorised_by_domain=True,
        check_notification_levels=False,
        redaction_authorised_by_rules=True,
        knock=False,
        restricted_join=False,
        knock_restricted_join=False,
        redaction=RedactionRules(
            keep_origin_membership_prev_state=True,
            keep_aliases=True,
            keep_restricted_allow=False,
            keep_join_authorised=False,
            keep_create_all=False,
            keep_invite_level=False,
            keep_redacts=False,
            keep_third_party_signed=False,
        ),
        redacts_in_content=False,
        creator_in_content_required=True,
        room_id_is_create_hash=False,
        privileged_creators=False,
        create_not_in_auth_events=False,
    )


def _version_11(v10: RoomRules) -> RoomRules:
    """The version that sorted out redactions and the creator."""
    return replace(
        v10,
        version="11",
        redacts_in_content=True,
        creator_in_content_required=False,
        redaction=replace(
            v10.redaction,
            keep_origin_membership_prev_state=False,
            keep_create_all=True,
            keep_invite_level=True,
            keep_redacts=True,
            keep_third_party_signed=True,
        ),
    )


def _room_versions() -> dict[str, RoomRules]:
    v1 = _version_1()
    v2 = replace(v1, version="2", state_resolution="v2")
    v3 = replace(
        v2,
        version="3",
        event_id_format="hash_standard_base64",
        references_carry_hashes=False,
        redaction_authorised_by_rules=False,
    )
    v4 = replace(v3, version="4", event_id_format="hash_urlsafe_base64")
    v5 = replace(v4, version="5", enforce_key_validity=True)
    v6 = replace(
        v5,
        version="6",
        strict_canonical_json=True,
        aliases_authorised_by_domain=False,
        check_notification_levels=True,
        redaction=replace(v5.redaction, keep_aliases=False),
    )
    v7 = replace(v6, version="7", knock=True)
    v8 = replace(
        v7,
        version="8",
        restricted_join=True,
        redaction=replace(v7.redaction, keep_restricted_allow=True),
    )
    v9 = replace(v8, version="9", redaction=replace(v8.redaction, keep_join_authorised=True))
    v10 = replace(v9, version="10", integer_power_levels=True, knock_restricted_join=True)
    v11 = _version_11(v10)
    v12 = replace(
        v11,
        version="12",
        state_resolution_starts_empty=True,
        state_resolution_conflicted_subgraph=True,
        room_id_is_create_hash=True,
        privileged_creators=True,
        create_not_in_auth_events=True,
    )
    return {rules.version: rules for rules in (v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12)}


ROOM_VERSIONS: Final[Mapping[str, RoomRules]] = MappingProxyType(_room_versions())

DEFAULT_ROOM_VERSION: Final = "12"
