"""Tables of end-to-end encryption: keys and messages that only devices can read."""

from __future__ import annotations
