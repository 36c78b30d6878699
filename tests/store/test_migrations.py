"""The two ways to the newest schema lead to the same place, and a program refuses what is too new for it."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from typing import Any

import psycopg2
from sqlalchemy import MetaData, Table, bindparam, select, update

from homeserver.db import migrate
from homeserver.db.engine import Engine, open_engine
from homeserver.db.errors import DatabaseError
from homeserver.db.migrations import LOCK, steps
from homeserver.db.migrations.steps import run_steps, scripts
from homeserver.db.schema.base import nid, text
from homeserver.db.schema.e2ee import one_time_counts, one_time_keys, to_device
from homeserver.db.schema.media import media
from homeserver.db.schema.relations import related_redactions
from homeserver.db.schema.rooms import event_types, user_ids
from homeserver.db.schema.rooms import rooms as room_ids
from homeserver.db.schema.stream import server_facts
from homeserver.db.statements import rows, statement
from homeserver.db.tx import Tx, WriteTx
from homeserver.store.check import check_db
from homeserver.store.facts import load_fact, store_fact
from homeserver.store.media import load_usage
from homeserver.store.offered import Offer, load_next_offered, note_offered
from homeserver.store.placement import Membership
from homeserver.store.related_redactions import Watched, load_watched, watch
from homeserver.store.tokens import NewTokens, Used, rotate_tokens, store_tokens
from homeserver.store.users import NewAccount, create_account
from tests.support.databases import POSTGRESQL, SQLITE, DatabaseCase, no_schema, on_each_database

# A column that was added stands elsewhere in the text of its table, so tables are compared by what SQLite makes of them.
_SQLITE_SCHEMA = """
    SELECT tables.name, tables.wr, columns.name, columns.type, columns."notnull", columns.dflt_value, columns.pk, columns.cid
    FROM pragma_table_list AS tables, pragma_table_xinfo(tables.name) AS columns WHERE tables.type = 'table'
    UNION ALL
    SELECT tables.name, indexes.origin, members.name, indexes."unique", indexes.partial, members.cid, members.seqno, ''
    FROM pragma_table_list AS tables, pragma_index_list(tables.name) AS indexes, pragma_index_info(indexes.name) AS members
    UNION ALL
    SELECT name, sql, '', '', '', '', '', '' FROM sqlite_master
    WHERE (type = 'index' AND sql IS NOT NULL) OR sql LIKE 'CREATE VIRTUAL%'
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
"""
_POSTGRES_SCHEMA = """
    SELECT table_name, column_name, data_type, is_nullable, column_default, ordinal_position
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT tablename, indexname, indexdef, '', '', 0 FROM pg_indexes WHERE schemaname = 'public'
    ORDER BY 1, 2, 3
