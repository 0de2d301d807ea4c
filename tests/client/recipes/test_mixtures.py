"""Published sizes and outputs of `llama-quantize --dry-run` (llama.cpp 0c1e57098) are the witnesses here."""

from collections import Counter
from pathlib import Path

import pytest

from raq_client.models.file_types import FILE_TYPES, file_type
from raq_client.models.quantizable import is_quantizable
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.mixtures import Counting, mixture, processing_order, tensor_bytes
from raq_client.recipes.overrides import overrides_for, read_overrides
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M
from support.paths import DATA

Q4_K_M = file_type("Q4_K_M")
F16, F32 = CATALOGUE["F16"], CATALOGUE["F32"]


def _llama(
    blocks: int, width: int, feed_forward: int, keys: int, vocabulary: int = 32000, *, architecture: str = "llama"
) -> ModelTable:
    tensors = [Tensor("token_embd.weight", (width, vocabulary), F16), Tensor("output_norm.weight", (width,), F32)]
    tensors.append(Tensor("output.weight", (width, vocabulary), F16))
    shapes = {
        "attn_q": (width, width),
        "attn_k": (width, keys),
        "attn_v": (width, keys),
        "attn_output": (width, width),
        "ffn_gate": (width, feed_forward),
        "ffn_up": (width, feed_forward),
        "ffn_down": (feed_forward, width),
    }
    for block in range(blocks):
        tensors += [Tensor(f"blk.{block}.{part}.weight", shape, F16) for part, shape in shapes.items()]
        tensors += [Tensor(f"blk.{block}.{part}_norm.weight", (width,), F32) for part in ("attn", "ffn")]
    return ModelTable("llama", architecture, tuple(tensors))


def _size(table: ModelTable, name: str = "Q4_K_M") -> int:
    return tensor_bytes(mixture(table, file_type(name)))


def test_q4_k_m_of_qwen36_27b_is_the_published_file_to_the_byte(shapes: Path) -> None:
    table = read_table(shapes / "qwen36_27b_tensors.csv")
    assert _size(table) == 16_536_406_016
    plain_q6 = tensor_bytes(mixture(table, file_type("Q6_K"), pure=True))
    assert round(8 * plain_q6 / table.weights, 4) == 6.5650


# GiB and bits per weight as published, or MiB as the dry run prints them.
@pytest.mark.parametrize(
    ("name", "gib", "bpw"),
    [
        ("llama31_8b", 4.575, 4.894),
        ("llama3_70b", 39.593, 4.820),
        ("qwen3_30b_a3b", 17.277, 4.861),
        ("mixtral_8x7b", 26.494, 4.873),
    ],
)
def test_q4_k_m_of_other_models_has_the_published_size(shapes: Path, name: str, gib: float, bpw: float) -> None:
    table = read_table(shapes / f"{name}_tensors.csv")
    size = _size(table)
    assert (round(size / 2**30, 3), round(8 * size / table.weights, 3)) == (gib, bpw)


@pytest.mark.parametrize(
    ("table", "mib"),
    [(_llama(32, 4096, 11008, 4096), 3891.24), (_llama(32, 4096, 14336, 1024), 4165.37)],
    ids=["Llama-2-7B", "Llama-3-8B"],
)
def test_q4_k_m_of_plain_llamas_is_what_the_dry_run_prints(table: ModelTable, mib: float) -> None:
    assert round(_size(table) / 2**20, 2) == mib


def _six_bit_downs(table: ModelTable, overrides: str = "") -> list[int]:
    types = mixture(table, Q4_K_M, overrides=read_overrides(overrides))
    return [block_of(t.name) for t, chosen in types.items() if "ffn_down" in t.name and chosen.name == "Q6_K"]


def test_overrides_shift_the_extra_bits_of_later_layers() -> None:
    table = _llama(32, 4096, 14336, 1024)
    assert _six_bit_downs(table) == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    shifted = _six_bit_downs(table, r"blk\.[0-3]\.ffn_down=q4_k")
    assert shifted == [4, 5, 6, 7, 10, 13, 16, 19, 22, 25, 28, 31]


def test_the_witness_recipe_has_both_sizes(shapes: Path) -> None:
    table = read_table(shapes / "qwen36_27b_tensors.csv")
    overrides = read_overrides((DATA / "ra" / "base_195_overrides.txt").read_text())
    sizes = {
        counting: tensor_bytes(mixture(table, Q4_K_M, overrides=overrides, counting=counting)) for counting in Counting
    }
    assert sizes == {Counting.LLAMA_CPP: 18_304_649_216, Counting.RESOLVED: 18_299_242_496}
    assert [round(8 * size / table.weights, 4) for size in sizes.values()] == [5.4446, 5.4430]
    pure = mixture(table, Q4_K_M, overrides=overrides, pure=True)
    assert round(tensor_bytes(pure) / 2**20, 2) == 16429.94
    resolved = mixture(table, Q4_K_M, overrides=overrides, counting=Counting.RESOLVED)
    shifted = mixture(table, Q4_K_M, overrides=overrides)
    ten = [11, 15, 19, 23, 27, 31, 35, 39, 51, 63]
    six_bit = [t for t, chosen in shifted.items() if "attn_v" in t.name and chosen.name == "Q6_K"]
    assert [block_of(t.name) for t in six_bit] == ten
    named = mixture(table, Q4_K_M, overrides=overrides_for(resolved, table.architecture))
    assert named == resolved


