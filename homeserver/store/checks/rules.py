"""How an invariant is written that is one query: it gives the rows that break it, a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, and_, exists, literal, select

from homeserver.db.schema.stream import stream
from homeserver.db.statements import Statement, statement
from homeserver.db.tx import Tx

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """What a row would say that breaks it, and the query for such rows."""

    wrong: str
    query: Statement

    def problems(self, tx: Tx) -> Iterator[str]:
        """One line for the rule, with examples, if it is broken."""
        found = tx.all(self.query)
        if found:
            shown = ", ".join(" ".join(map(str, row)) for row in found[:EXAMPLES])
            yield f"{self.wrong}: {shown}" + (" and more" if len(found) > EXAMPLES else "")


def rule(wrong: str, query: Select[*tuple[Any, ...]]) -> Rule:
    """A rule from its query, which is bounded here."""
    return Rule(wrong, statement(query.limit(EXAMPLES + 1)))


def none_of(column: Column[int], values: Iterable[int]) -> ColumnElement[bool]:
    """A column holds something else than these."""
    return and_(*(column != int(value) for value in values))


def points_nowhere(child: Column[Any], parent: Column[Any], *where: ColumnElement[bool]) -> Rule:
    """Each value of a column is a row elsewhere (NULL points nowhere on purpose)."""
    there = parent.table.alias("there")
    known = exists(select(literal(1)).where(there.c[parent.name] == child))
    return rule(
        f"{child.table.name}.{child.name} is in no row of {parent.table.name}",
        select(child).where(and_(child.is_not(None), ~known, *where)),
    )


POSITION = select(stream.c.pos).scalar_subquery()


def ahead(column: Column[Any]) -> Rule:
    """No row carries a position that was not given yet."""
    return rule(
        f"{column.table.name}.{column.name} is ahead of the position of the stream",
        select(column).where(column > POSITION),
    )
