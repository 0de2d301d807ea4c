"""Runtimes: the types that the program which is to load a file accepts for each tensor.

llama.cpp accepts what its own quantizer writes (`models.quantizable`). ds4 loads files of one model, DeepSeek V4 Flash,
and requires a fixed type for every tensor except the routed experts; source: its loader at commit 8d57664.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from raq_client.models.quantizable import is_quantizable
from raq_client.recipes.patterns import matches
from raq_solver.errors import Fault
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

Runtime = Literal["llama.cpp", "ds4"]
Types = Mapping[Tensor, QuantType]

DS4_TENSORS: Final = 1328
"""Tensors of the one model that ds4 loads."""
_BLOCKS: Final = 43
_ROUTED: Final = ("IQ2_XXS", "Q2_K", "Q4_K")
_DS4_TYPES: Final = {
    "token_embd.weight": "F16",
    "output.weight": "Q8_0",
    "output_hc_fn.weight": "F16",
    "blk.*.hc_{attn,ffn}_fn.weight": "F16",
    "blk.*.indexer.{attn_q_b,proj}.weight": "F16",
    "blk.*.attn_{q_a,q_b,kv,output_a,output_b}.weight": "Q8_0",
    "blk.*.attn_compressor_{ape,kv,gate}.weight": "F16",
    "blk.*.indexer_compressor_{ape,kv,gate}.weight": "F16",
    "blk.*.ffn_gate_inp.weight": "F16",
    "blk.*.ffn_gate_tid2eid.weight": "I32",
    "blk.*.ffn_{gate,up,down}_shexp.weight": "Q8_0",
}
"""Required types of matrices, first match: `blk.*.attn_q_b.weight` would match the indexer's too."""
_DS4_OTHER: Final = "F32"


def runtime_faults(runtime: Runtime, types: Types, architecture: str) -> list[Fault]:
    """What the runtime does not accept, one fault for each tensor; empty if it loads the file."""
    return _RULES[runtime](types, architecture)


def _llama_cpp(types: Types, architecture: str) -> list[Fault]:
    faults = []
    for tensor, chosen in types.items():
        if chosen == tensor.source_type:
            continue
        if not is_quantizable(tensor, architecture):
            faults.append(Fault(tensor.name, f"llama.cpp can't use it as {chosen.name}"))
        elif not chosen.fits(tensor.row_length):
            what = f"its rows of {tensor.row_length} weights are not whole blocks of {chosen.name}"
            faults.append(Fault(tensor.name, f"{what}, which llama.cpp needs"))
    return faults


def _ds4(types: Types, architecture: str) -> list[Fault]:
    del architecture
    if len(types) != DS4_TENSORS:
        return [
            Fault("ds4", f"loads DeepSeek V4 Flash with {DS4_TENSORS:,} tensors only; this model has {len(types):,}")
        ]
    faults = []
    by_name = {tensor.name: chosen.name for tensor, chosen in types.items()}
    for name, chosen in by_name.items():
        if _is_routed(name):
            if chosen not in _ROUTED:
                faults.append(Fault(name, f"ds4 loads routed experts as {', '.join(_ROUTED)}, not {chosen}"))
        elif (required := _required(name)) != chosen:
            faults.append(Fault(name, f"ds4 requires {required}, not {chosen}"))
    for block in range(_BLOCKS):
        gate, up = (by_name.get(f"blk.{block}.ffn_{part}_exps.weight") for part in ("gate", "up"))
        if gate != up:
            faults.append(
                Fault(f"blk.{block}.ffn_gate_exps.weight", f"is {gate} and ffn_up_exps {up}; ds4 needs one type")
            )
    return faults


def _is_routed(name: str) -> bool:
    return matches("blk.*.ffn_{gate,up,down}_exps.weight", name)


def _required(name: str) -> str:
    return next((chosen for pattern, chosen in _DS4_TYPES.items() if matches(pattern, name)), _DS4_OTHER)


_RULES: Final[Mapping[str, Callable[[Types, str], list[Fault]]]] = {"llama.cpp": _llama_cpp, "ds4": _ds4}
