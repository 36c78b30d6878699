"""What a member of a crowd has been told in pieces, against what a new client is told at once and what is so."""

from __future__ import annotations

from tests.bench.wire import encode
from tests.crash.crowd import Member
from tests.crash.load import CLIENT
from tests.support import sliding_model, sync_model


async def find_differences(member: Member) -> list[str]:
    """See the module; the member is told all that it has not heard of before."""
    await member.catch_up(member.line, member.classic)
    await member.slide(member.line, member.sliding)
    classic, sliding = (
        sync_model.ClientView(member.classic.state_name),
        sliding_model.SlidingView(member.user_id),
    )
    await member.catch_up(member.line, classic)
    await member.slide(member.line, sliding, connection="another")
    found = member.misheard()
    found += sync_model.differences(member.classic, classic, forked=member.forked)
    found += sliding_model.differences(member.sliding, sliding, lazy=True, forked=member.forked)
    found += await _falsehoods(member)
    return [f"{member.user_id}: {one}" for one in found]


async def _falsehoods(member: Member) -> list[str]:
    """Where what it was told is not so, or not the same by both kinds of sync."""
    classic, sliding = member.classic, member.sliding
    joined = await member.line.insist("GET", f"{CLIENT}/joined_rooms")
    found = [] if set(joined["joined_rooms"]) == classic.rooms.keys() else [f"joined: {joined}"]
    for room_id, view in classic.rooms.items():
        state = await member.line.insist("GET", f"{CLIENT}/rooms/{encode(room_id)}/state")
        found += sync_model.falsehoods(classic, room_id, state, forked=member.forked)
        members = await member.line.insist("GET", f"{CLIENT}/rooms/{encode(room_id)}/joined_members")
        memberships = [one["content"]["membership"] for one in state if one["type"] == "m.room.member"]
        other = sliding.rooms[room_id].members
        counts = {
            "joined": {view.joined, other["joined_count"], memberships.count("join"), len(members["joined"])},
            "invited": {view.invited, other["invited_count"], memberships.count("invite")},
            "unread": {view.unread["notification_count"], other["notification_count"]},
            "highlights": {view.unread["highlight_count"], other["highlight_count"]},
        }
        found += [f"{room_id} {name}: {values}" for name, values in counts.items() if len(values) != 1]
    return found
