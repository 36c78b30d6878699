"""Tables of the text search. What they hold can be made again from events: no dump has them, and a new database fills them.

The words are where each database can search for them: in a virtual table of SQLite's FTS5 without a copy of the text,
or in a column of PostgreSQL's with an index of its own. SQLAlchemy knows neither, so this is text, once per database.
"""

from __future__ import annotations

from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects.postgresql import TSVECTOR

from homeserver.db.schema.base import BIG, CLUSTERED, nid, small, text
from homeserver.db.statements import POSTGRESQL, SQLITE

derived = MetaData()


class Vector(TSVECTOR):
    """With its type in the text of statements: then many rows go as one array for each column."""

    render_bind_cast = True


# Which events can be found. ``place`` orders them by their time: milliseconds since 1970, then some bits of the nid.
search_documents = Table(
    "search_documents",
    derived,
    nid("event_nid", primary=True),
    Column("place", BIG, unique=True, nullable=False, autoincrement=False),
    nid("room_nid"),
)
# Events that came as history, or were redacted as such: no change in the log speaks of them.
search_queue = Table("search_queue", derived, nid("event_nid", primary=True))
# Down to which nid the events are looked at that were there before the index was.
search_progress = Table("search_progress", derived, small("id", primary=True), nid("below"), **CLUSTERED)

# Tokens are made by us (store/search.py), so both databases find the same. LIMIT(SQLite before 3.43: a table without
# content cannot delete by row id, so whoever deletes gives the text again).
DDL = {
    SQLITE: (
        (
            "CREATE VIRTUAL TABLE search_words USING fts5(marks, words, content='',"
            " tokenize=\"unicode61 remove_diacritics 0 categories 'L* N* M*'\")"
        ),
    ),
    POSTGRESQL: (
        "CREATE TABLE search_words (place BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)",
        # Without statistics every search seems selective to the planner, and that is the plan that is wanted of it.
        "ALTER TABLE search_words ALTER COLUMN words SET STATISTICS 0",
        "CREATE INDEX search_words_by_word ON search_words USING gin (words) WITH (gin_pending_list_limit = 256)",
    ),
}
# Only for the statements: it is never made from here.

fts_words = Table("search_words", MetaData(), nid("rowid"), text("marks"), text("words"))
vector_words = Table("search_words", MetaData(), nid("place", primary=True), Column("words", Vector()))
