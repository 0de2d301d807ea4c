"""Profiles and proven answers in a database: SQLite in one file, or PostgreSQL shared by several servers.

Rules
- When a method has returned, its change is on disk (SQLite: WAL, every commit synced).
- A database that does not answer raises ServiceUnavailable; the next call tries again.
"""

import math
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url

from raq_proto.convert import stored_from_proto, stored_to_proto
from raq_proto.errors import StoreFull
from raq_proto.question import StoredProfile
from raq_proto.v1 import profile_service_pb2
from raq_server.store.claims import Claims
from raq_server.store.retention import stored_bytes
from raq_server.store.schema import ANSWERS, PROFILES
from raq_solver.errors import Fault, InvalidInput, ServiceUnavailable

VERSION: Final = version("raq")
_HOUR: Final = 3600
_POSTGRES: Final = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "options": "-c statement_timeout=20000"}
"""Seconds to connect, milliseconds for the network and a statement: a database that hangs must not hang the server."""
_LENGTH: Final = struct.Struct(">I")
_DISK_FULL: Final = ("disk is full", "DiskFull", "No space left on device")
"""What SQLite and PostgreSQL say where there is no room."""
_RECOUNT_SECONDS: Final = 30.0
_RECOUNT_FULL_SECONDS: Final = 1.0
_VERSIONS: Final = sa.table("alembic_version", sa.column("version_num"))
"""One row, written with what it holds to see whether the database can be written."""
_SQLITE: Final = {"timeout": 20}
"""Seconds to wait for another process's write."""


_FIND_ANSWERS: Final = sa.select(ANSWERS.c.content, ANSWERS.c.used).where(
    ANSWERS.c.request == sa.bindparam("of"), ANSWERS.c.version == sa.bindparam("by")
)
"""Built once: it runs before every search, and building it takes longer than running it."""


def engine_of(url: str) -> sa.Engine:
    """The engine for a URL, not yet connected. Raises InvalidInput for anything but SQLite and PostgreSQL."""
    parsed = make_url(url)
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


