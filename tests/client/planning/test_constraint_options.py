"""Bytes read per token: what counts how far, and what a saved profile knows of it."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from raq_client.files.profile_file import load_profile, save_profile
from raq_client.models.model_file import open_model
from raq_client.models.table import NUMBERS, ModelTable, numbers_of, numbers_text, table_of
from raq_client.models.type_choice import chosen_types
from raq_client.planning.constraint_options import ConstraintSpec, active_bytes
from raq_client.planning.memory_shape import memory_shape
from raq_client.planning.model_inputs import profile_table
from raq_client.quantizing.measure import measure_profile
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import quant_type
from raq_solver.tensors import Tensor

TENSORS = tuple(
    Tensor(name, shape, quant_type("BF16"))
    for name, shape in (
        ("token_embd.weight", (256, 1000)),
        ("blk.0.attn_q.weight", (256, 256)),
        ("blk.0.ffn_up_exps.weight", (256, 512, 128)),
        ("output.weight", (256, 1000)),
    )
)
METADATA = {"qwen3moe.expert_count": 128, "qwen3moe.expert_used_count": 8}


def test_experts_count_as_far_as_they_are_used_and_an_embedding_by_its_row() -> None:
    found = active_bytes("3GiB", ModelTable("m", "qwen3moe", TENSORS, METADATA))
    assert found.shares == (Fraction(1, 1000), 1, Fraction(1, 16), 1)
    assert found.capacity_bytes == 3 * 2**30
    tied = active_bytes("3GiB", ModelTable("m", "qwen3moe", TENSORS[:-1], METADATA))
    assert tied.shares == (1, 1, Fraction(1, 16))


def test_what_the_model_does_not_say_is_asked_for() -> None:
    bare = ModelTable("m", "qwen3moe", TENSORS)
    with pytest.raises(InvalidInput, match="give --experts-used"):
        active_bytes("3GiB", bare)
    assert active_bytes("3GiB", bare, 4).shares[2] == Fraction(4, 128)
    with pytest.raises(InvalidInput, match="129, but the model has only 128 experts"):
        active_bytes("3GiB", bare, 129)


def test_faults_of_the_flags() -> None:
    with pytest.raises(InvalidInput, match="give that too"):
        ConstraintSpec(experts_used=4).constraints(["a"])
    with pytest.raises(InvalidInput, match="write active_bytes into its file"):
        ConstraintSpec(active_bytes="1GiB").constraints(["a"])


def test_a_profile_carries_the_numbers_of_its_model(model_path: Path, tmp_path: Path) -> None:
    model = open_model(model_path)
    table = table_of(model)
    profile = measure_profile(model, None, chosen_types(("Q4_K",)))
    save_profile(profile, tmp_path / "p.json")
    saved = load_profile(tmp_path / "p.json")
    known = profile_table(saved)
    assert known.number("block_count") == table.number("block_count") > 0
    assert memory_shape(known) == memory_shape(table)
    old = replace(saved, provenance={k: v for k, v in saved.provenance.items() if k != NUMBERS})
    assert profile_table(old).metadata == {}


def test_numbers_come_back_and_nothing_else() -> None:
    metadata = {"a.x": 3, "a.list": [1, 0], "a.flags": [True, False], "a.text": "no", "a.float": 1.5}
    kept = numbers_of(numbers_text(ModelTable("m", "a", (), metadata)))
    assert kept == {"a.x": 3, "a.list": [1, 0], "a.flags": [True, False]}
    assert numbers_of("") == numbers_of("[1]") == numbers_of("{") == {}
