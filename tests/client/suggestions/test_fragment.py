"""What is printed to be kept does what it says: floors hold in raq.toml, and a recipe makes the raised allocation."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.files.settings import Settings
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.pipeline import pose
from raq_client.planning.build_problem import build_problem
from raq_client.planning.constraint_options import ConstraintSpec
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.request import BaseSpec, Request
from raq_client.recipes.patterns import expand
from raq_client.recipes.recipe_file import read_recipe
from raq_client.recipes.steps import verify
from raq_client.solver_client.local import LocalSolver
from raq_client.suggestions.fragment import patterns, recipe_of, recipe_toml, settings_fragment
from raq_client.suggestions.scores import Evidence
from raq_client.suggestions.suggest import Question, Suggestion, starting_point, suggest
from raq_client.suggestions.units import UnitKind
from raq_solver import solve
from raq_solver.quant_types import quant_type

Found = tuple[Suggestion, ModelInputs, BaseSpec]


@pytest.fixture(scope="module")
def found(model_path: Path) -> Found:
    """Four tensors raised from a mixture on the real model."""
    inputs = ModelInputs(path=model_path, types=("k",))
    base = BaseSpec(base="Q3_K_M")
    spec = pose(inputs, Request(base=base))
    solver = LocalSolver()
    question = Question(kind=UnitKind.TENSOR, most=4)
    return suggest(spec.problem, starting_point(spec, solver), question, Evidence(), solver), inputs, base


def test_lines_for_raq_toml_ask_for_the_size_and_hold_what_was_raised(found: Found) -> None:
    suggestion, inputs, _ = found
    settings = Settings.model_validate(tomllib.loads(settings_fragment(suggestion)))
    request = Request(budget=settings.budget, constraints=ConstraintSpec(floor=settings.floor))
    problem = build_problem(request, inputs.profile(), inputs.table(inputs.profile())).problem
    assert problem.capacity_bytes == suggestion.after.size
    allocation, ledger = solve(problem).unwrap()
    # The mixture with these raised is one of the allocations that the floors allow.
    assert ledger.loss <= suggestion.after.loss
    for move in suggestion.moves:
        held, asked = quant_type(allocation.types[move.tensor]), quant_type(move.after)
        assert held.bits_per_weight >= asked.bits_per_weight


def test_a_recipe_makes_the_raised_allocation(found: Found, tmp_path: Path, model_path: Path) -> None:
    suggestion, inputs, base = found
    spec = pose(inputs, Request(base=base))
    assert spec.base is not None
    made = recipe_of(suggestion, spec.base.reference)
    path = tmp_path / "suggested.toml"
    path.write_text(recipe_toml(made), encoding="utf-8")
    read = read_recipe(path)
    assert read == made
    step, faults = verify(read, table_of(open_model(model_path)))
    assert not faults
    raised = {entry.tensor: entry.quant_type for entry in suggestion.after.entries}
    assert {tensor.name: chosen.name for tensor, chosen in step.types.items()} == raised


@given(blocks=st.sets(st.integers(0, 130), min_size=1), head=st.booleans())
def test_patterns_match_what_they_stand_for_and_nothing_else(blocks: set[int], *, head: bool) -> None:
    everything = [f"blk.{block}.attn_v.weight" for block in range(131)] + ["output.weight", "blk.1.attn_q.weight"]
    wanted = {f"blk.{block}.attn_v.weight" for block in blocks} | ({"output.weight"} if head else set())
    globs = [glob for pattern in patterns(sorted(wanted)) for glob in expand(pattern)]
    assert {name for name in everything if any(fnmatchcase(name, glob) for glob in globs)} == wanted
