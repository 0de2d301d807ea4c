"""Sensitivities from names alone: what tensors of this role and place were worth in other models.

Fitted to per-tensor measurements of 12 models by Thireus, GGUF Tool Suite and its contributors
(https://github.com/Thireus/GGUF-Tool-Suite) and of the project's two small models: KL divergence of the whole model
when one tensor is of one low type.

    ln s = SCALE + role + effect of the first or last block + slope × (depth - 1/2), the slope in models with experts

The fit (tests/bench/prior_fit.py) takes off each model's noise floor, counts tensors that were measured together as
one measurement, and lets every model deviate in scale, in every role and in every effect of place; what stands here is
what they have in common. tests/bench/bench_prior.py fits again, compares with these numbers and judges each model by
the fit to all others.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_solver.tensor_names import block_of, is_expert, is_tied, role_of
from raq_solver.tensors import Tensor

CREDIT: Final = (
    "per-tensor measurements by Thireus, GGUF Tool Suite and its contributors, "
    "https://github.com/Thireus/GGUF-Tool-Suite"
)
"""The suite's licence asks that this is seen wherever its data is used."""
SCALE: Final = -4.13
"""ln of nats per token per unit of relative error, of a role of 0; models deviate from it by about 0.5."""
ROLES: Final = MappingProxyType(
    {
        "output": 3.72,
        "token_embd": 2.45,
        "attn_gate": -0.40,
        "attn_k": -0.46,
        "attn_k_b": -1.66,
        "attn_kv_a_mqa": 0.03,
        "attn_output": 0.23,
        "attn_q": -0.04,
        "attn_q_a": -1.03,
        "attn_q_b": -0.36,
        "attn_qkv": 0.03,
        "attn_v": -0.07,
        "attn_v_b": -0.07,
        "ffn_down": 0.30,
        "ffn_down_exps": 0.20,
        "ffn_down_shexp": -1.09,
        "ffn_gate": 0.04,
        "ffn_gate_exps": 0.00,
        "ffn_gate_shexp": -1.35,
        "ffn_up": 0.16,
        "ffn_up_exps": 0.03,
        "ffn_up_shexp": -1.04,
        "ssm_alpha": -2.40,
        "ssm_beta": -2.11,
        "ssm_out": -0.01,
    }
)
"""By role, in ln. A role that is not here counts as 0, about the middle of attention's."""
TIED: Final = 4.89
"""Token embedding that serves as the output head too."""
FIRST: Final = MappingProxyType({"attention": 0.36, "feed-forward": 0.14})
LAST: Final = MappingProxyType({"attention": 0.28, "feed-forward": 0.67})
SLOPE: Final = MappingProxyType({"attention": -1.56, "feed-forward": -0.94})
"""From the first block to the last, in models with experts; no common slope was found in dense ones."""
ALIKE: Final = MappingProxyType({"ssm_ba": "ssm_beta", "attn_kv_b": "attn_v_b"})
"""Roles that those models lack, and those that do the same in them."""
SPREAD: Final = 0.65
"""Standard deviation of ln(measured / predicted) within a model that the fit has not seen; docs/quality.md."""


def half_of(role: str) -> str:
    """The half of a block that a role belongs to."""
    return "feed-forward" if role.startswith("ffn_") else "attention"


def last_block(names: Sequence[str]) -> int:
    """The last block of the stack; blocks that predict the token after next are none of it. -1 if there is none."""
    blocks = {block_of(name) for name in names}
    return max(blocks - {block_of(name) for name in names if ".nextn." in name}, default=-1)


def role_sensitivities(tensors: Sequence[Tensor]) -> Float64[np.ndarray, " tensors"]:
    """The sensitivity of every tensor, about nats per token; between tensors right within a factor of e^SPREAD."""
    names = [tensor.name for tensor in tensors]
    experts = any(map(is_expert, names))
    tied = is_tied(names)
    last = last_block(names)
    return np.exp([SCALE + _effect(name, last, experts=experts, tied=tied) for name in names])


def _effect(name: str, last: int, *, experts: bool, tied: bool) -> float:
    block, role = block_of(name), role_of(name)
    if role == "token_embd" and tied:
        return TIED
    effect = ROLES.get(ALIKE.get(role, role), 0.0)
    if block < 0:
        return effect
    half = half_of(role)
    effect += (FIRST[half] if block == 0 else 0.0) + (LAST[half] if block == last else 0.0)
    return effect + (SLOPE[half] * (block / max(1, last) - 0.5) if experts else 0.0)
