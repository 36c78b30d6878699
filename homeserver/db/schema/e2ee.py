"""Tables of end-to-end encryption: keys and messages that only devices can read.

Keys are JSON text as their owners signed it, without ``unsigned``; signatures that others made later are rows of their
own, so that what a device uploaded stays what it uploaded.
"""

from __future__ import annotations

from sqlalchemy import Index, Table

from homeserver.db.schema.base import CLUSTERED, metadata, nid, small, text

# Identity keys of devices of this server.
device_keys = Table(
    "device_keys",
    metadata,
    nid("device_nid", primary=True),
    nid("user_nid"),
    text("json"),
    # A user's devices, for whoever asks for their keys.
    Index("device_keys_by_user", "user_nid"),
)
# One-time keys of a device, numbered in the order in which they are given out. The row of one that was given out stays
# until the device uploads others: claims of fifty devices' keys would change pages of fifty devices otherwise, and who
# uploads it once more, because the answer was lost, is not to have it given out once more.
one_time_keys = Table(
    "one_time_keys",
    metadata,
    nid("device_nid", primary=True),
    text("algorithm", primary=True),
    nid("number", primary=True),
    text("key_id"),
    nid("place"),  # of the upload that it came with: where there are too many, the oldest go
    text("key"),
    **CLUSTERED,
)
# How many keys of a device were uploaded so far, and how many of them were given out or made room for others: those with
# a lower number than ``given`` are there no more, whatever rows there are.
one_time_counts = Table(
    "one_time_counts",
    metadata,
    nid("device_nid", primary=True),
    text("algorithm", primary=True),
    nid("given"),
    nid("uploaded"),
    **CLUSTERED,
)
fallback_keys = Table(
    "fallback_keys",
    metadata,
    nid("device_nid", primary=True),
    text("algorithm", primary=True),
    text("key_id"),
    text("key"),
    small("used"),
    **CLUSTERED,
)
# Cross-signing keys of users of this server, and those of others as far as their device lists are kept here.
signing_keys = Table(
    "signing_keys",
    metadata,
    nid("user_nid", primary=True),
    text("usage", primary=True),  # "master", "self_signing", "user_signing"
    text("public_key"),
    text("key"),
    **CLUSTERED,
)
# What users of this server signed later: their own devices, their own and other users' master keys.
key_signatures = Table(
    "key_signatures",
    metadata,
    nid("target_nid", primary=True),
    text("target_id", primary=True),  # a device, or the public key of a master key
    nid("signer_nid", primary=True),
    text("key_id", primary=True),  # of the signer's key, with its algorithm
    text("signature"),
    # A signing key that is replaced takes its signatures along.
    Index("key_signatures_by_signer", "signer_nid", "key_id"),
    **CLUSTERED,
)
# Messages that wait for a device of this server until it says that it has them.
to_device = Table(
    "to_device",
    metadata,
    nid("device_nid", primary=True),
    nid("pos", primary=True),
    text("message"),  # the event as sync tells it
    # One more than that of the message before it: so the ends of an inbox say how much waits.
    small("place", default=0),
    # Not clustered: SQLite would put a message of a kilobyte on a page of its own beside its row.
)
# Messages that wait for another server: the content of an EDU each.
to_device_out = Table(
    "to_device_out",
    metadata,
    nid("pos", primary=True),
    text("destination"),
    text("content"),
    # What one server is still to get.
    Index("to_device_out_by_destination", "destination", "pos"),
)
# The ids of messages that other servers sent: one that comes again is not told again.
to_device_seen = Table(
    "to_device_seen",
    metadata,
    text("origin", primary=True),
    text("message_id", primary=True),
    nid("ts_ms"),
    # Old ones are forgotten.
    Index("to_device_seen_by_age", "ts_ms"),
    **CLUSTERED,
)
# What a device (below 0: a user without one) sent to devices under which transaction id: its retry does nothing.
device_transactions = Table(
    "device_transactions",
    metadata,
    nid("device_nid", primary=True),
    text("txn_key", primary=True),
    nid("ts_ms"),
    # Old ones are forgotten.
    Index("device_transactions_by_age", "ts_ms"),
    **CLUSTERED,
)
# The one device of a user that is nowhere logged in: what a client left here to bring it to life again (MSC3814).
dehydrated_devices = Table(
    "dehydrated_devices",
    metadata,
    nid("user_nid", primary=True),
    nid("device_nid"),
    text("device_data"),
)
# When somebody's keys changed. Of users of this server the newest changes are kept, each a link of the chain that other
# servers follow; of others only the newest.
list_changes = Table(
    "list_changes",
    metadata,
    nid("pos", primary=True),
    nid("user_nid"),
    text("device_id"),  # "": cross-signing keys, or a device of another server
    # A user's newest change.
    Index("list_changes_by_user", "user_nid", "pos"),
)
# When a user of this server last signed somebody else's keys: only their own devices see it.
signature_changes = Table(
    "signature_changes",
    metadata,
    nid("signer_nid", primary=True),
    nid("target_nid", primary=True),
    nid("pos"),
    **CLUSTERED,
)
# Device lists of users of other servers, as far as they are kept here.
remote_lists = Table(
    "remote_lists",
    metadata,
    nid("user_nid", primary=True),
    nid("stream_id"),  # the newest update that it contains, as their server counts; 0 where that is not known
    small("stale"),  # 1: it must be fetched before it is used
    nid("pos"),  # our position when it was asked for
)
remote_devices = Table(
    "remote_devices",
    metadata,
    nid("user_nid", primary=True),
    text("device_id", primary=True),
    text("json"),
    text("display_name", optional=True),
    **CLUSTERED,
)
