"""What statements say differently to the two databases; nothing else knows which one it is.

On SQLite a transaction that writes is alone, so that no row needs a lock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    Select,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    bindparam,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

#: The columns of a row, by their names as attributes.
Columns = Any
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


def locked(query: S, *tables: Table, skip: bool = False, wait: bool = True) -> S:
    """Return *query* such that the rows of *tables* that it finds stay as they are until the transaction ends.

    A row that another transaction has locked is waited for, and left out if it no longer fits
    then; with *skip* it is left out at once, and without *wait* the transaction fails, as one
    that others got in the way of. Transactions that lock several rows name an order, so that
    no two wait for each other.
    """
    # Rows that refer to a locked one may come and go: its key stays.
    return query.with_for_update(of=tables, skip_locked=skip, nowait=not wait, key_share=True)


def doomed(query: S, table: Table) -> S:
    """Return *query* such that the rows of *table* that it finds may be deleted without waiting for anybody."""
    return query.with_for_update(of=table, skip_locked=True)


def database_time(connection: Connection) -> float:
    """Return what the clock of the database shows, in seconds since the epoch; that of SQLite is this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(_DATABASE_TIME).scalar_one())


#: Not that of the transaction's begin.
_DATABASE_TIME = text("SELECT extract(epoch FROM clock_timestamp())::float8")


class OneOf(FunctionElement[bool]):
    """Whether a text is among those that the parameter *name* holds, a list of any length.

    ``IN`` has a placeholder for each, and so is another statement for each number of them, to be
    compiled here and prepared there.
    """

    inherit_cache = True
    name = "one_of"
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], name: str) -> None:
        super().__init__(column, bindparam(name, type_=_Texts()))


class _Texts(TypeDecorator[list[str]]):
    """A list of texts as a parameter: an array, or JSON where there are none."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else postgresql.ARRAY(Text()))

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> Any:
        return json.dumps(value) if dialect.name == "sqlite" else value


@compiles(OneOf, "postgresql")
def _any_of_array(element: OneOf, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, texts = (compiler.process(part, **kwargs) for part in element.clauses)
    return f"{column} = ANY ({texts})"


@compiles(OneOf, "sqlite")
def _one_of_json(element: OneOf, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, texts = (compiler.process(part, **kwargs) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"


class Upsert:
    """An INSERT that, for a row whose key is there already, changes the old row or leaves it as it is.

    Args:
        table: where rows go.
        key: the columns of the unique index.
        where: which rows that index covers.
        change: makes new values of the old row from the columns of the refused one; without it the old one stays.
        returning: columns of the row that is there in the end.
    """

    def __init__(
        self,
        table: Table,
        key: Sequence[ColumnElement[Any]],
        *,
        where: TextClause | None = None,
        change: Callable[[Columns], Mapping[str, ColumnElement[Any]]] | None = None,
        returning: Sequence[ColumnElement[Any]] = (),
    ) -> None:
        self._statements: dict[str, Insert] = {}
        for name, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert)):
            statement: Any = insert(table)
            if change is not None:
                values = change(statement.excluded)
                statement = statement.on_conflict_do_update(index_elements=key, index_where=where, set_=values)
            else:
                statement = statement.on_conflict_do_nothing(index_elements=key, index_where=where)
            self._statements[name] = statement.returning(*returning) if returning else statement

    def on(self, connection: Connection) -> Insert:
        """Return the statement for the database of *connection*."""
        return self._statements[connection.dialect.name]
