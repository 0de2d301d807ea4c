import re
from pathlib import Path

import pytest

from raq_client.models.quantizable import is_quantizable
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.overrides import (
    Override,
    exact_pattern,
    override_text,
    overrides_for,
    pure_base,
    read_overrides,
    resolve,
)
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE, quant_type
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M
from support.paths import DATA
from support.published_shapes import PUBLISHED

Q4_K, Q6_K, Q8_0 = (quant_type(name) for name in ("Q4_K", "Q6_K", "Q8_0"))


@pytest.fixture(params=[MODEL_4M.name, *(f"{name}_tensors.csv" for name in PUBLISHED)])
def table(request: pytest.FixtureRequest, shapes: Path) -> ModelTable:
    return read_table((DATA if request.param == MODEL_4M.name else shapes) / request.param)


def test_each_pattern_matches_exactly_one_tensor(table: ModelTable) -> None:
    overrides = overrides_for(dict.fromkeys(table.tensors, Q4_K))
    quantizable = [tensor.name for tensor in table.tensors if is_quantizable(tensor)]
    assert len(overrides) == len(quantizable)
    everything = "\n".join(tensor.name for tensor in table.tensors)
    for override, name in zip(overrides, quantizable, strict=True):
        assert re.findall(override.pattern, everything, re.MULTILINE) == [name]


def test_what_is_written_is_read_back(table: ModelTable) -> None:
    types = [Q4_K, Q6_K, Q8_0]
    chosen = {tensor: types[number % 3] for number, tensor in enumerate(table.tensors)}
    text = override_text(overrides_for(chosen))
    found = resolve(read_overrides(text), [tensor.name for tensor in table.tensors])
    assert found == {tensor.name: chosen[tensor] for tensor in table.tensors if is_quantizable(tensor)}


def test_the_first_match_wins_anywhere_in_the_name() -> None:
    overrides = read_overrides("ffn_down=q6_k BLK\\.0=q8_0\noutput.weight=F16")
    names = ["blk.0.ffn_down.weight", "blk.0.ffn_up.weight", "blk.1.attn_output.weight", "blk.1.ffn_up.weight"]
    assert {name: found.name for name, found in resolve(overrides, names).items()} == {
        "blk.0.ffn_down.weight": "Q6_K",
        "blk.0.ffn_up.weight": "Q8_0",
        "blk.1.attn_output.weight": "F16",
    }


def test_the_witness_recipe_names_195_tensors(shapes: Path) -> None:
    path = DATA / "ra" / "base_195_overrides.txt"
    names = [tensor.name for tensor in read_table(shapes / "qwen36_27b_tensors.csv").tensors]
    overrides = read_overrides(path.read_text())
    assert len(overrides) == len(resolve(overrides, names)) == 195
    assert override_text(overrides) == path.read_text()


def test_every_bad_word_is_named_with_its_line() -> None:
    with pytest.raises(InvalidInput) as error:
        read_overrides("a=Q4_K\n# note\nb=Q4_K_M c\n(=Q4_K [[:digit:]]=Q4_K\n=Q4_K")
    faults = [(fault.where, fault.what.split(":")[0]) for fault in error.value.faults]
    assert faults == [
        ("line 2", "#"),
        ("line 2", "note"),
        ("line 3", "b=Q4_K_M"),
        ("line 3", "c"),
        ("line 4", "(=Q4_K"),
        ("line 4", "[["),
        ("line 5", "=Q4_K"),
    ]


def test_capitals_spaces_and_equal_signs_survive() -> None:
    name = "Odd name=with Everything(1).weight"
    assert Override(exact_pattern(name), Q4_K).matches(name)
    assert not set(exact_pattern(name)) & set("= ")
    assert read_overrides(override_text([Override(exact_pattern(name), Q4_K)]))[0].matches(name)


def test_names_that_patterns_cannot_tell_apart_are_refused() -> None:
    twins = [Tensor(name, (256, 2), CATALOGUE["F16"]) for name in ("a.A.weight", "a.B.weight")]
    with pytest.raises(InvalidInput, match="can't tell it from"):
        overrides_for(dict.fromkeys(twins, Q4_K))


def test_the_base_is_the_commonest_quantized_type_that_llama_quantize_can_name() -> None:
    big, small, tiny = (Tensor(f"{n}.weight", (256, n), CATALOGUE["F16"]) for n in (9, 5, 2))
    assert pure_base({big: CATALOGUE["F16"], small: Q6_K, tiny: Q8_0}).name == "Q6_K"
    assert pure_base({big: CATALOGUE["NVFP4"], small: Q8_0, tiny: Q4_K}).name == "Q8_0"
    assert pure_base({big: CATALOGUE["F16"]}).name == "Q8_0"
