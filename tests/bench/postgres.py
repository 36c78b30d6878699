"""A PostgreSQL server for measurements: the tests' own, but with default settings and `fsync` on.

What is measured must be what a user gets: every commit on the disk, autovacuum running.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from unittest import mock

import psycopg2
from psycopg2 import sql

from tests.support import postgres

# Everything else at PostgreSQL's defaults; on its Unix socket only.
DURABLE_SETTINGS = {"listen_addresses": ""}


@contextmanager
def durable_cluster() -> Iterator[postgres.Cluster]:
    """Run a server for the length of the `with`."""
    with mock.patch.dict(postgres.SETTINGS, DURABLE_SETTINGS, clear=True):
        cluster = postgres.start_cluster()
    try:
        yield cluster
    finally:
        cluster.stop()


def create_database(server_url: str, name: str) -> str:
    """Create an empty database and return its address."""
    with closing(psycopg2.connect(server_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
                ).format(sql.Identifier(name))
            )
    head, _, query = server_url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
