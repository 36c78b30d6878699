"""CHAOS and a real Synapse, both on PostgreSQL: every story, with either side as the resident."""

from __future__ import annotations

from tests.interop.stories import ALL
from tests.interop.stories.base import build_stories

globals().update(build_stories("postgresql", *ALL))
