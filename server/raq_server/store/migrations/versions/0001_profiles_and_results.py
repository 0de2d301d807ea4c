"""Profiles by digest, proven outcomes by the problem's digest."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "profiles",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("info", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "results",
        sa.Column("problem", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False, index=True),
    )


def downgrade() -> None:
    """Remove both tables and all that is in them."""
    op.drop_table("results")
    op.drop_table("profiles")
