"""The way from every released schema to the newest: Alembic revisions in ``versions``, run by ``steps``.

A revision has a number of four digits, in order. It never imports the catalogue: that is today's, and the revision
speaks of its own day.
"""
