"""Profiles and proven outcomes in a database: SQLite in one file, or PostgreSQL shared by several servers.

Rules
- What a method returned for is on disk (SQLite: WAL, every commit synced).
- A database that does not answer is ServiceUnavailable; the next call tries again.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from raq_proto.convert import stored_from_proto, stored_to_proto
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_service_pb2
from raq_server.tables import PROFILES, RESULTS
from raq_solver.errors import Fault, InvalidInput, ServiceUnavailable

VERSION: Final = version("raq")
_HOUR: Final = 3600
_POSTGRES: Final = {"connect_timeout": 5, "options": "-c statement_timeout=20000"}
"""Seconds to connect, milliseconds for a statement: a database that hangs must not hang the server."""
_SQLITE: Final = {"timeout": 20}
"""Seconds to wait for another process's write."""


def engine_of(url: str) -> sa.Engine:
    """The database at that URL, not yet connected. Raises InvalidInput for a URL of another kind."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise InvalidInput(Fault("database", "is not a URL such as sqlite:///FILE or postgresql://HOST/NAME")) from None
    match parsed.get_backend_name():
        case "sqlite":
            _make_folder(parsed.database)
            engine = sa.create_engine(parsed, connect_args=_SQLITE)
            sa.event.listen(engine, "connect", _set_pragmas)
        case "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            try:
                engine = sa.create_engine(
                    parsed, pool_pre_ping=True, pool_size=4, max_overflow=4, pool_timeout=10, connect_args=_POSTGRES
                )
            except ModuleNotFoundError:
                what = "needs psycopg: install raq[postgres]"
                raise InvalidInput(Fault("database", what)) from None
        case other:
            raise InvalidInput(Fault("database", f"{other} is not supported; use sqlite or postgresql"))
    return engine


class Store:
    """Profiles and outcomes. Thread-safe; every method may block, and raises ServiceUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ping(self) -> None:
        """See whether the database answers."""
        with self._transaction() as connection:
            connection.execute(sa.select(1))

    def put_profile(self, stored: StoredProfile, content: bytes) -> bool:
        """Keep a profile, its message in `content`; False when it was there already."""
        row = {
            "digest": stored.digest,
            "info": stored_to_proto(stored).SerializeToString(),
            "content": content,
            "size_bytes": stored.size_bytes,
            "created": int(stored.created.timestamp()),
            "used": int(stored.used.timestamp()),
        }
        return self._insert(PROFILES, row, PROFILES.c.digest == stored.digest)

    def profile(self, digest: str) -> bytes | None:
        """The message of a profile, None when there is none of that digest."""
        with self._transaction() as connection:
            return self._content(connection, PROFILES, PROFILES.c.digest == digest)

    def use_profile(self, digest: str) -> bool:
        """Note that a profile is used; False when there is none of that digest."""
        with self._transaction() as connection:
            same = PROFILES.c.digest == digest
            used = connection.execute(sa.select(PROFILES.c.used).where(same)).scalar()
            if used is not None:
                self._note_use(connection, PROFILES, same, used)
            return used is not None

    def profile_info(self, digest: str) -> StoredProfile | None:
        """What is known of a profile, None when there is none of that digest."""
        found = self.profile_infos("", 1, digest)
        return found[0] if found else None

    def profile_infos(self, after: str, most: int, digest: str | None = None) -> list[StoredProfile]:
        """Profiles by digest, those after `after`."""
        columns = PROFILES.c.info, PROFILES.c.created, PROFILES.c.used
        query = sa.select(*columns).where(PROFILES.c.digest > after).order_by(PROFILES.c.digest).limit(most)
        if digest is not None:
            query = query.where(PROFILES.c.digest == digest)
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_info(*row) for row in rows]

    def delete_profile(self, digest: str) -> bool:
        """Remove a profile; False when there was none."""
        with self._transaction() as connection:
            return connection.execute(sa.delete(PROFILES).where(PROFILES.c.digest == digest)).rowcount > 0

    def outcome(self, problem: str) -> bytes | None:
        """The proven outcome of the problem of that digest, None when it is not known to this version."""
        with self._transaction() as connection:
            return self._content(connection, RESULTS, _result(problem))

    def put_outcome(self, problem: str, content: bytes) -> None:
        """Keep a proven outcome."""
        row = {
            "problem": problem,
            "version": VERSION,
            "content": content,
            "size_bytes": len(content),
            "used": int(time.time()),
        }
        self._insert(RESULTS, row, _result(problem))

    def _insert(self, table: sa.Table, row: dict[str, Any], same: sa.ColumnElement[bool]) -> bool:
        try:
            with self._transaction() as connection:
                connection.execute(sa.insert(table).values(row))
        except sa.exc.IntegrityError:  # it is there: content-addressed, so it is the same
            with self._transaction() as connection:
                connection.execute(sa.update(table).where(same).values(used=row["used"]))
            return False
        return True

    def _content(self, connection: sa.Connection, table: sa.Table, same: sa.ColumnElement[bool]) -> bytes | None:
        row = connection.execute(sa.select(table.c.content, table.c.used).where(same)).first()
        if row is None:
            return None
        self._note_use(connection, table, same, row.used)
        return bytes(row.content)

    def _note_use(self, connection: sa.Connection, table: sa.Table, same: sa.ColumnElement[bool], used: int) -> None:
        now = int(time.time())
        if used < now - _HOUR:  # to the hour: reading must not write each time
            connection.execute(sa.update(table).where(same).values(used=now))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise ServiceUnavailable("the server's store does not answer; try again later") from error


def _make_folder(file: str | None) -> None:
    if not file:
        raise InvalidInput(Fault("database", "names no file; write sqlite:///FILE"))
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(Fault("database", f"{Path(file).parent} can't be made: {error.strerror}")) from error


def _result(problem: str) -> sa.ColumnElement[bool]:
    return sa.and_(RESULTS.c.problem == problem, RESULTS.c.version == VERSION)


def _info(content: bytes, created: int, used: int) -> StoredProfile:
    info = profile_service_pb2.ProfileInfo.FromString(content)
    info.created.FromSeconds(created)
    info.used.FromSeconds(used)
    return stored_from_proto(info)


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