"""
_TYPES = statement(select(event_types.c.nid, event_types.c.type).order_by(event_types.c.nid))
_INSERT_MESSAGES = rows(to_device, "device_nid", "pos", "message")
_INSERT_UPLOADS = rows(media, "origin", "media_id", "user_nid", "sha256", "size", "created_ts_ms")
# As they were in revision 0002.
_OLD_KEYS = Table(
    "one_time_keys",
    MetaData(),
    nid("device_nid", primary=True),
    text("algorithm", primary=True),
    text("key_id", primary=True),
    nid("place"),
    text("key"),
)
_INSERT_KEYS = rows(_OLD_KEYS, "device_nid", "algorithm", "key_id", "place", "key")
_NUMBERED = statement(
    select(
        *(one_time_keys.c[name] for name in ("device_nid", "algorithm", "key_id", "place", "number"))
    ).order_by(one_time_keys.c.device_nid, one_time_keys.c.algorithm, one_time_keys.c.number)
)
_COUNTED = statement(
    select(*one_time_counts.c).order_by(one_time_counts.c.device_nid, one_time_counts.c.algorithm)
)
_INSERT_ROOMS = rows(room_ids, "nid", "room_id", "version")
_INSERT_RELATED = rows(related_redactions, "target_id", "room_nid", "rel_type", "sender_nid", "until_ts_ms")
_INSERT_USERS = rows(user_ids, "nid", "user_id")
_PLACES = statement(
    select(to_device.c.device_nid, to_device.c.pos, to_device.c.place).order_by(
        to_device.c.device_nid, to_device.c.pos
    )
)


def _schema_of(url: str) -> list[Any]:
    """Everything that the database says of its tables and indexes."""
    if url.startswith("sqlite:"):
        connection = sqlite3.connect(url.removeprefix("sqlite:"))
        found = connection.execute(_SQLITE_SCHEMA).fetchall()
        connection.close()
        return [tuple(re.sub(r'[\s"]+', " ", str(value)) for value in row) for row in found]
    with psycopg2.connect(url) as server, server.cursor() as cursor:
        cursor.execute(_POSTGRES_SCHEMA)
        return cursor.fetchall()


def _run(engine: Engine, unit: Any, *args: Any) -> Any:
    session = engine.writer()
    try:
        return session.run(unit, *args)
    finally:
        session.close()


def _rotate(tx: Tx, seed: bytes, now_ms: int) -> Used:
    return rotate_tokens(WriteTx(tx), b"refresh", seed, NewTokens(b"A" + seed, 99, b"R" + seed), now_ms)


def _all_types(tx: Tx) -> list[Any]:
    return tx.all(_TYPES)


def _insert_messages(tx: Tx, waiting: list[tuple[int, int, str]]) -> None:
    tx.insert(_INSERT_MESSAGES, waiting)


def _insert_keys(tx: Tx, keys: list[tuple[int, str, str, int]]) -> None:
    tx.insert(_INSERT_KEYS, [(*key, "{}") for key in keys])


def _insert_uploads(tx: Tx, uploads: list[tuple[str, int | None, str | None, int | None]]) -> None:
    tx.insert(_INSERT_UPLOADS, [("test.example", *upload, 1) for upload in uploads])


def _all_places(tx: Tx) -> list[Any]:
    return tx.all(_PLACES)


@on_each_database
class Migrations(DatabaseCase):
    """Empty databases, brought to the newest schema."""

    def test_both_ways_lead_to_the_same_schema(self) -> None:
        fresh, migrated = self.new_database(no_schema), self.new_database(no_schema)
        self.assertEqual(migrate.upgrade_engine(open_engine(fresh)), (None, migrate.HEAD, (migrate.HEAD,)))
        self.assertEqual(run_steps(open_engine(migrated), None)[-1], migrate.HEAD)
        self.assertEqual(_schema_of(migrated), _schema_of(fresh))
        self.assertEqual(
            _run(open_engine(migrated), _all_types),
            _run(open_engine(fresh), _all_types),
            "the first rows differ",
        )
        for url in (fresh, migrated):
            self.assertEqual(_run(open_engine(url), check_db), [])
            self.assertEqual(_run(open_engine(url), load_fact, "schema"), migrate.HEAD)
            self.assertEqual(_run(open_engine(url), load_fact, "oldest_reader"), migrate.OLDEST_READER)

    def test_a_second_time_does_nothing(self) -> None:
        engine = open_engine(self.new_database())
        self.assertEqual(migrate.upgrade_engine(engine), (migrate.HEAD, migrate.HEAD, ()))

    def test_an_older_database_is_upgraded(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0001")
        before = _run(engine, load_fact, "schema")
        self.assertEqual(before, "0001")
        self.patch(migrate, "HEAD", scripts().get_current_head())
        self.assertEqual(migrate.upgrade_engine(engine)[:2], ("0001", migrate.HEAD))

    def test_messages_that_wait_are_numbered(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0002")
        waiting = [(1, 5, "a"), (1, 9, "b"), (2, 6, "c"), (1, 12, "d")]
        _run(engine, _insert_messages, waiting)
        run_steps(engine, "0002")
        self.assertEqual([(1, 5, 1), (1, 9, 2), (1, 12, 3), (2, 6, 1)], _run(engine, _all_places))

    def test_one_time_keys_are_numbered(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0002")
        # In the order in which they would have been given out before.
        there = [
            (1, "one", "z", 1),
            (1, "one", "a", 2),
            (1, "one", "b", 2),
            (1, "two", "c", 1),
            (2, "one", "d", 7),
        ]
        _run(engine, _insert_keys, there)
        run_steps(engine, "0002")
        numbered = [(*row, number) for row, number in zip(there, (0, 1, 2, 0, 0), strict=True)]
        self.assertEqual(numbered, _run(engine, lambda tx: tx.all(_NUMBERED)))
        self.assertEqual(
            [(1, "one", 0, 3), (1, "two", 0, 1), (2, "one", 0, 1)], _run(engine, lambda tx: tx.all(_COUNTED))
        )

    def test_what_was_uploaded_is_counted(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0002")
        _run(
            engine,
            _insert_uploads,
            [("a", 1, "x", 5), ("b", 1, "y", 7), ("c", 2, None, None), ("d", None, "x", 5)],
        )
        run_steps(engine, "0002")
        self.assertEqual([(2, 12), (0, 0)], _run(engine, lambda tx: [load_usage(tx, 1), load_usage(tx, 2)]))

    def test_what_is_offered_is_kept_from_0005_on(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0004")
        self.assertEqual(("0004", migrate.HEAD), migrate.upgrade_engine(engine)[:2])
        _run(engine, lambda tx: tx.insert(_INSERT_ROOMS, [(1, "!r:a.example", "11")]))
        _run(engine, lambda tx: tx.insert(_INSERT_USERS, [(2, "@bob:test.example")]))
        _run(engine, note_offered, Offer(1, 2, "$join", "a.example", Membership.JOIN), 7)
        row = (1, 2, "$join", "a.example", Membership.JOIN, 0, 7, "!r:a.example", "@bob:test.example")
        self.assertEqual([row], _run(engine, load_next_offered, 8))

    def test_a_refresh_token_of_before_0006_is_unused(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0005")
        _run(engine, lambda tx: tx.insert(_INSERT_USERS, [(1, "@bob:test.example")]))
        _run(engine, lambda tx: create_account(WriteTx(tx), NewAccount(1, None, 5)))
        _run(engine, store_tokens, 1, 2, NewTokens(b"access", 10, b"refresh"))
        migrate.upgrade_engine(engine)
        used = [
            _run(engine, _rotate, seed, now_ms) for seed, now_ms in ((b"a", 20), (b"b", 30), (b"c", 50_000))
        ]
        self.assertEqual([Used(2, b"a", 99), Used(2, b"a", 99), Used(2, b"c", 99)], used)

    def test_what_takes_along_what_relates_is_kept_over_0009(self) -> None:
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0008")
        _run(engine, lambda tx: tx.insert(_INSERT_ROOMS, [(1, "!r:test.example", "11")]))
        users = [(2, "@bob:test.example"), (3, "@mod:test.example")]
        _run(engine, lambda tx: tx.insert(_INSERT_USERS, users))
        _run(engine, lambda tx: tx.insert(_INSERT_RELATED, [("$root", 1, "m.thread", 2, 50)]))
        migrate.upgrade_engine(engine)
        # From now on a second one of the same has a row of its own.
        _run(engine, watch, "$root", 1, ["m.thread"], 3, 10, 60)
        found = [
            Watched("$root", 1, "!r:test.example", "m.thread", user_id, until_ms)
            for user_id, until_ms in (("@mod:test.example", 60), ("@bob:test.example", 50))
        ]
        self.assertEqual(found, _run(engine, load_watched, 10, 5))

    def test_a_newer_database_is_refused_unless_it_allows_us(self) -> None:
        url = self.new_database()
        engine = open_engine(url)
        _run(engine, store_fact, "schema", "9999")
        self.assertEqual(migrate.upgrade_engine(engine), ("9999", "9999", ()))
        _run(engine, store_fact, "oldest_reader", "9998")
        error = self.assertRaises(DatabaseError, migrate.upgrade_engine, engine)
        self.assertIn("9999", str(error))

    def test_what_another_process_has_made_is_not_made_again(self) -> None:
        """Both have found an old database."""
        engine = open_engine(self.new_database(no_schema))
        run_steps(engine, None, "0008")
        newer = tuple(step.revision for step in scripts().iterate_revisions("head", "0008"))[::-1]
        self.assertEqual(newer[:1], run_steps(engine, "0008", "0009"))
        self.assertEqual(newer[1:], run_steps(engine, "0008"))
        self.assertEqual((), run_steps(engine, "0008"))
        self.assertEqual((migrate.HEAD, migrate.HEAD, ()), migrate.upgrade_engine(engine))
        self.assertEqual([], _run(engine, check_db))

    def test_each_step_is_made_by_one_process_alone(self) -> None:
        url = self.new_database(no_schema)
        engine = open_engine(url)
        run_steps(engine, None, "0008")
        run, free = steps._run, list[bool]()

        def look(connection: Any, step: Any) -> None:
            free.append(self.may_begin(url))
            run(connection, step)

        self.patch(steps, "_run", look)
        run_steps(engine, "0008")
        self.assertEqual([False] * (int(migrate.HEAD) - 8), free)
        self.assertTrue(self.may_begin(url))

    def may_begin(self, url: str) -> bool:
        """Whether another process need not wait."""
        if self.dialect == SQLITE:
            other = sqlite3.connect(url[7:], timeout=0, isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            finally:
                other.close()
            return True
        server = psycopg2.connect(url)
        with server, server.cursor() as cursor:
            cursor.execute(LOCK.replace("pg_advisory", "pg_try_advisory"))
            row = cursor.fetchone()
        server.close()
        return row == (True,)

    def test_a_newer_process_comes_first(self) -> None:
        for oldest_reader in (migrate.HEAD, "9998"):
            engine = open_engine(self.new_database(no_schema))
            run_steps(engine, None, "0008")

            def late(
                engine: Engine, after: str | None, oldest_reader: str = oldest_reader
            ) -> tuple[str, ...]:
                run_steps(engine, after)
                _run(engine, store_fact, "schema", "9999")
                _run(engine, store_fact, "oldest_reader", oldest_reader)
                return run_steps(engine, after)

            with self.subTest(oldest_reader):
                self.patch(steps, "run_steps", late)
                if oldest_reader == migrate.HEAD:
                    self.assertEqual(("0008", "9999", ()), migrate.upgrade_engine(engine))
                else:
                    error = self.assertRaises(DatabaseError, migrate.upgrade_engine, engine)
                    self.assertIn("made by a newer program", str(error))
                self.assertEqual("9999", _run(engine, load_fact, "schema"))
                self.assertEqual(oldest_reader, _run(engine, load_fact, "oldest_reader"))

    def test_a_database_without_a_revision_is_refused(self) -> None:
        engine = open_engine(self.new_database())
        rename = statement(
            update(server_facts).where(server_facts.c.name == bindparam("old")).values(name=bindparam("new"))
        )
        _run(engine, lambda tx: tx.run(rename, old="schema", new="other"))
        error = self.assertRaises(DatabaseError, migrate.upgrade_engine, engine)
        self.assertIn("before the first release", str(error))

    def test_a_step_that_fails_leaves_nothing(self) -> None:
        url = self.new_database(no_schema)
        engine = open_engine(url)
        # A table of the last step's is there already.
        connect: Any = sqlite3.connect(url[7:]) if self.dialect == SQLITE else psycopg2.connect(url)
        cursor = connect.cursor()
        cursor.execute("CREATE TABLE server_facts (name TEXT)")
        connect.commit()
        connect.close()
        before = _schema_of(url)
        self.assertRaises(DatabaseError, run_steps, engine, None)
        self.assertEqual(_schema_of(url), before)


class OtherSchemas(DatabaseCase):
    """PostgreSQL, where the tables are not in the schema `public`."""

    dialect = POSTGRESQL

    def test_tables_are_found_again(self) -> None:
        url = self.new_database(no_schema)
        with psycopg2.connect(url) as server, server.cursor() as cursor:
            cursor.execute("CREATE SCHEMA chaos")
        server.close()
        engine = open_engine(_within(url, "chaos"))
        self.assertEqual((None, migrate.HEAD), migrate.upgrade_engine(engine)[:2])
        self.assertEqual((migrate.HEAD, migrate.HEAD, ()), migrate.upgrade_engine(engine))
        self.assertEqual([], _run(engine, check_db))
        self.assertEqual([], _schema_of(url))

    def test_a_schema_that_is_not_there(self) -> None:
        engine = open_engine(_within(self.new_database(no_schema), "nowhere"))
        error = self.assertRaises(DatabaseError, migrate.upgrade_engine, engine)
        self.assertEqual("PostgreSQL: no schema has been selected to create in", str(error))


def _within(url: str, schema: str) -> str:
    """The address of a database, with the schema in which everything is to be."""
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"


class Revisions(DatabaseCase):
    """The files of the revisions."""

    def test_they_form_one_line_that_ends_at_the_program_s(self) -> None:
        found = list(scripts().walk_revisions())
        self.assertEqual(found[0].revision, migrate.HEAD)
        self.assertEqual(found[0].module.oldest_reader, migrate.OLDEST_READER)
        names = [step.revision for step in reversed(found)]
        self.assertEqual(names, sorted(names))
        self.assertEqual(names, [f"{number:04}" for number in range(1, len(names) + 1)])

    def test_a_start_does_not_load_what_it_need_not(self) -> None:
        """Alembic where there is nothing to migrate, Jinja2 where no mail is sent."""
        url = self.new_database()
        code = (
            "import sys; from homeserver.db.migrate import upgrade; import homeserver.app\n"
            "upgrade(sys.argv[1]); sys.exit(len({'alembic', 'jinja2'} & set(sys.modules)))"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", code, url], check=False).returncode, 0)
