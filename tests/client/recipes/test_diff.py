import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.models.read_table import read_table
from raq_client.recipes.diff import Stage, convergence, exchange, move_constraints
from raq_client.recipes.recipe_file import read_recipe
from raq_client.recipes.steps import carry_out
from raq_solver.allocation import Allocation
from raq_solver.constraints import Ceiling, Floor, Pin, Source
from raq_solver.errors import InvalidInput
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.quant_types import CATALOGUE
from raq_solver.solve import solve

TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K")
NAMES = tuple(f"blk.{block}.{role}.weight" for block in range(4) for role in ("attn_q", "ffn_up", "ssm_out"))


def _table(names: tuple[str, ...] = NAMES, types: tuple[str, ...] = TYPES, seed: int = 0) -> LossTable:
    random = np.random.default_rng(seed)
    weights = np.full(len(names), 1024, dtype=np.int64)
    sizes = np.array([[CATALOGUE[t].size(1024) for t in types] for _ in names], dtype=np.int64)
    losses = random.gamma(2, size=len(names))[:, None] * np.array(
        [4.0 ** -float(CATALOGUE[t].bits_per_weight) for t in types]
    )
    return LossTable(names, types, weights, sizes, losses)


def _base(**changes: str) -> Allocation:
    return Allocation(dict.fromkeys(NAMES, "Q5_K") | {name.replace("__", "."): t for name, t in changes.items()})


def _bytes(allocation: Allocation) -> int:
    return sum(CATALOGUE[name].size(1024) for name in allocation.types.values())


def test_constraints_come_from_data_and_name_every_tensor() -> None:
    base = _base()
    found = move_constraints(base, _table(), demote=NAMES[:2], promote=NAMES[2:3])
    assert {type(constraint): len(constraint.tensors) for constraint in found} == {Pin: 9, Ceiling: 2, Floor: 1}
    assert {constraint.source for constraint in found} == {Source.DATA}


@given(
    seed=st.integers(0, 1000),
    kinds=st.lists(st.sampled_from([-1, 0, 1]), min_size=len(NAMES), max_size=len(NAMES)),
    extra=st.integers(0, 2000),
)
def test_only_candidates_leave_the_base_and_in_their_direction(seed: int, kinds: list[int], extra: int) -> None:
    base, table = _base(), _table(seed=seed)
    down, up = ([n for n, kind in zip(NAMES, kinds, strict=True) if kind == sign] for sign in (-1, 1))
    constraints = move_constraints(base, table, demote=down, promote=up)
    allocation, _ = solve(Problem(table, _bytes(base) + extra, constraints)).unwrap()
    for name, kind in zip(NAMES, kinds, strict=True):
        change = np.sign(CATALOGUE[allocation.types[name]].bits_per_weight - CATALOGUE["Q5_K"].bits_per_weight)
        assert change in (0, kind)
    moves = exchange(base, allocation, table, _bytes(base) + extra)
    assert moves.loss <= 1e-12
    assert moves.sink >= 0


@given(
    before=st.lists(st.sampled_from(TYPES), min_size=len(NAMES), max_size=len(NAMES)),
    after=st.lists(st.sampled_from(TYPES), min_size=len(NAMES), max_size=len(NAMES)),
    slack=st.integers(-5000, 5000),
)
def test_the_books_balance(before: list[str], after: list[str], slack: int) -> None:
    base, later = (Allocation(dict(zip(NAMES, types, strict=True))) for types in (before, after))
    table = _table()
    found = exchange(base, later, table, _bytes(base) + slack)
    assert found.opening == slack
    assert found.sink == _bytes(base) + slack - _bytes(later)
    assert _bytes(later) - _bytes(base) == found.spent - found.freed
    sinks = [found.opening, *(line.sink for line in found.lines)]
    assert all(two == one - line.size for one, two, line in zip(sinks, sinks[1:], found.lines, strict=False))
    stages = [list(Stage).index(line.stage) for line in found.lines]
    assert stages == sorted(stages)
    assert {line.tensor for line in found.lines} == {n for n in NAMES if base.types[n] != later.types[n]}


