"""llama.cpp's rules for which tensors may be quantized, and to which types.

Source: tensor_allows_quantization, tensor_type_fallback and tensor_requires_imatrix in src/llama-quant.cpp of
llama.cpp 0c1e57098.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from raq_solver.quant_types import CATALOGUE, UNQUANTIZED, QuantType
from raq_solver.tensor_names import NAMES_KEPT, OUTPUT, TOKEN_EMBEDDING
from raq_solver.tensors import Tensor

EMBEDDINGS: Final = (TOKEN_EMBEDDING, "per_layer_token_embd.weight")

_NEVER_NAMED: Final = ("position_embd.weight", "token_types.weight")
_TIME_MIX: Final = "first w0 w1 w2 v0 v1 v2 a0 a1 a2 g1 g2 decay_w1 decay_w2 lerp_fused"
_NEVER_CONTAINING: Final = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in _TIME_MIX.split()),
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_NEVER_IN_ARCHITECTURE: Final = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        *(f"ssm_{part}.weight" for part in ("f_a", "f_b", "g_a", "g_b", "beta")),
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}
# Substitute of a type whose blocks do not divide the row length; F16 if the substitute does not fit either.
_FALLBACK: Final = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
        "IQ4_NL",
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_LAST_RESORT: Final = CATALOGUE["F16"]
_NO_FALLBACK: Final = ("Q1_0", "NVFP4")
_NEEDS_IMPORTANCE: Final = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


def is_quantizable(tensor: Tensor, architecture: str = "") -> bool:
    """Whether llama.cpp ever changes this tensor's type.

    False for vectors, tensors whose name does not end in "weight", norms, routers, short convolutions and similar.
    """
    return (
        any(length > 1 for length in tensor.shape[1:])
        and _may_by_name(tensor.name, architecture)
        and tensor.source_type.name in CATALOGUE
    )


@lru_cache(maxsize=NAMES_KEPT)
def _may_by_name(name: str, architecture: str) -> bool:
    parts = _NEVER_CONTAINING + _NEVER_IN_ARCHITECTURE.get(architecture, ())
    return name.endswith("weight") and name not in _NEVER_NAMED and not any(part in name for part in parts)


def fitting_type(wanted: QuantType, row_length: int) -> QuantType | None:
    """`wanted`, or llama.cpp's substitute if the row length is not a multiple of its block length.

    None where llama.cpp has no substitute and fails (Q1_0, NVFP4).

    >>> fitting_type(CATALOGUE["Q4_K"], 256).name, fitting_type(CATALOGUE["Q4_K"], 96).name
    ('Q4_K', 'Q5_0')
    """
    if wanted.fits(row_length):
        return wanted
    if wanted.name in _NO_FALLBACK:
        return None
    substitute = CATALOGUE.get(_FALLBACK.get(wanted.name, ""), _LAST_RESORT)
    return substitute if substitute.fits(row_length) else _LAST_RESORT


def needs_importance(quant_type: QuantType, name: str) -> bool:
    """Whether llama.cpp refuses to store this tensor in that type without an importance file."""
    return quant_type.name in _NEEDS_IMPORTANCE and name not in (*EMBEDDINGS, OUTPUT)


def requantized_note(tensors: Iterable[Tensor], where: str) -> str | None:
    """A note if some of these tensors of the file `where` are quantized already, with their number; else None.

    llama-quantize refuses them without --allow-requantize.
    """
    tensors = list(tensors)
    found = Counter(t.source_type.name for t in tensors if t.source_type.name in CATALOGUE.keys() - UNQUANTIZED)
    if not found:
        return None
    types = ", ".join(f"{count} {name}" for name, count in found.most_common())
    return (
        f"{where} is quantized already ({types} of {len(tensors)} tensors): errors and losses are counted from this "
        "file and come on top of its own; start from an F16 or BF16 file of the model if you can"
    )


def candidates(
    tensor: Tensor, wanted: Iterable[QuantType], *, architecture: str = "", has_importance: bool = True
) -> tuple[QuantType, ...]:
    """The types this tensor can choose from, given the `wanted` ones; never empty, no duplicates.

    A type that does not fit the rows is replaced by llama.cpp's substitute. A type with more bits than the stored one
    is replaced by the stored one, because more bits can't restore lost precision. A type that needs importance is
    left out without it. A tensor that may not be quantized, or has no possible wanted type, keeps its type.
    """
    if not is_quantizable(tensor, architecture):
        return (tensor.source_type,)
    found: dict[QuantType, None] = {}
    for quant_type in wanted:
        fitting = fitting_type(quant_type, tensor.row_length)
        if fitting is None or (needs_importance(fitting, tensor.name) and not has_importance):
            continue
        grows = fitting.bits_per_weight > tensor.source_type.bits_per_weight
        found[tensor.source_type if grows else fitting] = None
    return tuple(found) or (tensor.source_type,)
