"""What statements say differently to the two databases; nothing else knows which one it is.

On SQLite a transaction that writes is alone, so that no row needs a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table, TextClause
from sqlalchemy.dialects import postgresql, sqlite

#: The columns of a row, by their names as attributes.
Columns = Any
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


def locked(query: S, *tables: Table, skip: bool = False) -> S:
    """Return *query* such that the rows of *tables* that it finds stay as they are until the transaction ends.

    A row that another transaction has locked is waited for, and left out if it no longer fits
    then; with *skip* it is left out at once. Transactions that lock several rows name an
    order, so that no two wait for each other.
    """
    # Rows that refer to a locked one may come and go: its key stays.
    return query.with_for_update(of=tables, skip_locked=skip, key_share=True)


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
