"""What callers said about themselves has a table."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "request_metadata",
        sa.Column("operation", sa.Text, sa.ForeignKey("operations.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("message", sa.LargeBinary, nullable=False),
        # Databases from between 0.1 and the first migration have it.
        if_not_exists=True,
    )
