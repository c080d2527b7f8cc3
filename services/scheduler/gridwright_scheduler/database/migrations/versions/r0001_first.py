"""The tables of version 0.1."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LIVE_AND_SHARED = sa.text("state < 4 AND NOT do_not_cache")
_QUEUED = sa.text("state = 1")
_LEASED = sa.text("state IN (2, 3)")
_DONE = sa.text("state = 4")


def upgrade() -> None:
    op.create_table(
        "platforms",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("properties", sa.Text, nullable=False),
        sa.Column("ours_only", sa.Boolean, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("function", sa.SmallInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("action", sa.LargeBinary, nullable=False),
        sa.Column("do_not_cache", sa.Boolean, nullable=False),
        sa.Column("platform_id", sa.Text, sa.ForeignKey("platforms.id"), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("timeout_seconds", sa.Float),
        sa.Column("queued_at", sa.Float, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("failures", sa.Text, nullable=False, server_default="[]"),
        sa.Column("lease_id", sa.Text, unique=True),
        sa.Column("bot_id", sa.Text),
        sa.Column("leased_at", sa.Float),
        sa.Column("give_up_at", sa.Float),
        sa.Column("response", sa.LargeBinary),
        sa.Column("succeeded", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("finished_at", sa.Float),
    )
    op.create_table(
        "operations",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("instance", sa.Text, nullable=False),
        sa.Column("action_id", sa.Text, sa.ForeignKey("actions.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("cancelled_at", sa.Float),
    )
    op.create_table(
        "bots",
        sa.Column("instance", sa.Text, primary_key=True),
        sa.Column("bot_id", sa.Text, primary_key=True),
        sa.Column("session", sa.Text, nullable=False),
    )
    _index("actions_in_flight", "hash", "size_bytes", "function", "instance", where=_LIVE_AND_SHARED, unique=True)
    op.create_index("actions_by_hash", "actions", ["hash"])
    _index("actions_queue", "platform_id", "priority", "sequence", where=_QUEUED)
    _index("actions_leased", "give_up_at", where=_LEASED)
    _index("actions_done", "finished_at", where=_DONE)
    op.create_index("operations_by_age", "operations", ["instance", "created_at", "name"])


def _index(name: str, *columns: str, where: sa.TextClause, unique: bool = False) -> None:
    op.create_index(name, "actions", columns, unique=unique, sqlite_where=where, postgresql_where=where)
