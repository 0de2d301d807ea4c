"""Every question beside solving: the service answers what this process answers, to the last bit, by both clients."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raq_client import connect, connect_async
from raq_client.solver_client.remote import Client
from raq_client.solver_client.remote_async import AsyncClient
from raq_proto.convert import BudgetRange, Variant
from raq_proto.question import ProfileProblem
from raq_solver import audit, constraint_costs, explain_conflict, explain_tensor, nested_ladder, smallest_size, solve
from raq_solver.allocation import Allocation
from raq_solver.budget import TotalBytes, parse_budget
from raq_solver.constraints import AtMost, Ceiling, Floor, Pin, Region, Source, Tie
from raq_solver.errors import InvalidInput, UnknownTensor
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.questions.sweep import spaced, sweep
from raq_solver.questions.worst_case import Domains, WorstCase, WorstCaseMeasure, solve_worst_case
from raq_solver.verify import verify
from support.services import profile

NAMES = tuple(f"blk.{index}.ffn_up.weight" for index in range(6))


class Plain:
    """An asynchronous client as a plain one, so that both pass the same tests."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def ask(*arguments: Any) -> Any:
            asked = method(*arguments)
            return self._runner.run(asked if inspect.iscoroutine(asked) else gathered(asked))

        return ask


async def gathered(answers: AsyncIterator[Any]) -> list[Any]:
    return [answer async for answer in answers]


