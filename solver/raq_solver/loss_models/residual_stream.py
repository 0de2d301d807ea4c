"""Sensitivities from the residual stream, without running the model: the share of each tensor in what is read later.

Theory. Every block adds two outputs to the residual stream: attention's and the feed-forward's. With importance h
(mean squared inputs) the energy Σ h W² of the writing tensor is the mean squared length of what it adds, and the sum
of all energies before a point, the embedding's included, that of the stream there (inputs taken as uncorrelated). A
relative error E of a tensor inside a block becomes a relative error of about E of the block's addition, and later
reads of the stream see it in proportion to the addition's share. Every later block reads the stream once per half, the
output head once at the end:

    s = SCALE × role factor × (READ × Σ over later reads of share + share at the end)

Early blocks of deep models write little into a stream that later blocks dominate, the last blocks write much: published
per-tensor tables show the same shape.

The constants were fitted to the measured sensitivities of the project's two trained models (30 and 44 tensors) and
tested crosswise: fitted on one model, the spread of ln(predicted / measured) on the other is 0.49, against 0.78 and
0.96 when all tensors count alike. docs/quality.md has the measurements.
"""

from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_solver.profile import Profile
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING, block_of, is_tied, role_of

SCALE: Final = 0.2
"""Nats per token at the end of the stream, per unit of relative error."""
READ: Final = 0.19
"""Weight of a read by half a block, relative to the output head's read."""
ROLE_FACTORS: Final = {
    "attn_q": 1.0,
    "attn_k": 0.93,
    "attn_qkv": 1.0,
    "attn_v": 0.76,
    "attn_output": 0.91,
    "ffn_gate": 0.41,
    "ffn_up": 0.29,
    "ffn_down": 0.64,
}
OTHER_ROLES: Final = 0.76
"""Role factor of tensors of attention or of a recurrent pathway that the fitted models lack."""
OUTPUT_FACTOR: Final = 1.76
EMBEDDING_FACTOR: Final = 4.96
_ATTENTION_WRITERS: Final = ("attn_output", "ssm_out")


def residual_sensitivities(profile: Profile) -> Float64[np.ndarray, " tensors"] | str:
    """The sensitivity of every tensor in nats per token, or a clause on why this model is not covered."""
    if not profile.has_importance:
        return "it was measured without importance"
    if any(tensor.matrices > 1 for tensor in profile.tensors):
        return "it has expert tensors, whose share of the residual stream is not known"
    if _has_norms_after_blocks({tensor.name for tensor in profile.tensors}):
        return "its half blocks' outputs are normalized before they are added, so that their energy says nothing"
    energy = {tensor.name: float(e) for tensor, e in zip(profile.tensors, profile.energies, strict=True)}
    embedding = next((t for t in profile.tensors if t.name == TOKEN_EMBEDDING), None)
    blocks = _writers(energy)
    if embedding is None or not blocks:
        return "its blocks do not each have one attention output and one ffn_down"
    first = energy[embedding.name] / embedding.rows
    shares = _shares(np.array([first, *blocks]))
    return np.array([_sensitivity(tensor.name, shares, energy) for tensor in profile.tensors])


def _has_norms_after_blocks(names: set[str]) -> bool:
    """Whether half blocks normalize their output before they add it to the stream (gemma2, gemma3, olmo2).

    In other models (qwen35) post_attention_norm is the norm before the feed-forward: there is no ffn_norm beside it.
    """
    return (
        "blk.0.post_ffw_norm.weight" in names
        or {
            "blk.0.post_attention_norm.weight",
            "blk.0.ffn_norm.weight",
        }
        <= names
    )


def _writers(energy: dict[str, float]) -> list[float]:
    """Energies of the additions to the stream, in order: attention, feed-forward, attention …; empty if unclear."""
    count = 1 + max((block_of(name) for name in energy if name.endswith(".weight")), default=-1)
    found: list[float] = []
    for block in range(count):
        attention = [energy[n] for role in _ATTENTION_WRITERS if (n := f"blk.{block}.{role}.weight") in energy]
        down = energy.get(f"blk.{block}.ffn_down.weight")
        if len(attention) != 1 or down is None or attention[0] <= 0 or down <= 0:
            return []
        found += [attention[0], down]
    return found


def _shares(added: Float64[np.ndarray, " writers"]) -> Float64[np.ndarray, " writers"]:
    """For each addition (the embedding first) its weighted share of the stream over all later reads."""
    inverse = 1 / np.cumsum(added)
    # After the i-th addition come the reads i .. n-2, each by a half block, and the output head's at n-1.
    reads = np.append(np.cumsum(inverse[:-1][::-1])[::-1], 0.0)
    weighted: Float64[np.ndarray, " writers"] = added * (READ * reads + inverse[-1])
    return weighted


def _sensitivity(name: str, shares: Float64[np.ndarray, " writers"], energy: dict[str, float]) -> float:
    if name == OUTPUT:
        return SCALE * OUTPUT_FACTOR
    if name == TOKEN_EMBEDDING:
        tied = SCALE * OUTPUT_FACTOR if is_tied(energy) else 0.0
        return float(SCALE * EMBEDDING_FACTOR * shares[0]) + tied
    block, role = block_of(name), role_of(name)
    if block < 0:
        return SCALE
    half = 1 if role.startswith("ffn_") else 0
    return float(SCALE * ROLE_FACTORS.get(role, OTHER_ROLES) * shares[1 + 2 * block + half])
