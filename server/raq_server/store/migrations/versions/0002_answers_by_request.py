"""Store answers by request, not outcomes by problem. Stored outcomes are dropped; asked for, they are proven again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Replace `results` by `answers`."""
    op.drop_table("results")
    op.create_table(
        "answers",
        sa.Column("request", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False, index=True),
    )


def downgrade() -> None:
    """Replace `answers` by an empty `results`."""
    op.drop_table("answers")
    op.create_table(
        "results",
        sa.Column("problem", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False, index=True),
    )