@pytest.fixture(params=["client", "asynchronous client"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "client":
        with connect(request.getfixturevalue("server_address")) as opened:
            yield opened
        return
    address, _metrics = request.getfixturevalue("server_apart")
    with asyncio.Runner() as runner:

        async def made() -> AsyncClient:
            return connect_async(address)

        plain = Plain(runner, runner.run(made()))
        yield plain
        plain.close()


@pytest.fixture
def problem() -> Problem:
    random = np.random.default_rng(3)
    weights = random.integers(1, 9, 6) * 256
    sizes = np.stack([weights * bits // 8 for bits in (2, 4, 8)], axis=1)
    losses = np.sort(random.gamma(1.0, size=(6, 3)), axis=1)[:, ::-1].copy()
    table = LossTable(NAMES, ("Q2_K", "Q4_K", "Q8_0"), weights, sizes, losses)
    constraints = (
        Floor(NAMES[:2], parse_bits(4), Source.ARCHITECTURE, "head"),
        AtMost(NAMES, 3, parse_bits(4), Source.DATA),
        Region(NAMES[2:], int(sizes[2:, 1].sum())),
    )
    return Problem(table, int(sizes[:, 1].sum() * 1.2), constraints)


def parse_bits(bits: int) -> Any:
    return parse_budget(str(bits)).bits  # type: ignore[union-attr]


def pure(problem: Problem) -> Problem:
    return replace(problem, constraints=())


def timeless(value: Any) -> Any:
    """The value without wall times, which differ."""
    changed = {name: 0.0 for name in ("seconds",) if hasattr(value, name)}
    if hasattr(value, "best"):
        changed["best"] = replace(value.best, seconds=0.0)
    return replace(value, **changed)


def test_a_method_for_every_method() -> None:
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}


def test_solve_with_side_constraints(client: Any, problem: Problem) -> None:
    assert timeless(client.solve(problem)) == timeless(solve(problem))


def test_sweep(client: Any, problem: Problem) -> None:
    capacities = spaced(500, 6000, 12)
    here = [timeless(point) for point in sweep(problem, capacities)]
    assert [timeless(point) for point in client.sweep(problem, [TotalBytes(c) for c in capacities])] == here
    spread = BudgetRange(TotalBytes(500), TotalBytes(6000), 12)
    assert [timeless(point) for point in client.sweep(problem, spread)] == here


def test_batch(client: Any, problem: Problem) -> None:
    tie = Tie(NAMES[:3])
    variants = [Variant(), Variant(TotalBytes(1)), Variant(TotalBytes(3000), (tie,))]
    here = [
        solve(problem),
        solve(replace(problem, capacity_bytes=1)),
        solve(replace(problem, capacity_bytes=3000, constraints=(*problem.constraints, tie))),
    ]
    assert list(map(timeless, client.solve_batch(problem, variants))) == list(map(timeless, here))
    with pytest.raises(InvalidInput, match="variant 2: constraint 4"):
        list(client.solve_batch(problem, [Variant(), Variant(None, (Tie(("nobody",)),))]))


def test_smallest(client: Any, problem: Problem) -> None:
    most = solve(problem).unwrap()[1].loss * 1.5
    assert timeless(client.smallest_size(problem, most)) == timeless(smallest_size(problem, most))


def test_verify(client: Any, problem: Problem) -> None:
    outcome = solve(problem)
    wrong = replace(outcome, bound=outcome.unwrap()[1].loss * 2)
    for claim in (outcome, wrong):
        assert client.verify(problem, claim) == verify(problem, claim)
    assert not client.verify(problem, wrong).holds


def test_explain_tensor(client: Any, problem: Problem) -> None:
    assert client.explain_tensor(problem, NAMES[3]) == explain_tensor(problem, NAMES[3])
    with pytest.raises(UnknownTensor, match="did you mean"):
        client.explain_tensor(problem, "blk.0.ffn_upp.weight")


def test_constraint_costs(client: Any, problem: Problem) -> None:
    assert client.constraint_costs(problem) == constraint_costs(problem)


def test_explain_conflict(client: Any, problem: Problem) -> None:
    tight = replace(problem, capacity_bytes=int(problem.table.sizes[:, 0].sum()))
    found = client.explain_conflict(tight)
    assert found == explain_conflict(tight)
    assert [number for number, _constraint in found.constraints] == [1]
    assert client.explain_conflict(problem) is None


def test_audit(client: Any, problem: Problem) -> None:
    given = Allocation(dict.fromkeys(NAMES, "Q4_K"))
    assert timeless(client.audit(problem, given)) == timeless(audit(problem, given))
    with pytest.raises(InvalidInput, match="has no quant type"):
        client.audit(problem, Allocation({NAMES[0]: "Q4_K"}))


def test_ladder(client: Any, problem: Problem) -> None:
    plain, budgets = pure(problem), (2500, 3000, 4000)
    there = client.nested_ladder(plain, [TotalBytes(each) for each in budgets])
    assert timeless(there) == timeless(nested_ladder(plain, budgets))


def test_worst_case(client: Any, problem: Problem) -> None:
    table, constraints = problem.table, problem.constraints
    other = replace(table, losses=table.losses * np.linspace(0.5, 2, table.losses.size).reshape(table.losses.shape))
    for measure, capacity in (
        (WorstCaseMeasure.RATIO, problem.capacity_bytes),
        (WorstCaseMeasure.NATS, problem.capacity_bytes),
        (WorstCaseMeasure.RATIO, 1),
    ):
        question = Domains((("reasoning", table), ("general", other)), capacity, constraints, measure)
        assert lasting(client.solve_worst_case(question)) == lasting(solve_worst_case(question))


def lasting(found: WorstCase) -> WorstCase:
    return timeless(replace(found, domains=tuple(map(timeless, found.domains))))


def test_profiles(client: Any) -> None:
    made = profile(seed=21)
    stored = client.put_profile(made)
    assert stored in list(client.profiles())
    asked = ProfileProblem(stored.digest, parse_budget("4.5"), (Ceiling(NAMES[:1], parse_bits(5)),), "relative")
    here = solve(asked.problem(lambda _digest: made))
    assert timeless(client.solve(asked)) == timeless(here)
    assert client.profile(stored.digest).digest() == made.digest()
    pinned = replace(asked, constraints=(Pin(NAMES[:1], "Q9_K"),))
    with pytest.raises(InvalidInput, match="Q9_K"):
        client.solve(pinned)
    assert client.delete_profile(stored.digest)


def test_an_outcome_knows_its_prices(client: Any, problem: Problem) -> None:
    outcome: Outcome = client.solve(problem)
    assert len(outcome.constraint_multipliers) == 3
