"""What runtimes accept: llama.cpp's rules, and the 1,328 tensors that ds4 loads."""

from collections import Counter
from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.models.read_table import read_table
from raq_client.recipes.runtimes import Types, runtime_faults
from raq_solver.quant_types import QuantType, stored_type
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, small_model


@pytest.fixture
def ds4(shapes: Path) -> dict[Tensor, QuantType]:
    """The types of the published file: routed experts as IQ2_XXS and Q2_K (down), the rest as its loader requires."""
    types = {}
    for tensor in read_table(shapes / "deepseek_v4_flash_tensors.csv").tensors:
        types[tensor] = stored_type(_published(tensor.name))
    return types


def _published(name: str) -> str:
    # By the parts of names, which is another way than the patterns of the code under test.
    role = name.removesuffix(".weight").split(".", 2)[-1]
    if role.endswith("_exps"):
        return "Q2_K" if "down" in role else "IQ2_XXS"
    if role.startswith("indexer") or "compressor" in role:
        return "F32" if role.endswith("norm") else "F16"
    if "tid2eid" in role:
        return "I32"
    if role.endswith(("_norm", "_base", "_scale", "sinks", "bias")) or role == "norm" or name == "output_norm.weight":
        return "F32"
    if role.startswith("hc_") or role == "ffn_gate_inp" or name in ("token_embd.weight", "output_hc_fn.weight"):
        return "F16"
    return "Q8_0"


def test_the_published_file_of_ds4_is_accepted_to_the_byte(ds4: Types) -> None:
    assert runtime_faults("ds4", ds4, "deepseek4") == []
    assert len(ds4) == 1328
    counts = Counter(chosen.name for chosen in ds4.values())
    assert counts == {"F16": 359, "F32": 492, "I32": 3, "Q8_0": 345, "IQ2_XXS": 86, "Q2_K": 43}
    assert sum(chosen.size(tensor.weights) for tensor, chosen in ds4.items()) == 86_714_775_900


@pytest.mark.parametrize(
    ("part", "quant_type", "words"),
    [
        ("blk.3.attn_q_b.weight", "Q4_K", "ds4 requires Q8_0, not Q4_K"),
        ("blk.2.indexer.attn_q_b.weight", "Q8_0", "ds4 requires F16, not Q8_0"),
        ("token_embd.weight", "Q8_0", "ds4 requires F16"),
        ("blk.7.ffn_gate_exps.weight", "Q4_K", "ds4 needs one type"),
        ("blk.7.ffn_down_exps.weight", "Q8_0", "routed experts as IQ2_XXS, Q2_K, Q4_K, not Q8_0"),
    ],
)
def test_what_ds4_cannot_serve_is_named(ds4: Types, part: str, quant_type: str, words: str) -> None:
    changed = {tensor: stored_type(quant_type) if tensor.name == part else chosen for tensor, chosen in ds4.items()}
    faults = runtime_faults("ds4", changed, "deepseek4")
    assert [fault.where for fault in faults] == [part]
    assert words in faults[0].what


def test_a_boost_of_whole_blocks_is_served(ds4: Types) -> None:
    raised = {
        tensor: stored_type("Q4_K") if "_exps" in tensor.name and tensor.name.startswith("blk.4") else chosen
        for tensor, chosen in ds4.items()
    }
    assert runtime_faults("ds4", raised, "deepseek4") == []


def test_ds4_loads_one_model_only() -> None:
    types = {tensor: tensor.source_type for tensor in open_model(MODEL_4M).tensors}
    assert "1,328 tensors only" in runtime_faults("ds4", types, "llama")[0].what


def test_llama_cpp_refuses_norms_and_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    kept = {tensor: tensor.source_type for tensor in model.tensors}
    assert runtime_faults("llama.cpp", kept, "llama") == []
    norm, matrix = model.tensor("blk.0.attn_norm.weight"), model.tensor("blk.0.attn_q.weight")
    faults = runtime_faults("llama.cpp", kept | {norm: stored_type("Q8_0"), matrix: stored_type("Q4_K")}, "llama")
    assert [fault.where for fault in faults] == [norm.name]
    narrow = Tensor("blk.0.ffn_up.weight", (96, 4), stored_type("F16"))
    faults = runtime_faults("llama.cpp", {narrow: stored_type("Q4_K")}, "llama")
    assert "rows of 96 weights" in faults[0].what
