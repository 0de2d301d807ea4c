"""Retention: remove old answers and profiles, then the least recently used until the store is small enough."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from raq_server.store.claims import remove_ended
from raq_server.store.schema import ANSWERS, PROFILES
from raq_solver.errors import Fault, InvalidInput

_DAY: Final = 86400
_AT_ONCE: Final = 500
"""Rows looked at in one step."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The number of rows removed, and the bytes left."""

    answers: int
    profiles: int
    bytes_left: int


def clean(engine: sa.Engine, answers_days: float, profiles_days: float | None, limit_bytes: int) -> Cleaned:
    """Remove answers and profiles not used for that many days, then the least recently used answers, then profiles,
    until their contents take at most `limit_bytes`. Returns the space to the file system (SQLite: VACUUM).

    Raises InvalidInput if the database does not answer, or another process writes to it for too long.
    """
    try:
        return _cleaned(engine, answers_days, profiles_days, limit_bytes)
    except sa.exc.DBAPIError as error:
        raise InvalidInput(Fault("database", f"can't be cleaned now: {error.orig}; try again later")) from error


def _cleaned(engine: sa.Engine, answers_days: float, profiles_days: float | None, limit_bytes: int) -> Cleaned:
    now = int(time.time())
    with engine.begin() as connection:
        answers = _older(connection, ANSWERS, now - answers_days * _DAY)
        profiles = 0 if profiles_days is None else _older(connection, PROFILES, now - profiles_days * _DAY)
        remove_ended(connection)
    left = stored_bytes(engine)
    for table in (ANSWERS, PROFILES):
        removed, left = _shrink(engine, table, left, limit_bytes)
        answers, profiles = (answers + removed, profiles) if table is ANSWERS else (answers, profiles + removed)
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
    return Cleaned(answers, profiles, left)


def _older(connection: sa.Connection, table: sa.Table, before: float) -> int:
    return connection.execute(sa.delete(table).where(table.c.used < int(before))).rowcount


def stored_bytes(engine: sa.Engine) -> int:
    """The bytes of all contents."""
    with engine.begin() as connection:
        return sum(
            int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(table.c.size_bytes), 0))).scalar_one())
            for table in (ANSWERS, PROFILES)
        )


def _shrink(engine: sa.Engine, table: sa.Table, left: int, limit: int) -> tuple[int, int]:
    """Remove the least recently used rows until at most `limit` bytes are left; the rows removed and the bytes left."""
    removed = 0
    while left > limit:
        with engine.begin() as connection:
            oldest = list(_least_recent(connection, table, left - limit))
            for key, size in oldest:
                connection.execute(sa.delete(table).where(sa.and_(*(c == v for c, v in key))))
                left -= size
        if not oldest:
            break
        removed += len(oldest)
    return removed, left


def _least_recent(
    connection: sa.Connection, table: sa.Table, excess: int
) -> Iterator[tuple[list[tuple[sa.Column[str], str]], int]]:
    keys = list(table.primary_key.columns)
    query = sa.select(*keys, table.c.size_bytes).order_by(table.c.used, *keys).limit(_AT_ONCE)
    for *values, size in connection.execute(query).all():
        if excess <= 0:
            return
        excess -= size
        yield list(zip(keys, values, strict=True)), size
