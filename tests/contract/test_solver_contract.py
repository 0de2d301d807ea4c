"""What every way of solving must do: in this process and over gRPC alike."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from raq_client import connect, connect_async
from raq_client.solver_client.remote_async import AsyncClient
from raq_solver.constraints import Ceiling, Exclude, Floor, Pin, Source, Tie
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.solve import Solver
from raq_solver.solve import solve as solve_here
from support.services import Certificates, serving

NAMES = ("a", "b", "c", "d")
TYPES = ("Q2", "Q4", "Q8")


@pytest.fixture(scope="module", params=["in process", "TCP", "unix socket", "mutual TLS", "asyncio", "PostgreSQL"])
def solve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Solver]:
    if request.param == "in process":
        yield solve_here
        return
    with ExitStack() as opened:
        if request.param == "asyncio":
            yield opened.enter_context(from_asyncio(request.getfixturevalue("server_apart")[0]))
            return
        settings: dict[str, object] = {}
        shown: dict[str, Any] = {}
        if request.param == "unix socket":
            settings = {"address": f"unix:{tmp_path_factory.mktemp('socket')}/raq"}
        if request.param == "mutual TLS":
            made: Certificates = request.getfixturevalue("certificates")
            settings = {"certificate": made.server, "private_key": made.server_key, "client_ca": made.authority}
            shown = {"root_certificates": made.authority, "certificate": made.client, "private_key": made.client_key}
        if request.param == "PostgreSQL":
            settings = {"database": request.getfixturevalue("postgres").url}
        running = opened.enter_context(serving(**settings))
        yield opened.enter_context(connect(running.address, **shown)).solve


@contextmanager
def from_asyncio(address: str) -> Iterator[Solver]:
    with asyncio.Runner() as runner:

        async def opened() -> AsyncClient:
            return connect_async(address)

        client = runner.run(opened())
        yield lambda problem, limits: runner.run(client.solve(problem, limits))
        runner.run(client.close())


def table(seed: int = 1, tensors: int = 4) -> LossTable:
    random = np.random.default_rng(seed)
    weights = random.integers(1, 50, tensors) * 8
    sizes = np.stack([weights * bits // 8 for bits in (2, 4, 8)], axis=1)
    losses = np.sort(random.gamma(1.0, size=(tensors, 3)), axis=1)[:, ::-1].copy()
    names = tuple(NAMES[:tensors]) if tensors <= 4 else tuple(f"t{i}" for i in range(tensors))
    return LossTable(names, TYPES, weights, sizes, losses, "made up")


def test_optimum_equals_brute_force(solve: Solver) -> None:
    for seed in range(5):
        t = table(seed)
        capacity = int(t.sizes.sum(axis=1).sum() // 3)
        grid = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
        sizes = t.sizes[range(4), grid].sum(axis=1)
        losses = t.losses[range(4), grid].sum(axis=1)
        outcome = solve(Problem(t, capacity), Limits())
        assert outcome.termination is Termination.OPTIMAL
        assert outcome.ledger is not None
        assert outcome.ledger.size <= capacity
        assert outcome.ledger.loss == pytest.approx(losses[sizes <= capacity].min(), rel=1e-12)
        assert outcome.gap is not None
        assert outcome.gap <= 1e-9


def test_infeasible_is_an_outcome(solve: Solver) -> None:
    t = table()
    least = int(t.sizes.min(axis=1).sum())
    outcome = solve(Problem(t, least - 1), Limits())
    assert outcome.termination is Termination.INFEASIBLE
    assert outcome.allocation is None
    assert outcome.ledger is None
    assert outcome.bound is None
    assert outcome.least_bytes == least
    with pytest.raises(InvalidInput, match=f"{least:,}"):
        outcome.unwrap()


def test_exact_fit_is_found(solve: Solver) -> None:
    t = table()
    outcome = solve(Problem(t, int(t.sizes.min(axis=1).sum())), Limits())
    assert outcome.termination is Termination.OPTIMAL
    assert outcome.ledger is not None
    assert outcome.ledger.slack == 0


def test_constraints_hold(solve: Solver) -> None:
    t = table()
    constraints = (
        Pin(("a",), "Q8", Source.USER, "head"),
        Floor(("b",), Fraction(4), Source.ARCHITECTURE, "recurrent"),
        Ceiling(("b",), Fraction(4)),
        Exclude(("c",), ("Q2", "Q8"), Source.DATA, "ratio"),
        Tie(("c", "d")),
    )
    outcome = solve(Problem(t, int(t.sizes.max(axis=1).sum()), constraints), Limits())
    assert outcome.allocation is not None
    assert dict(outcome.allocation.types) == {"a": "Q8", "b": "Q4", "c": "Q4", "d": "Q4"}


def test_all_faults_at_once(solve: Solver) -> None:
    t = table()
    with pytest.raises(InvalidInput) as caught:
        solve(Problem(t, 10**6, (Pin(("x",), "Q9"), Tie(("a", "y")))), Limits())
    assert len(caught.value.faults) == 3


def test_the_same_answer_twice(solve: Solver) -> None:
    problem = Problem(table(3, 40), 2_000)
    first, second = solve(problem, Limits()), solve(problem, Limits())
    assert first.allocation == second.allocation
    assert first.bound == second.bound
    assert first.multiplier == second.multiplier


def test_local_and_remote_agree_to_the_last_bit(server_address: str) -> None:
    problem = Problem(table(7, 60), 4_000)
    with connect(server_address) as remote:
        over_wire = remote.solve(problem)
    here = solve_here(problem, Limits())
    assert (over_wire.ledger, over_wire.bound, over_wire.multiplier) == (here.ledger, here.bound, here.multiplier)
