"""Runs migrations on the connection that ``database/migration.py`` hands over; Alembic reads this file by its path."""

from alembic import context

from gridwright_scheduler.database.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    # SQLite cannot alter most of a table: it is copied.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
