"""The forms that the tables have had, as Alembic revisions; docs/architecture.md says how one is added."""
