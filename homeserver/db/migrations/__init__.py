"""The way from every released schema to the newest: Alembic revisions in ``versions``, run by ``steps``.

A revision has a number of four digits, in order. It never imports the catalogue: that is today's, and the revision
speaks of its own day.
"""

# PostgreSQL: of two processes the second waits, and then finds what the first has done. (The number is drawn.)
LOCK = "SELECT pg_advisory_xact_lock(7165023861)"
