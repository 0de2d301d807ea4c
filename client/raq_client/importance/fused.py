"""Tensors that llama.cpp's converter fuses: one matrix of several that are multiplied with the same inputs.

Their importance is the same, so that of a part stands for the whole, and that of the whole for each part.
"""

from typing import Final

from raq_solver.tensor_names import block_of, in_block, local_name

_PARTS: Final = {
    "ffn_gate_up_exps.weight": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "ffn_gate_up_shexp.weight": ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
    "ffn_gate_up.weight": ("ffn_gate.weight", "ffn_up.weight"),
    "attn_qkv.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
}
"""Parts by fused tensor. Source: constants.py of llama.cpp's gguf-py (FFN_GATE_UP_EXP, ATTN_QKV)."""
_WHOLES: Final = {part: (whole,) for whole, parts in _PARTS.items() for part in parts}


def same_input(name: str) -> tuple[str, ...]:
    """The names under which other forms of a model have a tensor with the same inputs; most have none.

    >>> same_input("blk.3.ffn_gate_up_exps.weight")
    ('blk.3.ffn_gate_exps.weight', 'blk.3.ffn_up_exps.weight')
    >>> same_input("blk.3.ffn_up_exps.weight"), same_input("output.weight")
    (('blk.3.ffn_gate_up_exps.weight',), ())
    """
    local = local_name(name)
    found = _PARTS.get(local) or _WHOLES.get(local) or ()
    return tuple(in_block(block_of(name), other) for other in found) if block_of(name) >= 0 else ()
