"""Sticky events: for an hour at most they reach everybody in the room, however much else is said meanwhile.

spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

STICKY: Final = "msc4354_sticky"
DURATION: Final = "duration_ms"
STICKY_MOST_MS: Final = 3_600_000


def sticky_duration_ms(event_json: Mapping[str, Any]) -> int:
    """For how long an event is sticky; 0: it is not, or says what means nothing."""
    sticky = event_json.get(STICKY)
    duration = sticky.get(DURATION) if isinstance(sticky, dict) else None
    if type(duration) is not int or not 0 <= duration <= STICKY_MOST_MS:
        return 0
    return duration


def sticky_until_ms(event_json: Mapping[str, Any], received_ts_ms: int) -> int:
    """When it is no longer sticky; 0: it never was. What claims to come from the future starts now."""
    duration = sticky_duration_ms(event_json)
    return min(received_ts_ms, event_json["origin_server_ts"]) + duration if duration else 0
