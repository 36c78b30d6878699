"""Whose invites a user wants: the decision, from what their clients have written down.

# spec: client-server-api#invite-permission
spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4155
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from federation.acl import Globs

IGNORED_USERS: Final = "m.ignored_user_list"
PERMISSION: Final = "m.invite_permission_config"
FILTER: Final = "org.matrix.msc4155.invite_permission_config"
# The account data that decides.
INVITE_TYPES: Final = (IGNORED_USERS, PERMISSION, FILTER)

_LEVELS: Final = ("users", "servers")
# LIMIT(a filter is read again for each invite; names without wildcards are not counted, as they cost little)
GLOBS_MOST: Final = 1_000
GLOB_BYTES_MOST: Final = 16 * 1024

_PORT = re.compile(r":[0-9]{1,5}\Z")
_decode = msgspec.json.Decoder().decode


class Invite(Enum):
    """What becomes of an invite."""

    ALLOW = "allow"
    IGNORE = "ignore"  # taken as if it were welcome, and never shown
    BLOCK = "block"  # refused, and the inviter is told


@dataclass(frozen=True, slots=True)
class Lists:
    """The globs of one level: users, or servers."""

    allowed: Globs
    ignored: Globs
    blocked: Globs

    def decide(self, name: str) -> Invite | None:
        """What the lists say of a name, in the order of the proposal; None: nothing."""
        if self.allowed.match(name):
            return Invite.ALLOW
        if self.ignored.match(name):
            return Invite.IGNORE
        return Invite.BLOCK if self.blocked.match(name) else None


@dataclass(frozen=True, slots=True)
class InvitePermission:
    """Decides for one user. ``in`` asks whether the invites of a sender are hidden."""

    ignored: frozenset[str] = frozenset()
    blocks_all: bool = False
    users: Lists | None = None
    servers: Lists | None = None

    @property
    def takes_all(self) -> bool:
        """Whether everybody's invites are welcome, as most people's."""
        return not self.ignored and not self.blocks_all and self.users is None and self.servers is None

    def decide(self, sender_id: str) -> Invite:
        """What becomes of an invite by this user."""
        if sender_id in self.ignored:
            return Invite.IGNORE
        if self.blocks_all:
            return Invite.BLOCK
        name = sender_id.lower()
        found = self.users.decide(name) if self.users is not None else None
        if found is None and self.servers is not None:
            # Ports do not count, as in the access control lists of rooms.
            found = self.servers.decide(_PORT.sub("", name.partition(":")[2], count=1))
        return found or Invite.ALLOW

    def __contains__(self, sender_id: object) -> bool:
        """Whether the invite of a sender is not to be shown: new ones and those that wait already."""
        return isinstance(sender_id, str) and self.decide(sender_id) is not Invite.ALLOW


EVERYBODY: Final = InvitePermission()


def parse_permission(stored: Mapping[str, str]) -> InvitePermission:
    """From a user's account data by type, as JSON; clients may have written anything there."""
    if not stored:
        return EVERYBODY
    config = _read(stored, PERMISSION)
    filter_ = _read(stored, FILTER)
    switched_on = filter_.get("enabled") is not False and _is_sound(filter_)
    return InvitePermission(
        parse_ignored(stored.get(IGNORED_USERS)),
        config.get("default_action") == "block",
        _lists(filter_, "users") if switched_on else None,
        _lists(filter_, "servers") if switched_on else None,
    )


def parse_ignored(content: str | None) -> frozenset[str]:
    """The user ids of an ``m.ignored_user_list``."""
    # spec: client-server-api#mignored_user_list
    body: Any = _decode(content) if content is not None else None
    users = body.get("ignored_users") if isinstance(body, dict) else None
    # Nobody is called by a NUL, and not every database takes one.
    return frozenset(name for name in users if "\0" not in name) if isinstance(users, dict) else frozenset()


def _read(stored: Mapping[str, str], kind: str) -> Mapping[str, Any]:
    content = stored.get(kind)
    body = _decode(content) if content is not None else None
    return body if isinstance(body, dict) else MappingProxyType({})


def _is_sound(content: Mapping[str, Any]) -> bool:
    """Whether every list is one: where any is not, the proposal takes the whole for invalid. So are too many globs."""
    values = [value for level in _LEVELS for value in _values(content, level)]
    if not all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in values):
        return False
    globs = [one for value in values for one in value if "*" in one or "?" in one]
    return len(globs) <= GLOBS_MOST and sum(len(one.encode()) for one in globs) <= GLOB_BYTES_MOST


def _values(content: Mapping[str, Any], level: str) -> list[Any]:
    return [content.get(f"{word}_{level}", []) for word in ("allowed", "ignored", "blocked")]


def _lists(content: Mapping[str, Any], level: str) -> Lists | None:
    values = _values(content, level)
    return Lists(*(Globs.compile(value) for value in values)) if any(values) else None
