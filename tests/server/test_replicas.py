"""Several servers on one PostgreSQL: equal questions are searched for once, and a server that goes loses no call."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
from raq_solver.budget import TotalBytes
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.questions.sweep import sweep
from raq_solver.solve import solve
from support.killed import Killed
from support.services import Postgres, general_problem, hard_problem, problem, profile, serving, wait_until

KEY = "0" * 64
REPLICAS, CLIENTS, SECONDS, EVERY, PAUSE = 3, 8, 60.0, 2.0, 0.05


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
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(async_store, "RENEW_SECONDS", 0.2)
    with connect(pair[0].address) as client, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(client.solve, hard_problem(), Limits(2.0))
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
        asked = problem(tensors=60, types=6, seed=seed)
        return _same(client.solve(asked), solve(asked))

    def _swept(self, client: Client, seed: int) -> bool:
        asked, sizes = problem(tensors=30, types=4, seed=seed), range(300, 1200, 50)
        found = client.sweep(asked, [TotalBytes(size) for size in sizes])
        return [point.allocation for point in found] == [point.allocation for point in sweep(asked, list(sizes))]

    def _put(self, client: Client, seed: int) -> bool:
        made = profile(seed=seed)
        digest = client.put_profile(made).digest
        self.stored[digest] = seed
        return bool(digest == made.digest())

    def _by_digest(self, client: Client, seed: int) -> bool:
        made = profile(seed=seed)
        digest = client.put_profile(made).digest
        asked = ProfileProblem(digest, TotalBytes(4500))
        return _same(client.solve(asked), solve(asked.problem(lambda _digest: made)))


def _same(found: Outcome, wanted: Outcome) -> bool:
    return (found.termination, found.ledger) == (wanted.termination, wanted.ledger)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_servers_of_which_one_is_killed_every_two_seconds(url: str) -> None:
    """For a minute: no wrong answer, no call lost, nothing that was acknowledged lost. One at least is left each time,
    and one that was killed is started again at once."""
    settings = ("--workers", "2")
    servers = [Killed(url, *settings) for _ in range(REPLICAS)]
    addresses = [server.address for server in servers]
    load, chosen, kills = Load(",".join(addresses)), random.Random(5), 0
    up = set(range(REPLICAS))

    def start(place: int) -> None:
        servers[place] = Killed(url, *settings, "--address", addresses[place])
        up.add(place)

    starting = ThreadPoolExecutor(REPLICAS)
    threads = [threading.Thread(target=load.run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        due = time.monotonic() + EVERY
        wait_until(lambda: len(up) > 1)
        place = chosen.choice(sorted(up))
        up.remove(place)
        servers[place].kill()
        kills += 1
        starting.submit(start, place)
        time.sleep(max(0.0, due - time.monotonic()))
    load.stop.set()
    for thread in threads:
        thread.join()
    starting.shutdown()
    with connect(addresses[0]) as client:
        kept = {each.digest for each in client.profiles()}
    for server in servers:
        server.kill()
    print(f"{kills} kills, {dict(load.counts)}, slowest {load.slowest:.1f} s, lost {load.lost[:3]}")
    assert not load.wrong
    assert not load.lost
    assert set(load.stored) <= kept
    assert kills > 10  # a start may take longer than two seconds
    assert min(load.counts[kind] for kind in ("solve", "sweep", "put", "digest")) > 20
