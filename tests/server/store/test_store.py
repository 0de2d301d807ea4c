"""The store: what was put is there, under its digest, in SQLite and in PostgreSQL; what is old goes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import alembic.autogenerate
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext

from raq_client import connect
from raq_proto.convert import profile_to_proto
from raq_proto.errors import StoreFull, UnknownProfile
from raq_proto.question import ProfileProblem, StoredProfile
from raq_server.store import async_store, migrations
from raq_server.store.async_store import AsyncStore
from raq_server.store.database import Database, engine_of
from raq_server.store.migrations import migrate
from raq_server.store.retention import clean
from raq_server.store.schema import ANSWERS, METADATA, PROFILES
from raq_server.telemetry.metrics import Metrics
from raq_server.workers.profiles import described
from raq_solver.budget import BitsPerWeight, TotalBytes, parse_budget
from raq_solver.errors import InvalidInput, ServiceUnavailable
from raq_solver.profile import Profile
from raq_solver.solve import solve
from support.services import Postgres, problem, profile, serving, wait_until


@pytest.fixture
def emptied_postgres(postgres: Postgres) -> Iterator[Postgres]:
    """The one PostgreSQL of all tests, without tables for the next of them."""
    yield postgres
    engine = engine_of(postgres.url)
    METADATA.drop_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/deep/down/store.sqlite"
        return
    found: Postgres = request.getfixturevalue("emptied_postgres")
    yield found.url


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = engine_of(url)
    migrate(engine)
    with engine.begin() as connection:  # the tests share one PostgreSQL, in any order
        for table in (ANSWERS, PROFILES):
            connection.execute(sa.delete(table))
    yield engine
    engine.dispose()


def test_profiles_are_found_by_their_content(url: str) -> None:
    made = [profile(seed=seed) for seed in range(3)]
    with serving(database=url) as running, connect(running.address) as client:
        stored = [client.put_profile(each) for each in made]
        again = client.put_profile(made[0])
        assert [each.digest for each in stored] == [each.digest() for each in made]
        assert replace(again, used=stored[0].used) == stored[0]
        assert stored[0].weights == 4 * 256 * 8
        assert stored[0].provenance == {"model": "made up 0"}
        assert [each.digest for each in client.profiles()] == sorted(each.digest() for each in made)
        assert client.profile(made[1].digest()).digest() == made[1].digest()
        assert client.delete_profile(made[1].digest())
        assert not client.delete_profile(made[1].digest())
        with pytest.raises(UnknownProfile, match="put it first"):
            client.profile(made[1].digest())
        with pytest.raises(InvalidInput, match="64 hexadecimal digits"):
            client.profile("../../etc/passwd")
    with serving(database=url) as running, connect(running.address) as client:  # another server, the same store
        assert client.profile(made[2].digest()).digest() == made[2].digest()


def test_a_full_store_still_knows_what_it_holds(engine: sa.Engine) -> None:
    """Putting a profile again needs no room."""
    first, second = (_message(profile(seed=seed)) for seed in range(2))
    database = Database(engine, limit_bytes=len(first[1]) + 10)
    assert database.put_profile(*first)
    with pytest.raises(StoreFull):
        database.put_profile(*second)
    assert not database.put_profile(*first)


def _message(made: Profile) -> tuple[StoredProfile, bytes]:
    content = profile_to_proto(made).SerializeToString()
    return described(made, len(content)), content


def test_a_digest_is_solved_like_its_profile(url: str) -> None:
    made = profile()
    asked = ProfileProblem(made.digest(), parse_budget("4.5"))
    here = solve(asked.problem(lambda _digest: made))
    with serving(database=url) as running, connect(running.address) as client:
        with pytest.raises(UnknownProfile):
            client.solve(asked)
        client.put_profile(made)
        there = client.solve(asked)
        inline = client.solve(ProfileProblem(made, BitsPerWeight(asked.budget.bits)))  # type: ignore[union-attr]
    assert there.ledger == here.ledger == inline.ledger
    assert there.bound == here.bound


def stored(url: str) -> int:
    """The number of stored answers."""
    engine = engine_of(url)
    with engine.connect() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(ANSWERS)).scalar_one()
    engine.dispose()
    return int(count)


def test_streamed_answers_survive_a_restart_too(url: str) -> None:
    asked, wanted = problem(seed=8), [TotalBytes(size) for size in (30, 40, 50)]
    with serving(database=url) as running, connect(running.address) as client:
        first = list(client.sweep(asked, wanted))
    with serving(database=url) as running, connect(running.address) as client:
        assert list(client.sweep(asked, wanted)) == first
        assert running.metrics.registry.get_sample_value("raq_cache_total", {"level": "store", "result": "hit"}) == 1


def test_answers_that_are_there_stay_and_one_batch_holds_both(engine: sa.Engine) -> None:
    database = Database(engine)
    database.put_answers({"0" * 64: (b"old",)})
    database.put_answers({"0" * 64: (b"new",), "1" * 64: (b"other",)})
    assert database.answers("0" * 64) == (b"old",)
    assert database.answers("1" * 64) == (b"other",)


def test_pages_of_the_list(tmp_path: Path) -> None:
    with serving(database=f"sqlite:///{tmp_path}/s") as running, connect(running.address) as client:
        digests = {client.put_profile(profile(tensors=1, seed=seed)).digest for seed in range(103)}
        assert len(digests) == 103
        assert [each.digest for each in client.profiles()] == sorted(digests)


def test_large_profiles_come_in_parts(server_address: str) -> None:
    large = profile(tensors=30_000)
    with connect(server_address) as client:
        stored = client.put_profile(large)
        assert stored.size_bytes > 2 * 2**20
        assert client.profile(stored.digest).digest() == large.digest()


def test_proven_answers_survive_a_restart(url: str) -> None:
    with serving(database=url) as running, connect(running.address) as client:
        first = client.solve(problem(seed=7))
    with serving(database=url) as running, connect(running.address) as client:
        again = client.solve(problem(seed=7))
        solved = running.metrics.registry.get_sample_value("raq_solve_seconds_count", {"termination": "OPTIMAL"})
        hits = running.metrics.registry.get_sample_value("raq_cache_total", {"level": "store", "result": "hit"})
    assert again == first
    assert solved is None
    assert hits == 1


def test_outcomes_of_another_version_are_not_answered(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(engine)
    database.put_answers({"0" * 64: (b"first", b"", b"last")})
    assert database.answers("0" * 64) == (b"first", b"", b"last")
    monkeypatch.setattr("raq_server.store.database.VERSION", "another")
    assert database.answers("0" * 64) is None


def test_migrations_make_the_tables_that_the_code_uses(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert alembic.autogenerate.compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == migrations.NEWEST


def test_tables_that_are_up_to_date_are_left_alone(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[sa.Engine] = []
    monkeypatch.setattr(migrations, "_upgrade", asked.append)
    migrate(engine)
    assert not asked
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    migrate(engine)
    assert asked == [engine]
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": migrations.NEWEST})


def test_servers_that_start_together_migrate_once(url: str) -> None:
    engines = [engine_of(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, engines))
    for engine in engines:
        Database(engine).put_answers({"1" * 64: (b"answer",)})
        engine.dispose()


def test_cleaning_removes_the_longest_unused(engine: sa.Engine) -> None:
    database, now = Database(engine), int(time.time())
    database.put_answers({f"{index:064x}": (b"x" * 96,) for index in range(10)})  # 100 bytes with its length
    with engine.begin() as connection:
        for index in range(10):
            query = sa.update(ANSWERS).where(ANSWERS.c.request == f"{index:064x}")
            connection.execute(query.values(used=now - index * 86_400))
    done = clean(engine, answers_days=6.5, profiles_days=None, limit_bytes=10**6)
    assert (done.answers, done.profiles, done.bytes_left) == (3, 0, 700)
    done = clean(engine, answers_days=30, profiles_days=None, limit_bytes=450)
    assert (done.answers, done.bytes_left) == (3, 400)
    assert database.answers(f"{0:064x}") is not None
    assert database.answers(f"{4:064x}") is None


def test_cleaning_takes_profiles_last_and_only_when_told(engine: sa.Engine, url: str) -> None:
    with serving(database=url) as running, connect(running.address) as client:
        kept = client.put_profile(profile())
    with engine.begin() as connection:
        connection.execute(sa.update(PROFILES).values(used=int(time.time()) - 365 * 86_400))
    assert clean(engine, 1, None, 10**9).profiles == 0
    assert clean(engine, 1, 100, 10**9).profiles == 1
    assert Database(engine).profile(kept.digest) is None


def test_a_database_that_stops_is_unavailable_and_comes_back(emptied_postgres: Postgres) -> None:
    postgres = emptied_postgres
    made: Profile = profile(seed=9)
    with serving(database=postgres.url) as running, connect(running.address) as client:
        client.put_profile(made)
        postgres.stop()
        try:
            with pytest.raises(ServiceUnavailable, match="store does not answer"):
                client.profile(made.digest())
            with pytest.raises(ServiceUnavailable, match="store does not answer"):
                client.solve(ProfileProblem(made.digest(), TotalBytes(10**6)))
            assert client.solve(problem(seed=11)).ledger is not None  # needs no profile
        finally:
            postgres.start()
        assert client.profile(made.digest()).digest() == made.digest()
        client.delete_profile(made.digest())


def test_the_store_is_closed_after_the_last_who_asks_it(url: str) -> None:
    engine, held = engine_of(url), set()
    sa.event.listen(engine, "connect", lambda connection, _record: held.add(id(connection)))
    sa.event.listen(engine, "close", lambda connection, _record: held.discard(id(connection)))
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with engine.connect():
            begun.set()
            go_on.wait(60)

    async def test() -> None:
        store = AsyncStore(Database(engine), Metrics())
        asking = asyncio.create_task(store.ask(slow))
        await asyncio.to_thread(begun.wait, 60)
        asking.cancel()
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.01)
        assert held
        go_on.set()
        await closing

    asyncio.run(test())
    assert not held


def test_a_call_that_ends_as_the_store_answers_has_ended(url: str) -> None:
    go_on = threading.Event()

    async def test() -> None:
        store = AsyncStore(Database(engine_of(url)), Metrics())
        asking = asyncio.create_task(store.ask(lambda: go_on.wait(60)))
        await asyncio.sleep(0.01)
        go_on.set()
        time.sleep(0.1)  # noqa: ASYNC251  # the answer and the end reach the event loop together
        asyncio.get_running_loop().call_soon(asking.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asking
        await store.close()

    asyncio.run(test())


def test_two_servers_share_a_store(url: str) -> None:
    made = profile(seed=41)
    with serving(database=url) as one, serving(database=url) as other:
        with connect(one.address) as client, connect(other.address) as second:
            digest = client.put_profile(made).digest
            assert second.profile(digest).digest() == digest
            asked = ProfileProblem(digest, TotalBytes(5000))
            answer = second.solve(asked)
            wait_until(lambda: stored(url) == 1)  # answers are written together, every now and then
            assert client.solve(asked) == answer
            assert [each.digest for each in second.profiles()] == [digest]
            assert second.delete_profile(digest)
            with pytest.raises(UnknownProfile):
                client.solve(replace(asked, budget=TotalBytes(5001)))
        labels = {"level": "store", "result": "hit"}
        assert one.metrics.registry.get_sample_value("raq_cache_total", labels) == 1


@pytest.mark.parametrize("wrong", ["mysql://host/name", "sqlite://", "sqlite:////proc/nowhere/x"])
def test_other_databases_are_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="database"):
        engine_of(wrong)


def test_a_store_that_is_locked_is_cleaned_later(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    impatient = sa.create_engine(url, connect_args={"timeout": 0.1})
    migrate(impatient)
    with impatient.connect() as writing:
        writing.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(InvalidInput, match="can't be cleaned now: database is locked; try again later"):
            clean(impatient, answers_days=1, profiles_days=None, limit_bytes=0)
    assert clean(impatient, answers_days=1, profiles_days=None, limit_bytes=0).bytes_left == 0
    impatient.dispose()


def test_tables_of_a_newer_server_are_refused(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidInput, match="version 9999, made by a newer raq-server"):
        migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :newest"), {"newest": migrations.NEWEST})


def test_a_database_that_never_answers_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="database"), serving(database=f"postgresql://raq@/x?host={tmp_path}"):
        pass


def test_a_deleted_profile_is_unknown_to_all_workers_and_use_is_noted(url: str, engine: sa.Engine) -> None:
    made = profile(seed=31)
    asked = ProfileProblem(made.digest(), TotalBytes(5000))
    with serving(database=url) as running, connect(running.address) as client:
        client.put_profile(made)
        client.solve(asked)
        with engine.begin() as connection:
            connection.execute(sa.update(PROFILES).values(used=0))
        client.solve(replace(asked, budget=TotalBytes(5001)))  # the worker holds the profile by now
        (stored,) = client.profiles()
        assert stored.used.timestamp() > time.time() - 60
        client.delete_profile(made.digest())
        with pytest.raises(UnknownProfile):
            client.solve(replace(asked, budget=TotalBytes(5002)))


def test_stopping_does_not_wait_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_store, "_END_SECONDS", 0.1)
    answering = threading.Event()

    class Hung:
        def put_answers(self, _batch: object) -> None:
            answering.wait(200)

        def close(self) -> None:
            """Nothing is open."""

    async def test() -> None:
        store = AsyncStore(Hung(), Metrics())  # type: ignore[arg-type]
        store.keep(b"key", (b"answer",))
        await asyncio.sleep(0)  # the writer begins
        async with asyncio.timeout(20):
            await store.close()
        answering.set()

    asyncio.run(test())
