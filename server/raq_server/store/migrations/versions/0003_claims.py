"""Claims of the requests that servers search for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table. In PostgreSQL it is not logged: a commit waits for no disk, and a crash may empty it."""
    op.create_table(
        "claims",
        sa.Column("request", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        prefixes=["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else [],
    )


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("claims")
