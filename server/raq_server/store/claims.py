"""Claims of requests that a server searches for, so that others on the same database wait for its answer.

Rules
- A claim is a row with a time by the database's clock at which it ends. Its server renews it; that of a server that
  was killed or cut off ends by itself, and the next that asks takes it over.
- A claim saves work and nothing depends on it: one that is lost leads to a second search with the same answer.
"""

import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from raq_server.store.schema import CLAIMS

LEASE_SECONDS: Final = 3.0
"""Time after which a claim that is not renewed ends: how long a call may wait for a server that was killed."""
RENEW_SECONDS: Final = 1.0


class Claims:
    """The claims of one server: statements on a connection of PostgreSQL. `version` is that of the answers."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._owner = uuid.uuid4().hex

    def take(self, connection: sa.Connection, request: str) -> bool:
        """Claim a request; False if a claim of it holds."""
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415  # imports for 0.1 s

        row = {"request": request, "version": self._version, "owner": self._owner, "until": _end()}
        new = postgresql.insert(CLAIMS).values(row)
        taken = new.on_conflict_do_update(
            index_elements=[CLAIMS.c.request, CLAIMS.c.version],
            set_={"owner": new.excluded.owner, "until": new.excluded.until},
            where=CLAIMS.c.until < _now(),
        ).returning(CLAIMS.c.owner)
        return connection.execute(taken).first() is not None

    def renew(self, connection: sa.Connection, requests: Collection[str]) -> None:
        """Let claims of this server hold for another lease."""
        connection.execute(sa.update(CLAIMS).where(self._own(requests)).values(until=_end()))

    def release(self, connection: sa.Connection, requests: Collection[str]) -> None:
        """End claims of this server."""
        connection.execute(sa.delete(CLAIMS).where(self._own(requests)))

    def _own(self, requests: Collection[str]) -> sa.ColumnElement[bool]:
        return sa.and_(CLAIMS.c.owner == self._owner, CLAIMS.c.version == self._version, CLAIMS.c.request.in_(requests))


def remove_ended(connection: sa.Connection) -> None:
    """Remove the claims of servers that were killed, of requests that nobody made again."""
    connection.execute(sa.delete(CLAIMS).where(CLAIMS.c.until < datetime.now(tz=UTC) - timedelta(hours=1)))


def _now() -> "sa.Function[datetime]":
    """The database's time; `now()` would be that at which the transaction began."""
    return sa.func.clock_timestamp(type_=sa.DateTime(timezone=True))


def _end() -> sa.ColumnElement[datetime]:
    return _now() + timedelta(seconds=LEASE_SECONDS)
