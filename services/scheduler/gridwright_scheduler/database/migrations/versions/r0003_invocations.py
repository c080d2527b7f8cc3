"""Operations know their invocation, and actions which bots failed them and whether they may be tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("operations", sa.Column("invocation", sa.Text, nullable=False, server_default=""))
    op.add_column("actions", sa.Column("no_retry", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("actions", sa.Column("avoid", sa.Text, nullable=False, server_default="[]"))
    op.add_column("actions", sa.Column("avoid_until", sa.Float))
    told = sa.text("invocation <> ''")
    columns = ["instance", "invocation", "created_at", "name"]
    op.create_index("operations_by_invocation", "operations", columns, sqlite_where=told, postgresql_where=told)
    avoiding = sa.text("state = 1 AND avoid_until IS NOT NULL")
    columns = ["platform_id", "avoid_until"]
    op.create_index("actions_avoiding", "actions", columns, sqlite_where=avoiding, postgresql_where=avoiding)
