import pytest

from raq_client.models.file_types import FILE_TYPES, file_type, file_type_of
from raq_client.models.quantizable import candidates, fitting_type, is_quantizable
from raq_solver.errors import UnknownQuantType
from raq_solver.quant_types import CATALOGUE, quant_type
from raq_solver.tensors import Tensor


def _tensor(name: str, *shape: int, source: str = "F16") -> Tensor:
    return Tensor(name, shape or (256, 256), CATALOGUE[source])


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.weight", "output.weight", "token_embd.weight", "blk.3.ssm_out.weight", "blk.0.ssm_alpha.weight"],
)
def test_matrices_may_be_quantized(name: str) -> None:
    assert is_quantizable(_tensor(name))


def test_experts_may_be_quantized() -> None:
    assert is_quantizable(_tensor("blk.0.ffn_gate_exps.weight", 2048, 768, 128))


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_norm.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ssm_conv1d.weight",
        "blk.0.time_mix_decay_w1.weight",
        "blk.0.ssm_a",
        "position_embd.weight",
        "mm.a.code_embd.weight",
    ],
)
def test_norms_routers_and_short_convolutions_may_not(name: str) -> None:
    assert not is_quantizable(_tensor(name))


def test_vectors_may_not_whatever_their_shape_is_padded_to() -> None:
    assert not is_quantizable(_tensor("blk.0.bias.weight", 256))
    assert not is_quantizable(_tensor("blk.0.bias.weight", 256, 1, 1))


def test_one_architecture_has_rules_of_its_own() -> None:
    tensor = _tensor("blk.0.attn_v_b.weight")
    assert is_quantizable(tensor, "deepseek2")
    assert not is_quantizable(tensor, "glm5-next")


# llama.cpp's table of substitutes, row length 288 = 9 blocks of 32 and not one of 256; 48 divides into nothing.
@pytest.mark.parametrize(
    ("wanted", "row_length", "written"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 288, "Q5_0"),
        ("Q5_K", 288, "Q5_1"),
        ("Q6_K", 288, "Q8_0"),
        ("Q2_K", 288, "Q4_0"),
        ("IQ2_XXS", 288, "IQ4_NL"),
        ("Q4_K", 48, "F16"),
        ("Q8_0", 48, "F16"),
    ],
)
def test_what_does_not_fit_is_replaced_as_llama_cpp_does(wanted: str, row_length: int, written: str) -> None:
    assert fitting_type(quant_type(wanted), row_length) == quant_type(written)


def test_some_types_have_no_substitute() -> None:
    assert fitting_type(quant_type("NVFP4"), 96) is None
    assert fitting_type(quant_type("Q1_0"), 192) is None


def _names(tensor: Tensor, *wanted: str, has_importance: bool = True) -> list[str]:
    asked = [quant_type(name) for name in wanted]
    return [found.name for found in candidates(tensor, asked, has_importance=has_importance)]


def test_candidates_are_what_was_asked_for_where_it_fits() -> None:
    assert _names(_tensor("blk.0.ffn_up.weight"), "Q4_K", "Q6_K", "F16") == ["Q4_K", "Q6_K", "F16"]
    narrow = _tensor("blk.0.ffn_up.weight", 288, 4)
    assert _names(narrow, "Q4_K", "Q5_0", "Q6_K") == ["Q5_0", "Q8_0"]
    assert _names(narrow, "NVFP4", "Q1_0") == ["F16"]


def test_no_tensor_gains_bits_it_never_had() -> None:
    assert _names(_tensor("blk.0.ffn_up.weight", source="Q4_K"), "Q8_0", "Q6_K", "Q4_K", "Q2_K") == ["Q4_K", "Q2_K"]


def test_lowest_types_need_importance_but_for_embedding_and_output() -> None:
    asked = ("IQ2_XXS", "IQ3_S")
    assert _names(_tensor("blk.0.ffn_up.weight"), *asked, has_importance=False) == ["IQ3_S"]
    assert _names(_tensor("output.weight"), *asked, has_importance=False) == ["IQ2_XXS", "IQ3_S"]
    assert _names(_tensor("blk.0.ffn_up.weight"), *asked) == ["IQ2_XXS", "IQ3_S"]


def test_what_may_not_be_quantized_keeps_its_type() -> None:
    assert _names(_tensor("blk.0.attn_norm.weight", 256, source="F32"), "Q4_K") == ["F32"]


def test_file_types_are_found_by_any_spelling() -> None:
    assert file_type("q4_k_m") is file_type("Q4_K") is FILE_TYPES["Q4_K_M"]
    with pytest.raises(UnknownQuantType, match=r"did you mean .*Q4_K_M"):
        file_type("Q4_K_X")


def test_a_file_is_named_by_what_most_weights_are() -> None:
    types = {_tensor("a", 256, 2): quant_type("Q4_K"), _tensor("b", 256): quant_type("F32")}
    assert file_type_of(types).name == "Q4_K_M"
    types[_tensor("c", 256, 3)] = quant_type("MXFP4")
    assert file_type_of(types).name == "MXFP4_MOE"


def test_file_type_numbers_are_those_of_gguf_py() -> None:
    import gguf

    known = {member.name.removeprefix("MOSTLY_").removeprefix("ALL_"): member.value for member in gguf.LlamaFileType}
    shared = FILE_TYPES.keys() & known.keys()
    assert len(shared) > 30
    assert {name: FILE_TYPES[name].number for name in shared} == {name: known[name] for name in shared}
