"""Whose invites somebody wants. spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4155"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from homeserver.moderation.types import (
    FILTER,
    GLOB_BYTES_MOST,
    GLOBS_MOST,
    IGNORED_USERS,
    PERMISSION,
    Invite,
    InvitePermission,
    parse_permission,
)

GOOD, BAD, ODD = "@john:goodguys.org", "@jack:badguys.org:8448", "@NotActually:goodguys.org"
ALLOW, IGNORE, BLOCK = Invite.ALLOW, Invite.IGNORE, Invite.BLOCK


def permission(filter_: Any = None, default: Any = None, ignored: Any = None) -> InvitePermission:
    stored = {FILTER: filter_, PERMISSION: default, IGNORED_USERS: ignored}
    return parse_permission(
        {
            kind: msgspec.json.encode(content).decode()
            for kind, content in stored.items()
            if content is not None
        }
    )


class Permission(SynchronousTestCase):
    """The examples of the proposal, and what clients may write instead."""

    def decides(self, found: InvitePermission, good: Invite, bad: Invite, odd: Invite) -> None:
        self.assertEqual([found.decide(user) for user in (GOOD, BAD, ODD)], [good, bad, odd])
        self.assertEqual([user in found for user in (GOOD, BAD)], [good is not ALLOW, bad is not ALLOW])

    def test_from_everyone(self) -> None:
        self.decides(permission(), ALLOW, ALLOW, ALLOW)
        self.decides(permission({}), ALLOW, ALLOW, ALLOW)

    def test_from_nobody(self) -> None:
        self.decides(permission({"blocked_servers": ["*"]}), BLOCK, BLOCK, BLOCK)
        self.decides(permission(default={"default_action": "block"}), BLOCK, BLOCK, BLOCK)
        # Who is on a list of those who are welcome is not when nobody is.
        both = permission({"allowed_users": ["*"]}, {"default_action": "block"})
        self.decides(both, BLOCK, BLOCK, BLOCK)

    def test_servers(self) -> None:
        self.decides(permission({"blocked_servers": ["badguys.org"]}), ALLOW, BLOCK, ALLOW)
        only = {"allowed_servers": ["goodguys.org"], "blocked_servers": ["*"]}
        self.decides(permission(only), ALLOW, BLOCK, ALLOW)
        quiet = {**only, "ignored_servers": ["bad?uys.*"]}
        self.decides(permission(quiet), ALLOW, IGNORE, ALLOW)
        self.decides(permission({**only, "blocked_users": ["@notact*:*"]}), ALLOW, BLOCK, BLOCK)

    def test_users_before_servers(self) -> None:
        found = permission({"allowed_users": [BAD], "blocked_servers": ["badguys.org"]})
        self.decides(found, ALLOW, ALLOW, ALLOW)
        found = permission({"allowed_users": ["*"], "ignored_users": ["*"], "blocked_users": ["*"]})
        self.decides(found, ALLOW, ALLOW, ALLOW)
        self.decides(permission({"ignored_users": ["*"], "blocked_users": ["*"]}), IGNORE, IGNORE, IGNORE)

    def test_switched_off(self) -> None:
        off = {"enabled": False, "blocked_servers": ["*"]}
        self.decides(permission(off), ALLOW, ALLOW, ALLOW)
        # Whom one ignores comes first.
        found = permission({"allowed_users": [BAD]}, ignored={"ignored_users": {BAD: {}}})
        self.decides(found, ALLOW, IGNORE, ALLOW)

    def test_whatever_clients_write(self) -> None:
        written: tuple[Any, ...] = (
            [],
            3,
            {"blocked_users": "*"},
            {"blocked_servers": {"*": 1}},
            {"blocked_users": [3, None, ["*"]]},
            {"enabled": "no"},
        )
        for filter_ in written:
            self.decides(permission(filter_), ALLOW, ALLOW, ALLOW)
        written = (
            [],
            {"default_action": "allow"},
            {"default_action": 1},
            {"default_action": ["block"]},
        )
        for config in written:
            self.decides(permission(default=config), ALLOW, ALLOW, ALLOW)
        many = [f"*a{number}*" for number in range(GLOBS_MOST + 1)]
        for too_much in (many, ["*a*" * (GLOB_BYTES_MOST // 3 + 1)]):
            self.decides(
                permission({"blocked_users": too_much, "blocked_servers": ["*"]}), ALLOW, ALLOW, ALLOW
            )
        # Names cost little, so that they do not count.
        exact = [f"@user{number}:badguys.org" for number in range(2 * GLOBS_MOST)]
        self.decides(permission({"blocked_users": [*exact, BAD, *many[1:]]}), ALLOW, BLOCK, ALLOW)
        hostile = permission({"blocked_users": ["*a" * 100 + "b"], "allowed_servers": ["*" * 10_000]})
        self.assertIs(hostile.decide("@" + "a" * 200 + ":x.org"), ALLOW)