def test_moves_come_as_a_careful_hand_would_make_them() -> None:
    after = dict(_base().types)
    after |= {NAMES[0]: "Q4_K", NAMES[3]: "Q3_K", NAMES[1]: "Q6_K"}
    after |= {name: "Q8_0" for name in NAMES if "ssm_out" in name}
    found = exchange(_base(), Allocation(after), _table(), _bytes(_base()))
    stages = [line.stage for line in found.lines]
    assert stages == [Stage.FOUNDATION] * 2 + [Stage.BUILD_UP] + [Stage.BIG_MOVE] * 4
    prices = [line.loss / -line.size for line in found.lines[:2]]
    assert prices == sorted(prices)


def test_types_outside_of_the_table_have_a_size_but_no_loss() -> None:
    after = Allocation(dict(_base().types) | {NAMES[0]: "F16"})
    (line,) = exchange(_base(), after, _table(), 10**6).lines
    assert line.size == 2048 - CATALOGUE["Q5_K"].size(1024)
    assert math.isnan(line.loss)


def test_the_articles_big_move_is_found(shapes: Path) -> None:
    model = read_table(shapes / "qwen36_27b_tensors.csv")
    steps = carry_out(read_recipe("ra4"), model)
    base, last = (Allocation({t.name: q.name for t, q in step.types.items()}) for step in (steps[0], steps[-1]))
    types = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K")
    sizes = np.array(
        [[CATALOGUE[q].size(t.weights) if CATALOGUE[q].fits(t.row_length) else 0 for q in types] for t in model.tensors]
    )
    losses = np.where(sizes > 0, 1.0, np.inf)
    table = LossTable(
        tuple(t.name for t in model.tensors), types, np.array([t.weights for t in model.tensors]), sizes, losses
    )
    found = exchange(base, last, table, steps[-1].size)
    assert (found.freed, found.sink) == (111_411_200, 0)
    big = [line for line in found.lines if line.stage is Stage.BIG_MOVE]
    assert len(big) == 48
    assert sum(line.size for line in big) == 1_415_577_600


def test_every_impossible_move_is_named() -> None:
    base = _base(**{NAMES[0].replace(".", "__"): "F16"})
    with pytest.raises(InvalidInput) as error:
        move_constraints(base, _table(), demote=["absent.weight", NAMES[1]], promote=[NAMES[1]])
    assert sorted(fault.where for fault in error.value.faults) == ["absent.weight", NAMES[0], NAMES[1]]
    with pytest.raises(InvalidInput, match="has no type in the base"):
        exchange(Allocation({}), base, _table(), 0)


def test_sources_of_knowledge_are_compared() -> None:
    weights = dict.fromkeys(NAMES, 1024)
    base = _base(**{NAMES[0].replace(".", "__"): "Q8_0", NAMES[1].replace(".", "__"): "Q3_K"})
    sensitivities = {name: float(rank) for rank, name in enumerate(reversed(NAMES))}
    rows = convergence(
        base,
        weights,
        demote=[NAMES[11]],
        promote=[NAMES[0], NAMES[1]],
        rated=NAMES[:-2] + NAMES[-1:],
        sensitivities=sensitivities,
    )
    by_name = {row.tensor: row for row in rows}
    first, second, last = by_name[NAMES[0]], by_name[NAMES[1]], by_name[NAMES[11]]
    assert (first.ratio, first.sensitivity, first.base) == (1, 1, 1)
    assert first.converges
    assert not first.conflicts
    assert (second.ratio, second.sensitivity, second.base) == (1, 1, -1)
    assert second.conflicts
    assert not second.converges
    assert (last.ratio, last.sensitivity, last.base) == (-1, -1, 0)
    assert last.converges
    assert by_name[NAMES[10]].ratio is None


def test_silence_is_not_agreement() -> None:
    rows = convergence(_base(), dict.fromkeys(NAMES, 1), demote=(), promote=(), rated=(), sensitivities={})
    assert all((row.ratio, row.sensitivity, row.base) == (None, None, 0) for row in rows)
    assert not any(row.converges or row.conflicts for row in rows)
