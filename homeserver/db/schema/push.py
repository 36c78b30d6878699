"""Tables of notifications: where they are sent to, and what could not be sent yet."""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, small, text

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
    small("enabled", default=1),
    # The same app and key of other users, which a pusher replaces.
    Index("pushers_by_key", "app_id", "pushkey"),
    # Those of a device, which end with it.
    Index("pushers_by_device", "device_nid"),
    **CLUSTERED,
)

# A pusher has a row here only while it is behind: nothing is written for a notification that goes out at once.
pusher_debts = Table(
    "pusher_debts",
    metadata,
    nid("user_nid", primary=True),
    text("app_id", primary=True),
    text("pushkey", primary=True),
    small("failures"),
    nid("failing_since_ts_ms"),  # 0: it does not fail
    nid("retry_at_ts_ms"),  # 0: at once
    text("owed"),  # JSON: what is still to be sent, the oldest first
    **CLUSTERED,
)
