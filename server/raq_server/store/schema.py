"""The tables of the store, as the newest migration leaves them; a test compares both."""

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
"""Profiles by digest: a ProfileInfo (but its times), a Profile; times in seconds since 1970."""

RESULTS: Final = sa.Table(
    "results",
    METADATA,
    sa.Column("problem", sa.String(64), primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, index=True),
)
"""Proven outcomes (Outcome messages) by the problem's digest and the version of raq that proved them."""
