"""Room versions: what changes where. # spec: rooms"""

from __future__ import annotations

from dataclasses import fields, replace

from twisted.trial.unittest import SynchronousTestCase

from federation.versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS, RedactionRules, RoomRules

# Which rules each version changes against the one before, from the pages of the specification.
CHANGES = {
    "2": {"state_resolution"},
    "3": {"event_id_format", "references_carry_hashes", "redaction_authorised_by_rules"},
    "4": {"event_id_format"},
    "5": {"enforce_key_validity"},
    "6": {
        "strict_canonical_json",
        "aliases_authorised_by_domain",
        "check_notification_levels",
        "redaction.keep_aliases",
    },
    "7": {"knock"},
    "8": {"restricted_join", "redaction.keep_restricted_allow"},
    "9": {"redaction.keep_join_authorised"},
    "10": {"integer_power_levels", "knock_restricted_join"},
    "11": {
        "redacts_in_content",
        "creator_in_content_required",
        "redaction.keep_origin_membership_prev_state",
        "redaction.keep_create_all",
        "redaction.keep_invite_level",
        "redaction.keep_redacts",
        "redaction.keep_third_party_signed",
    },
    "12": {
        "state_resolution_starts_empty",
        "state_resolution_conflicted_subgraph",
        "room_id_is_create_hash",
        "privileged_creators",
        "create_not_in_auth_events",
    },
}


def difference(old: RoomRules, new: RoomRules) -> set[str]:
    names = {item.name for item in fields(RoomRules) if getattr(old, item.name) != getattr(new, item.name)}
    nested = {
        f"redaction.{item.name}"
        for item in fields(RedactionRules)
        if getattr(old.redaction, item.name) != getattr(new.redaction, item.name)
    }
    return (names - {"version", "redaction"}) | nested


class RoomVersions(SynchronousTestCase):
    def test_all_are_there_and_know_their_name(self) -> None:
        self.assertEqual(list(ROOM_VERSIONS), [str(number) for number in range(1, 13)])
        for version, rules in ROOM_VERSIONS.items():
            self.assertEqual(rules.version, version)
            self.assertTrue(rules.stable)
        self.assertEqual(DEFAULT_ROOM_VERSION, "12")

    def test_each_changes_what_its_page_says(self) -> None:
        for number in range(2, 13):
            found = difference(ROOM_VERSIONS[str(number - 1)], ROOM_VERSIONS[str(number)])
            self.assertEqual(found, CHANGES[str(number)], f"version {number}")

    def test_event_id_formats(self) -> None:
        formats = [rules.event_id_format for rules in ROOM_VERSIONS.values()]
        self.assertEqual(formats[:3], ["explicit", "explicit", "hash_standard_base64"])
        self.assertEqual(set(formats[3:]), {"hash_urlsafe_base64"})
        self.assertEqual(
            [rules.event_ids_are_hashes for rules in ROOM_VERSIONS.values()][:3], [False, False, True]
        )

    def test_frozen(self) -> None:
        self.assertFalse(hasattr(ROOM_VERSIONS, "__setitem__"))
        self.assertEqual(replace(ROOM_VERSIONS["12"], version="13").privileged_creators, True)
