"""Several schedulers share the tables, and actions stand in a fair order."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_QUEUED = sa.text("state = 1")


def upgrade() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.create_table(
        "virtual_times",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("priority", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("platform_id", sa.Text, primary_key=True),
        sa.Column("tag", sa.Float, nullable=False),
    )
    op.add_column("platforms", sa.Column("used_at", sa.Float, nullable=False, server_default="0"))
    op.add_column("actions", sa.Column("invocation", sa.Text, nullable=False, server_default=""))
    op.add_column("actions", sa.Column("tag", sa.Float, nullable=False, server_default="0"))
    op.add_column("actions", sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("actions", sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("actions", sa.Column("owner", sa.Text))
    op.add_column("actions", sa.Column("progress", sa.LargeBinary))
    op.add_column("operations", sa.Column("attended_at", sa.Float, nullable=False, server_default="0"))
    op.add_column("bots", sa.Column("replica", sa.Text, nullable=False, server_default=""))
    op.add_column("bots", sa.Column("offer", sa.Text, nullable=False, server_default="[]"))
    op.add_column("bots", sa.Column("ours", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("bots", sa.Column("healthy", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("bots", sa.Column("capacity", sa.Integer, nullable=False, server_default="1"))
    op.create_index("bots_by_replica", "bots", ["replica"])
    op.drop_index("actions_queue", "actions")
    _queued("actions_queue", "platform_id", "priority", "tag", "sequence")
    _queued("actions_by_flow", "platform_id", "priority", "invocation", "tag")
    if op.get_bind().dialect.name == "postgresql":
        # Rows change their state three times in a second: dead ones at the head of the queue make assignment slow.
        op.execute("ALTER TABLE actions SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01)")


def _queued(name: str, *columns: str) -> None:
    op.create_index(name, "actions", columns, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