def test_a_list_of_all_tensors_is_the_same_in_every_mode() -> None:
    table = read_table(MODEL_4M)
    wanted = mixture(table, file_type("Q3_K_L"))
    overrides = overrides_for(wanted)
    for base in ("Q2_K", "Q6_K", "IQ4_XS"):
        for counting in Counting:
            assert mixture(table, file_type(base), overrides=overrides, counting=counting) == wanted
        assert mixture(table, file_type(base), overrides=overrides, pure=True) == wanted


def _count(table: ModelTable, name: str, *, has_importance: bool = True) -> Counter[str]:
    types = mixture(table, file_type(name), has_importance=has_importance)
    return Counter(chosen.name for tensor, chosen in types.items() if is_quantizable(tensor))


def test_importance_changes_what_low_mixtures_do() -> None:
    table = _llama(32, 4096, 11008, 4096)
    assert _count(table, "IQ4_XS") == {"IQ4_XS": 225, "Q6_K": 1}
    assert _count(table, "IQ4_XS", has_importance=False) == {"IQ4_XS": 221, "Q5_K": 4, "Q6_K": 1}
    assert _count(table, "Q4_0") == {"Q4_0": 221, "Q4_1": 4, "Q6_K": 1}
    assert _count(table, "IQ3_XXS")["IQ2_S"] == 64
    assert _count(table, "IQ3_XXS", has_importance=False)["Q3_K"] == 28


def test_eighty_layers_and_eight_experts_are_special() -> None:
    values = [chosen.name for t, chosen in mixture(_llama(80, 512, 512, 128), Q4_K_M).items() if "attn_v" in t.name]
    assert set(values) == {"Q5_K", "Q6_K"}
    experts = Tensor("blk.0.ffn_up_exps.weight", (512, 512, 8), F16)
    table = _llama(4, 512, 512, 128)
    mixed = ModelTable("moe", "llama", (*table.tensors, experts))
    attention = [
        chosen.name for t, chosen in mixture(mixed, Q4_K_M).items() if t.name.endswith(("_k.weight", "_v.weight"))
    ]
    assert set(attention) == {"Q8_0"}


def test_a_tied_embedding_is_treated_as_the_output() -> None:
    table = _llama(4, 512, 512, 128)
    tied = ModelTable("tied", "llama", tuple(t for t in table.tensors if t.name != "output.weight"))
    embedding = tied.tensors[0]
    assert mixture(table, Q4_K_M)[embedding].name == "Q4_K"
    assert mixture(tied, Q4_K_M)[embedding].name == "Q6_K"


def test_falcon_and_odd_rows_get_eight_bits_at_the_output() -> None:
    falcon = _llama(32, 512, 512, 128, architecture="falcon")
    output = falcon.tensors[2]
    assert mixture(falcon, Q4_K_M)[output].name == "Q8_0"
    odd = _llama(4, 288, 512, 288)
    types = {tensor.name: chosen.name for tensor, chosen in mixture(odd, Q4_K_M).items()}
    assert (types["output.weight"], types["blk.0.attn_q.weight"]) == ("Q8_0", "Q5_0")


def test_float_files_ignore_overrides() -> None:
    table = read_table(MODEL_4M)
    types = mixture(table, file_type("F16"), overrides=read_overrides("attn=q4_k"))
    assert {chosen.name for chosen in types.values()} == {"F16", "F32"}


def test_what_llama_cpp_cannot_write_is_said() -> None:
    with pytest.raises(InvalidInput) as error:
        mixture(_llama(2, 96, 512, 96), file_type("Q1_0"))
    # Every matrix but the output (Q8_0 by rule) and ffn_down (512 = 4 blocks of 128).
    assert len(error.value.faults) == 1 + 2 * 6


@pytest.mark.parametrize("name", FILE_TYPES)
def test_every_mixture_gives_every_tensor_a_type_that_fits(name: str) -> None:
    table = read_table(MODEL_4M)
    types = mixture(table, file_type(name))
    assert list(types) == list(table.tensors)
    assert all(chosen.fits(tensor.row_length) for tensor, chosen in types.items())
    assert all(types[t] == t.source_type for t in table.tensors if not is_quantizable(t))


def test_tensors_are_decided_in_llama_cpps_order() -> None:
    names = [tensor.name for tensor in processing_order(_llama(11, 256, 256, 256).tensors)]
    assert names[:5] == [
        "output.weight",
        "output_norm.weight",
        "token_embd.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_norm.weight",
    ]
    assert names[-1] == "blk.10.ffn_up.weight"
