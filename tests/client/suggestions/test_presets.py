"""Presets are the smallest sizes within their losses, and state the memory of the weights and of all else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.models.model_file import open_model
from raq_client.models.table import ModelTable, table_of
from raq_client.planning.memory_budget import Serving, memory_terms
from raq_client.planning.memory_shape import memory_shape
from raq_client.solver_client.local import LocalSolver
from raq_client.suggestions.presets import PRESETS, fill_presets
from raq_solver import LossTable, Problem, solve
from raq_solver.losses import LossUnit
from raq_solver.quant_types import quant_type

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0")
SERVING = Serving(context=8192, overhead=1000)


@pytest.fixture(scope="module")
def table(model_path: Path) -> ModelTable:
    return table_of(open_model(model_path))


def posed(table: ModelTable, unit: LossUnit, scale: float = 0.02) -> Problem:
    """Losses made up, falling by a factor with every type."""
    tensors = [tensor for tensor in table.tensors if tensor.source_type.name == "F16"]
    sizes = np.array([[quant_type(name).size(tensor.weights) for name in TYPES] for tensor in tensors])
    each = np.random.default_rng(2).uniform(0.5, 2, len(tensors))
    losses = scale * each[:, None] * np.array([1, 0.3, 0.08, 0.01, 0.001])
    weights = np.array([tensor.weights for tensor in tensors])
    return Problem(LossTable(tuple(t.name for t in tensors), TYPES, weights, sizes, losses, "made up", unit), 0)


def test_no_smaller_size_keeps_the_loss_of_a_preset(table: ModelTable) -> None:
    problem = posed(table, LossUnit.NATS)
    found = fill_presets(problem, table, SERVING, LocalSolver())
    assert [one.preset for one in found] == list(PRESETS)
    more = sum(term.size for term in memory_terms(memory_shape(table), SERVING))
    sizes = []
    for one in found:
        assert one.by_loss
        assert one.proven
        assert one.ledger is not None
        assert one.ledger.loss <= one.preset.most_loss
        smaller = solve(replace(problem, capacity_bytes=one.ledger.size - 1)).ledger
        assert smaller is None or smaller.loss > one.preset.most_loss
        assert one.memory == one.ledger.size + more
        sizes.append(one.ledger.size)
    assert sizes == sorted(sizes)


def test_losses_that_are_not_nats_make_presets_of_bits(table: ModelTable) -> None:
    found = fill_presets(posed(table, LossUnit.RELATIVE_ERROR), table, SERVING, LocalSolver())
    for one in found:
        assert not one.by_loss
        assert one.ledger is not None
        assert one.ledger.bits_per_weight is not None
        assert one.preset.bits - 1 < one.ledger.bits_per_weight <= one.preset.bits


def test_a_loss_that_no_size_keeps_is_told(table: ModelTable) -> None:
    found = fill_presets(posed(table, LossUnit.NATS, scale=100), table, SERVING, LocalSolver())
    assert [one.ledger for one in found] == [None] * 3
    assert [one.memory for one in found] == [None] * 3


def test_memory_of_an_unknown_cache_is_left_out(table: ModelTable) -> None:
    unknown = replace(table, architecture="deepseek4")
    found = fill_presets(posed(table, LossUnit.NATS), unknown, SERVING, LocalSolver())
    assert all(one.memory is None and one.ledger is not None for one in found)
