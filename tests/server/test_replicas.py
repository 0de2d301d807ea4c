"""Several servers on one PostgreSQL: equal questions are searched for once, and a server that goes loses no call."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import sqlalchemy as sa

from raq_client import connect
from raq_client.solver_client.remote import Client
from raq_proto.question import ProfileProblem
from raq_server import RunningServer
from raq_server.store import async_store, claims
from raq_server.store.claims import Claims
from raq_server.store.database import Database, engine_of
from raq_server.store.migrations import migrate
from raq_server.store.retention import clean
from raq_server.store.schema import ANSWERS, CLAIMS, PROFILES
from raq_solver.allocation import Allocation
from raq_solver.budget import TotalBytes
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.questions.sweep import sweep
from raq_solver.solve import solve
from support.killed import Forked
from support.services import Postgres, general_problem, hard_problem, problem, profile, serving, wait_until

KEY = "0" * 64
REPLICAS, CLIENTS, SECONDS, EVERY, PAUSE = 3, 8, 60.0, 2.0, 0.05
SIZES = range(300, 1200, 50)


@pytest.fixture
def url(postgres: Postgres) -> str:
    engine = engine_of(postgres.url)
    for last in (False, False, True):  # a new connection may take more than the 5 s that servers wait, with all tests
        try:
            migrate(engine)
            break
        except InvalidInput:
            if last:
                raise
    with engine.begin() as connection:
        for table in (ANSWERS, PROFILES, CLAIMS):
            connection.execute(sa.delete(table))
    engine.dispose()
    return postgres.url


@pytest.fixture
def pair(url: str) -> Iterator[tuple[RunningServer, RunningServer]]:
    with serving(database=url, workers=2) as one, serving(database=url, workers=2) as other:
        yield one, other


@pytest.fixture
def databases(url: str) -> Iterator[tuple[Database, Database]]:
    one, other = Database(engine_of(url)), Database(engine_of(url))
    yield one, other
    one.close()
    other.close()


def searches(*servers: RunningServer) -> int:
    """The number of searches that have ended."""
    return sum(
        int(sample.value)
        for server in servers
        for metric in server.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "raq_solve_seconds_count"
    )


def calls(server: RunningServer) -> float:
    return server.metrics.registry.get_sample_value("raq_call_seconds_count", {"method": "Solve", "code": "OK"}) or 0.0


def test_equal_questions_of_two_servers_are_searched_for_once(pair: tuple[RunningServer, RunningServer]) -> None:
    with connect(pair[0].address) as one, connect(pair[1].address) as other, ThreadPoolExecutor(8) as threads:
        for seed in range(20):
            asked = problem(tensors=200, types=8, seed=seed)
            found = list(threads.map(lambda client, asked=asked: client.solve(asked), [one, other] * 4))
            assert {each.ledger for each in found} == {solve(asked).ledger}
    assert searches(*pair) == 20


def test_one_claims_and_the_other_gets_its_answer(databases: tuple[Database, Database]) -> None:
    one, other = databases
    assert one.answers_or_claim(KEY) == (None, True)
    assert other.answers_or_claim(KEY) == (None, False)
    assert one.answers_or_claim(KEY) == (None, False)  # another call of the same server
    one.put_answers({KEY: (b"answer",)})
    one.release_claims([KEY])
    assert other.answers_or_claim(KEY) == ((b"answer",), False)


def test_a_claim_that_is_released_without_answer_is_taken(databases: tuple[Database, Database]) -> None:
    one, other = databases
    assert one.answers_or_claim(KEY)[1]
    other.release_claims([KEY])  # it is not its own
    assert not other.answers_or_claim(KEY)[1]
    one.release_claims([KEY])
    assert other.answers_or_claim(KEY)[1]


def test_of_many_that_ask_at_once_one_claims(url: str) -> None:
    several = [Database(engine_of(url)) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for round_ in range(20):
            key = f"{round_:064}"
            found = list(threads.map(lambda database, key=key: database.answers_or_claim(key)[1], several))
            assert found.count(True) == 1
    for database in several:
        database.close()


def test_a_claim_that_nobody_renews_ends(
    databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    one, other = databases
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.3)
    assert one.answers_or_claim(KEY)[1]
    wait_until(lambda: other.answers_or_claim(KEY)[1])
    one.renew_claims([KEY])  # too late: it is the other's
    assert not one.answers_or_claim(KEY)[1]
    monkeypatch.setattr(claims, "LEASE_SECONDS", 60.0)
    other.renew_claims([KEY])
    time.sleep(0.4)
    assert not one.answers_or_claim(KEY)[1]
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.update(CLAIMS).values(until=sa.text("now() - interval '2 hours'")))
    clean(engine, 30, None, 2**40)
    with engine.connect() as connection:
        assert not connection.execute(sa.select(CLAIMS)).all()
    engine.dispose()


def test_a_server_that_searches_goes_on_claiming(
    pair: tuple[RunningServer, RunningServer], databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a lease; when the search has ended, so has the claim."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)  # a busy machine may keep the server from renewing for a second
    monkeypatch.setattr(async_store, "RENEW_SECONDS", 0.2)
    with connect(pair[0].address) as client, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(client.solve, hard_problem(), Limits(3.5))
        wait_until(lambda: bool(claimed(databases[0])))
        (key,) = claimed(databases[0])
        began = time.monotonic()
        while time.monotonic() < began + claims.LEASE_SECONDS + 0.5:
            assert databases[1].answers_or_claim(key) == (None, False)
            time.sleep(0.1)
        assert asking.result().termination is Termination.FEASIBLE
    wait_until(lambda: not claimed(databases[0]))


def claimed(database: Database) -> list[str]:
    with database._engine.connect() as connection:
        return list(connection.execute(sa.select(CLAIMS.c.request)).scalars())


def test_waiting_leaves_half_of_the_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server has claimed every request and answers none: a call still gets a proven answer in time."""
    monkeypatch.setattr(Claims, "take", lambda *_: False)
    with serving(database=url, search_seconds=1.0) as running, connect(running.address) as client:
        began = time.monotonic()
        assert client.solve(problem()).termination is Termination.OPTIMAL
        assert time.monotonic() - began > 0.4


