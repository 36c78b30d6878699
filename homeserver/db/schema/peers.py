"""Tables of other servers: their keys, what we owe them, what they sent and we have not worked through."""

from __future__ import annotations
