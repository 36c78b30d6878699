"""What a client program notes in one phase for the next: a JSON file, whole or absent, never half."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


class CheckError(AssertionError):
    """What a client saw is not what the other one did."""


def check(holds: bool, what: str) -> None:
    """Demand `holds`; every demand that is met is printed, so that a log shows how far a program came."""
    if not holds:
        raise CheckError(f"not so: {what}")
    print(f"checked: {what}", flush=True)


@dataclass(slots=True)
class Account:
    """One user's login, kept over the restart."""

    user_id: str = ""
    password: str = ""
    token: str = ""
    device_id: str = ""


@dataclass(slots=True)
class Notes:
    """The state of the conversation as its clients know it."""

    alice: Account = field(default_factory=Account)
    bob: Account = field(default_factory=Account)
    room_id: str = ""
    # event id -> body of every message that was acknowledged, in the order of the acknowledgements
    messages: dict[str, str] = field(default_factory=dict)
    edited_id: str = ""
    edited_body: str = ""
    reaction_id: str = ""
    reaction_key: str = ""
    redacted_id: str = ""
    media_uri: str = ""
    media_sha256: str = ""
    receipt_id: str = ""
    # transaction id -> body of what was in flight when the server went away
    in_flight: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=1))
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path) -> Notes:
        content = json.loads(path.read_text())
        content["alice"] = Account(**content["alice"])
        content["bob"] = Account(**content["bob"])
        return cls(**content)
