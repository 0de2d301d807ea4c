"""Sensitivities from names alone: those of tensors of the same role and place in other models.

Fitted to per-tensor measurements of 12 models by Thireus, GGUF Tool Suite and its contributors
(https://github.com/Thireus/GGUF-Tool-Suite) and of the project's two small models: KL divergence of the whole model
when one tensor is of one low type.

    ln s = SCALE + role + effect of the first or last block + slope × (depth - 1/2), the slope in models with experts

The fit (tests/support/prior_fit.py) subtracts each model's noise floor, counts tensors that were measured together as
one measurement, and lets every model deviate in scale, in every role and in every effect of place; the numbers here are
the part that the models have in common. tests/bench/bench_prior.py repeats the fit, compares with these numbers and
tests each model against the fit to all others.
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
"""Shown wherever data of the suite is used, as its licence requires."""
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
"""Effect of each role, in ln. A role that is missing here counts as 0, about the middle of attention's roles."""
TIED: Final = 4.89
"""Effect of a token embedding that serves as the output head too."""
FIRST: Final = MappingProxyType({"attention": 0.36, "feed-forward": 0.14})
LAST: Final = MappingProxyType({"attention": 0.28, "feed-forward": 0.67})
SLOPE: Final = MappingProxyType({"attention": -1.56, "feed-forward": -0.94})
"""Change from the first block to the last, in models with experts; dense models have no common slope."""
ALIKE: Final = MappingProxyType({"ssm_ba": "ssm_beta", "attn_kv_b": "attn_v_b"})
"""Roles that those models lack, and the roles with the same function in them."""
SPREAD: Final = 0.65
"""Standard deviation of ln(measured / predicted) within a model that is not part of the fit; see docs/quality.md."""


def half_of(role: str) -> str:
    """The half of a block that a role belongs to."""
    return "feed-forward" if role.startswith("ffn_") else "attention"


def last_block(names: Sequence[str]) -> int:
    """The last block, not counting those that predict the token after next; -1 if there is none."""
    blocks = {block_of(name) for name in names}
    return max(blocks - {block_of(name) for name in names if ".nextn." in name}, default=-1)


def role_sensitivities(tensors: Sequence[Tensor]) -> Float64[np.ndarray, " tensors"]:
    """The sensitivity of every tensor in nominal nats per token; ratios are right within a factor of about e^SPREAD."""
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
