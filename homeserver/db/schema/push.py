"""Tables of notifications: where they are sent to."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, text

pushers = Table(
    "pushers",
    metadata,
    nid("user_nid", primary=True),
    text("app_id", primary=True),
    text("pushkey", primary=True),
    text("kind"),
    text("app_display_name"),
    text("device_display_name"),
    text("profile_tag", optional=True),
    text("lang"),
    text("data"),  # JSON
    nid("device_nid"),  # the device that set it, 0 for none
    nid("created_ts_ms"),
    # The same app and key of other users, which a pusher replaces.
    Index("pushers_by_key", "app_id", "pushkey"),
    **CLUSTERED,
)