def test_calls_that_a_stopping_server_cannot_finish_go_to_another(url: str) -> None:
    with (
        serving(database=url) as staying,
        serving(database=url, grace_seconds=0.0) as first,
        connect(f"{first.address},{staying.address}") as client,
        ThreadPoolExecutor(2) as threads,
    ):
        wait_until(lambda: bool(client.solve(problem())) and calls(first) > 0)  # until it is connected with both
        asking = [threads.submit(client.solve, general_problem(seed), Limits(1.0)) for seed in range(2)]
        wait_until(lambda: first.metrics.busy._value.get() > 0)
        first.stop()
        for each in asking:
            assert each.result().termination in {Termination.FEASIBLE, Termination.OPTIMAL}


class Load:
    """Clients that put profiles and ask questions, each answer compared with one found in this process."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.stored: dict[str, int] = {}
        self.slowest = 0.0

    def run(self, number: int) -> None:
        chosen = random.Random(number)
        with connect(self._servers) as client:
            while not self.stop.is_set():
                # Of few seeds, so that several clients ask the same at about the same time.
                seed, kind = int(time.monotonic() / 0.2) % 500 + chosen.randrange(3), chosen.randrange(4)
                began = time.monotonic()
                try:
                    right = (self._solved, self._swept, self._put, self._by_digest)[kind](client, seed)
                except Exception as error:  # noqa: BLE001  # counted and shown
                    self.lost.append(repr(error))
                    continue
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.counts[("solve", "sweep", "put", "digest")[kind]] += 1
                time.sleep(PAUSE)  # the processors are the servers' too
                if not right:
                    self.wrong.append(f"{kind} {seed}")

    def _solved(self, client: Client, seed: int) -> bool:
        return _same(client.solve(problem(tensors=60, types=6, seed=seed)), _answer(seed))

    def _swept(self, client: Client, seed: int) -> bool:
        found = client.sweep(problem(tensors=30, types=4, seed=seed), [TotalBytes(size) for size in SIZES])
        return [point.allocation for point in found] == _curve(seed)

    def _put(self, client: Client, seed: int) -> bool:
        made = profile(seed=seed)
        digest = client.put_profile(made).digest
        self.stored[digest] = seed
        return bool(digest == made.digest())

    def _by_digest(self, client: Client, seed: int) -> bool:
        made = profile(seed=seed)
        digest = client.put_profile(made).digest
        return _same(client.solve(ProfileProblem(digest, TotalBytes(4500))), _answer_by_digest(seed))


# Found once for all clients: the processors are the servers' too.


@cache
def _answer(seed: int) -> Outcome:
    return solve(problem(tensors=60, types=6, seed=seed))


@cache
def _curve(seed: int) -> list[Allocation | None]:
    return [point.allocation for point in sweep(problem(tensors=30, types=4, seed=seed), list(SIZES))]


@cache
def _answer_by_digest(seed: int) -> Outcome:
    made = profile(seed=seed)
    return solve(ProfileProblem(made.digest(), TotalBytes(4500)).problem(lambda _digest: made))


def _same(found: Outcome, wanted: Outcome) -> bool:
    return (found.termination, found.ledger) == (wanted.termination, wanted.ledger)


class Replicas:
    """Servers of which one is killed every two seconds by the clock; each is started again beside it.

    One at least is left serving: a kill waits for a second one.
    """

    def __init__(self, url: str) -> None:
        self._url, self._chosen = url, random.Random(5)
        self.servers = [Forked(url, "--workers", "2") for _ in range(REPLICAS)]
        self.addresses = [server.address for server in self.servers]
        self._up, self.starts, self.late, self.refused = set(range(REPLICAS)), list[float](), 0.0, 0

    def kill_by_the_clock(self) -> float:
        """Kill for `SECONDS`; the seconds that the kills took."""
        began = time.monotonic()
        with ThreadPoolExecutor(REPLICAS) as starting:
            for number in range(round(SECONDS / EVERY)):
                time.sleep(max(0.0, began + number * EVERY - time.monotonic()))
                wait_until(lambda: len(self._up) > 1, 180)
                self.late = max(self.late, time.monotonic() - began - number * EVERY)
                place = self._chosen.choice(sorted(self._up))
                self._up.remove(place)
                self.servers[place].kill()
                starting.submit(self._start, place)
            took = time.monotonic() - began
            time.sleep(max(0.0, SECONDS - took))
        return took

    def _start(self, place: int) -> None:
        """Start a server again, and again where it ends by itself: on a busy machine the database may not answer."""
        began = time.monotonic()
        while True:
            server = Forked(self._url, "--workers", "2", "--address", self.addresses[place])
            if server.address == self.addresses[place]:
                break
            server.kill()
            self.refused += 1
        self.servers[place] = server
        self.starts.append(round(time.monotonic() - began, 1))
        self._up.add(place)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_servers_of_which_one_is_killed_every_two_seconds(url: str) -> None:
    """For a minute: no wrong answer, no call lost, nothing that was acknowledged lost."""
    replicas = Replicas(url)
    load = Load(",".join(replicas.addresses))
    threads = [threading.Thread(target=load.run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        took = replicas.kill_by_the_clock()
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    with connect(replicas.addresses[0]) as client:
        kept = {each.digest for each in client.profiles()}
    for server in replicas.servers:
        server.kill()
    print(f"{len(replicas.starts)} kills in {took:.1f} s, the latest {replicas.late:.1f} s late")
    print(f"{replicas.refused} starts failed, {len(load.lost)} calls lost, {len(load.wrong)} wrong")
    print(f"starts: {sorted(replicas.starts)} s; {dict(load.counts)}, slowest {load.slowest:.1f} s")
    assert not load.wrong
    assert not load.lost
    assert len(replicas.starts) == SECONDS / EVERY, "a server did not start again"
    assert set(load.stored) <= kept
    assert min(load.counts[kind] for kind in ("solve", "sweep", "put", "digest")) > 20
