"""Tables of room history: events, their order, their state. Written by ``store/commit.py`` alone."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, blob, metadata, nid, small, text

# Interned names. Integers inside, strings at the edge.
rooms = Table(
    "rooms", metadata, nid("nid", primary=True), text("room_id", unique=True), text("version", optional=True)
)
user_ids = Table("user_ids", metadata, nid("nid", primary=True), text("user_id", unique=True))
event_types = Table("event_types", metadata, nid("nid", primary=True), text("type", unique=True))
# One number for a pair of (type, state key): state maps are integer to integer.
state_keys = Table(
    "state_keys",
    metadata,
    nid("nid", primary=True),
    nid("type_nid"),
    text("state_key"),
    # Interning: (type, state key) -> nid.
    Index("state_keys_by_name", "type_nid", "state_key", unique=True),
)
# Ranges of numbers are leased to a process, so that it can number things before they are committed.
nid_leases = Table("nid_leases", metadata, text("name", primary=True), nid("next"))

events = Table(
    "events",
    metadata,
    nid("nid", primary=True),
    nid("room_nid"),
    nid("type_nid"),
    nid("state_key_nid", optional=True),  # NULL: not a state event
    nid("sender_nid"),
    text("event_id", unique=True),
    nid("depth"),
    nid("ts_ms"),
    nid("state_before", optional=True),  # snapshot; NULL: an outlier, an event without known state
    text("rejected_reason", optional=True),
    # Of state events: 1 + the highest rank among the auth events. Unlike the depth, no sender chooses it; walks of the
    # auth graph go by it and stop at the common frontier (federation/state/graph.py).
    nid("auth_rank", optional=True),
    nid("state_after", optional=True),  # snapshot, where it is another than that before
    # timestamp_to_event: the event nearest to a moment.
    Index("events_by_time", "room_nid", "ts_ms"),
)
# Written once. Apart from ``events`` because most readers of rows do not want the text and the reverse.
event_json = Table("event_json", metadata, nid("nid", primary=True), text("json"))

# Being in a room's timeline is having a row here. Positive: committed here, or backfilled into the positions that are left
# free below an event whose parents are missing (``store/past.py``); negative: backfilled below all of them.
timeline = Table(
    "timeline",
    metadata,
    nid("room_nid", primary=True),
    nid("pos", primary=True),
    nid("event_nid"),
    small("mark", default=0),  # store.placement.Mark
    # event -> its place, for /context, receipts and visibility.
    Index("timeline_by_event", "event_nid", unique=True),
    **CLUSTERED,
)
# A redaction is a view applied when an event is loaded.
redactions = Table("redactions", metadata, text("target_id", primary=True), nid("by_nid"), **CLUSTERED)
# prev_events. Parents may be unknown to us, hence by id.
edges = Table("edges", metadata, text("parent_id", primary=True), nid("child_nid", primary=True), **CLUSTERED)
# auth_events of state events: only these have descendants worth walking.
auth_edges = Table(
    "auth_edges",
    metadata,
    nid("child_nid", primary=True),
    nid("parent_nid", primary=True),
    # Upwards: what an event of one branch authorises is little, and what lies below a large room's members is much.
    Index("auth_edges_by_parent", "parent_nid"),
    **CLUSTERED,
)
# Parents that we have not: where history must be fetched from another server. It goes below the event at ``top``, into the
# positions that are free there, or where that is 0 below everything else.
gaps = Table(
    "gaps",
    metadata,
    nid("room_nid", primary=True),
    text("missing_id", primary=True),
    nid("top", default=0),
    **CLUSTERED,
)

# What was the newest of a room when the last user of this server left it: successors are unknown, and no longer awaited.
ends = Table("ends", metadata, nid("event_nid", primary=True))
# Redactions of events that have not come yet: whether they count is decided when these do.
waiting_redactions = Table(
    "waiting_redactions", metadata, text("target_id", primary=True), nid("by_nid", primary=True), **CLUSTERED
)

# State at a point: a packed base, or a packed delta against one. See store/state.py for the encoding.
snapshots = Table(
    "snapshots",
    metadata,
    nid("nid", primary=True),
    nid("room_nid"),
    nid("base_nid", optional=True),
    nid("size"),  # number of keys in the whole state
    blob("data"),
    # Collecting a room's snapshots, purging a room.
    Index("snapshots_by_room", "room_nid"),
)
# Where a room is: moved by exactly one writer, guarded by ``version``.
room_heads = Table(
    "room_heads",
    metadata,
    nid("room_nid", primary=True),
    nid("version"),
    nid("snapshot_nid"),
    nid("depth"),
    text("extremities"),  # JSON list of event nids
)
current_state = Table(
    "current_state",
    metadata,
    nid("room_nid", primary=True),
    nid("state_key_nid", primary=True),
    nid("event_nid"),
    **CLUSTERED,
)
# How the current state moved, for sync; correct across state resets, where no event says so.
state_log = Table(
    "state_log",
    metadata,
    nid("room_nid", primary=True),
    nid("pos", primary=True),
    nid("state_key_nid", primary=True),
    nid("event_nid"),  # 0: the key went away
    nid("prev_nid"),  # 0: the key was not there
    # How one key moved: a reader's membership over time.
    Index("state_log_by_key", "room_nid", "state_key_nid", "pos"),
    **CLUSTERED,
)
members = Table(
    "members",
    metadata,
    nid("room_nid", primary=True),
    nid("user_nid", primary=True),
    small("membership"),  # homeserver.rooms.types.Membership
    nid("event_nid"),
    nid("pos"),
    small("forgotten", default=0),
    small("outside", default=0),  # 1: told by another server, of a room whose state is not known here
    # A user's rooms.
    Index("members_by_user", "user_nid", "membership"),
    **CLUSTERED,
)
# What is known of a room that only the membership of a user of ours connects with this server: see store/outside.py.
outside = Table(
    "outside",
    metadata,
    nid("room_nid", primary=True),
    nid("user_nid", primary=True),
    text("server"),  # which told us, or whom we told
    text("version"),
    text("event_id"),
    text("event"),  # JSON
    text("stripped"),  # JSON: what the user is shown of the room
    **CLUSTERED,
)
# Invites that were declined (and knocks taken back) while no server of the room answered: they are to be told yet.
declined = Table(
    "declined",
    metadata,
    nid("room_nid", primary=True),
    nid("user_nid", primary=True),
    text("event_id"),  # the leave that ``outside`` has; where it has another event, this is over
    small("attempts", default=0),
    nid("retry_ts_ms"),
    # Which is to be tried next.
    Index("declined_by_retry", "retry_ts_ms"),
    **CLUSTERED,
)
# Joins and knocks that were sent to another server, of which it is not known here what became: each is noted before it is
# sent, and taken back where its user does not come in.
offered = Table(
    "offered",
    metadata,
    nid("room_nid", primary=True),
    nid("user_nid", primary=True),
    text("event_id", primary=True),
    text("server", primary=True),  # which may have taken it
    small("membership"),
    small("attempts", default=0),
    nid("retry_ts_ms"),
    # Which is to be looked after next.
    Index("offered_by_retry", "retry_ts_ms"),
    **CLUSTERED,
)
# Joins of which only part of the state has come: by which event, through whom, and who is in the room by their word.
partial_joins = Table(
    "partial_joins",
    metadata,
    nid("room_nid", primary=True),
    nid("join_nid"),
    text("server"),
    text("servers"),  # JSON list of names
    small("attempts", default=0),  # to have keys that lack; 0: members are still to come
)
# Joins that were not complete when everybody had left, of rooms that somebody came back to: history builds on them.
earlier_joins = Table(
    "earlier_joins",
    metadata,
    nid("room_nid", primary=True),
    nid("join_nid", primary=True),
    text("server"),
    text("servers"),  # JSON list of names
    small("attempts"),  # to have the state before it; at least 1
    **CLUSTERED,
)
# Joins that were not complete, and are: whom the word of others named then is owed what was sent until that position.
hearsay = Table(
    "hearsay",
    metadata,
    nid("room_nid", primary=True),
    nid("join_nid", primary=True),
    nid("upto"),
    text("servers"),  # JSON list of names
    **CLUSTERED,
)
# What a client said under which transaction id, so that its retry finds the first answer.
client_transactions = Table(
    "client_transactions",
    metadata,
    nid("device_nid", primary=True),
    nid("room_nid", primary=True),
    text("txn_key", primary=True),  # endpoint, event type and transaction id
    nid("event_nid"),
    nid("ts_ms"),  # when it came
    # Old ones are forgotten.
    Index("client_transactions_by_age", "ts_ms"),
    **CLUSTERED,
)
aliases = Table(
    "aliases",
    metadata,
    text("alias", primary=True),
    nid("room_nid"),
    nid("creator_nid"),
    # A room's aliases.
    Index("aliases_by_room", "room_nid"),
)
# The public room directory of this server.
published_rooms = Table("published_rooms", metadata, nid("room_nid", primary=True))