class Database:
    """Profiles and proven answers of at most `limit_bytes` together (None: no limit).

    Thread-safe. Every method may block, and raises ServiceUnavailable, or StoreFull where there is no room.
    """

    def __init__(self, engine: sa.Engine, limit_bytes: int | None = None) -> None:
        self._engine = engine
        self._limit = limit_bytes
        self._stored, self._counted = 0, -math.inf
        """The bytes of all contents, and when they were counted; others may write meanwhile."""
        self._file: tuple[Path, int] | None = None
        """The file of SQLite, and its inode when it was opened."""
        self._claims = Claims(VERSION)
        self.shared: Final = engine.dialect.name == "postgresql"
        """Whether several servers may use it at the same time, and claim what they search for."""

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ping(self) -> None:
        """Check that the database can be written."""
        with self._transaction() as connection:
            connection.execute(sa.update(_VERSIONS).values(version_num=_VERSIONS.c.version_num))

    def put_profile(self, stored: StoredProfile, content: bytes) -> bool:
        """Keep a profile; `content` is its message. False if it was stored already."""
        row = {
            "digest": stored.digest,
            "info": stored_to_proto(stored).SerializeToString(),
            "content": content,
            "size_bytes": stored.size_bytes,
            "created": int(stored.created.timestamp()),
            "used": int(stored.used.timestamp()),
        }
        if self.use_profile(stored.digest):  # also where there is no room for another
            return False
        self._require_room(len(content))
        return self._insert(PROFILES, row, PROFILES.c.digest == stored.digest)

    def profile(self, digest: str) -> bytes | None:
        """The message of a profile; None if no profile has that digest."""
        with self._transaction() as connection:
            return self._content(connection, PROFILES, PROFILES.c.digest == digest)

    def profile_part(self, digest: str, start: int, length: int) -> bytes | None:
        """Bytes of the message of a profile, empty beyond its end; None if no profile has that digest."""
        part = sa.func.substr(PROFILES.c.content, start + 1, length, type_=sa.LargeBinary)
        with self._transaction() as connection:
            found = connection.execute(sa.select(part).where(PROFILES.c.digest == digest)).first()
        return None if found is None else bytes(found[0])

    def use_profile(self, digest: str) -> bool:
        """Note that a profile was used; False if no profile has that digest."""
        with self._transaction() as connection:
            same = PROFILES.c.digest == digest
            used = connection.execute(sa.select(PROFILES.c.used).where(same)).scalar()
            if used is not None:
                self._note_use(connection, PROFILES, same, used)
            return used is not None

    def profile_info(self, digest: str) -> StoredProfile | None:
        """The description of a profile; None if no profile has that digest."""
        found = self.profile_infos("", 1, digest)
        return found[0] if found else None

    def profile_infos(self, after: str, most: int, digest: str | None = None) -> list[StoredProfile]:
        """Descriptions of at most `most` profiles by rising digest, beginning after the digest `after`."""
        columns = PROFILES.c.info, PROFILES.c.created, PROFILES.c.used
        query = sa.select(*columns).where(PROFILES.c.digest > after).order_by(PROFILES.c.digest).limit(most)
        if digest is not None:
            query = query.where(PROFILES.c.digest == digest)
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_info(*row) for row in rows]

    def delete_profile(self, digest: str) -> bool:
        """Remove a profile; False if there was none."""
        with self._transaction() as connection:
            return connection.execute(sa.delete(PROFILES).where(PROFILES.c.digest == digest)).rowcount > 0

    def answers(self, request: str) -> tuple[bytes, ...] | None:
        """The proven answers to the request of that digest; None if this version has none."""
        with self._transaction() as connection:
            row = connection.execute(_FIND_ANSWERS, {"of": request, "by": VERSION}).first()
            if row is None:
                return None
            self._note_use(connection, ANSWERS, _of_request(request), row.used)
        return tuple(_unpacked(row.content))

    def answers_or_claim(self, request: str) -> tuple[tuple[bytes, ...] | None, bool]:
        """The proven answers to a request; if there are none, whether this server may search for them now.

        For a shared database.
        """
        found = self.answers(request)
        if found is not None:
            return found, False
        with self._transaction() as connection:
            if not self._claims.take(connection, request):
                return None, False
            # Its last owner may have stored its answers, and so ended its claim, since they were looked for.
            row = connection.execute(_FIND_ANSWERS, {"of": request, "by": VERSION}).first()
            if row is None:
                return None, True
            self._claims.release(connection, [request])
        return tuple(_unpacked(row.content)), False

    def renew_claims(self, requests: Collection[str]) -> None:
        """Go on claiming requests that this server searches for."""
        with self._transaction() as connection:
            self._claims.renew(connection, requests)

    def release_claims(self, requests: Collection[str]) -> None:
        """End this server's claims of requests."""
        with self._transaction() as connection:
            self._claims.release(connection, requests)

    def put_answers(self, batch: Mapping[str, Iterable[bytes]]) -> None:
        """Keep the proven answers to several requests, by their digests. Requests that have answers keep them.

        A full store keeps none.
        """
        now = int(time.time())
        contents = {request: _packed(answers) for request, answers in batch.items()}
        rows = [
            {"request": request, "version": VERSION, "content": content, "size_bytes": len(content), "used": now}
            for request, content in contents.items()
        ]
        try:
            self._require_room(sum(map(len, contents.values())))
        except StoreFull:  # they are computed again
            return
        if self._engine.dialect.name == "sqlite":
            insert: Any = sqlite.insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415  # imports for 0.1 s
        with self._transaction() as connection:
            connection.execute(insert(ANSWERS).on_conflict_do_nothing(), rows)

    def _insert(self, table: sa.Table, row: dict[str, Any], same: sa.ColumnElement[bool]) -> bool:
        try:
            with self._transaction() as connection:
                connection.execute(sa.insert(table).values(row))
        except sa.exc.IntegrityError:  # the row exists; its key is a digest, so its content is the same
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
        if used < now - _HOUR:  # to the hour, so that not every read writes
            connection.execute(sa.update(table).where(same).values(used=now))

    def _require_room(self, size: int) -> None:
        """Count bytes that will be written. Raises StoreFull if they would be more than the limit."""
        if self._limit is None:
            return
        age = time.monotonic() - self._counted
        if age > _RECOUNT_SECONDS or (self._stored + size > self._limit and age > _RECOUNT_FULL_SECONDS):
            with self._named():
                self._stored, self._counted = stored_bytes(self._engine), time.monotonic()
        if self._stored + size > self._limit:
            what = f"the store holds {self._stored:,} of at most {self._limit:,} bytes"
            raise StoreFull(f"{what}; its operator can make room with raq-server clean, or raise store_limit_bytes")
        self._stored += size

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._named(), self._engine.begin() as connection:
            self._check_file()
            yield connection

    def _check_file(self) -> None:
        """Raise ServiceUnavailable if SQLite's file was removed or replaced: what is written would be lost."""
        name = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or not name or name == ":memory:":
            return
        try:
            inode = Path(name).stat().st_ino
        except FileNotFoundError:
            inode = 0
        self._file = self._file or (Path(name), inode)
        if self._file[1] != inode:
            what = "the file of the server's store was removed or replaced while the server ran; start it again"
            raise ServiceUnavailable(what)

    @staticmethod
    @contextmanager
    def _named() -> Iterator[None]:
        """Turn errors of the driver into those of the service."""
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if any(words in str(error) for words in _DISK_FULL):
                raise StoreFull("the disk of the server's store is full; try again later") from error
            raise ServiceUnavailable("the server's store does not answer; try again later") from error


def _make_folder(file: str | None) -> None:
    if not file:
        raise InvalidInput(Fault("database", "names no file; write sqlite:///FILE"))
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(Fault("database", f"{Path(file).parent} can't be made: {error.strerror}")) from error


def _of_request(request: str) -> sa.ColumnElement[bool]:
    return sa.and_(ANSWERS.c.request == request, ANSWERS.c.version == VERSION)


def _packed(answers: Iterable[bytes]) -> bytes:
    return b"".join(part for answer in answers for part in (_LENGTH.pack(len(answer)), answer))


def _unpacked(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size + length
        yield content[start - length : start]


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
