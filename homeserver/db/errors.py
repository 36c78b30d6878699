"""What a database can do to us, in three words: gone, full, or disagreeing."""

from __future__ import annotations


class DatabaseError(Exception):
    """A unit of work failed and its transaction was rolled back. Nothing of it was stored."""


class DatabaseUnavailable(DatabaseError):  # noqa: N818 (what happened, in the words of databases)
    """The database cannot take work now (gone, locked, disk full). The same work may succeed later."""


class IntegrityViolation(DatabaseError):  # noqa: N818 (what happened, in the words of databases)
    """A constraint refused a row. Retrying the same work fails the same way."""


class TooLong(IntegrityViolation):
    """An index cannot hold a row: somebody chose a key that nobody had bounded."""


class Conflict(DatabaseError):  # noqa: N818 (what happened, in the words of databases)
    """Optimistic check failed: somebody else moved what this unit of work was built on."""


class TakesLong(DatabaseError):  # noqa: N818 (what happened, in the words of databases)
    """A unit of work that somebody waits for standing still took too long; it may run again where nobody does."""
