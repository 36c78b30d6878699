"""Sync: what changed for a device since its token, spliced from bytes that are the same for many."""
