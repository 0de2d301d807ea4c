"""The tables of the store, equal to what the newest migration leaves; a test compares the two."""

from typing import Final

import sqlalchemy as sa

METADATA: Final = sa.MetaData()

PROFILES: Final = sa.Table(
    "profiles",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("info", sa.LargeBinary, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, index=True),
)
"""Profiles by digest: a ProfileInfo message, whose times are those of the columns, and a Profile message. Times are in
seconds since 1970."""

ANSWERS: Final = sa.Table(
    "answers",
    METADATA,
    sa.Column("request", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, index=True),
)
"""Proven answers by the SHA-256 of method and request, and the version of raq that proved them."""

CLAIMS: Final = sa.Table(
    "claims",
    METADATA,
    sa.Column("request", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),
)
"""The requests that servers search for now, by whom, and when the claim ends by the database's clock."""
