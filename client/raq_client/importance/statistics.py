"""Statistics of an importance file by tensor, and summed up by block, zone and role.

The figures are those of `llama-imatrix --show-statistics` (tools/imatrix/imatrix.cpp of llama.cpp 0c1e57098), over the
mean squared input of each column. They describe activations and do not rank tensors by damage: inputs grow with depth,
but a tensor with large inputs does not necessarily lose more by quantization.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float64

from raq_client.importance.imatrix import Entry, Importance
from raq_solver.tensor_names import block_of, in_block, role_of

ZONE_BLOCKS: Final = 8
"""Blocks per zone, as in the RA articles for a model of 64 blocks."""
ACTIVE_ABOVE: Final = 1e-5
"""A column counts as active above this mean square: llama-imatrix's threshold."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class EntryStatistics:
    """The statistics of one tensor, over the columns of all experts that were reached.

    `entropy` is in bits, `entropy_share` relative to its maximum; `active` and `outliers` (more than one standard
    deviation above the mean) are shares of columns; `similarity` is the cosine with the same tensor one block earlier,
    None if there is none. `tied` are the names of tensors with identical sums, i.e. with the same input. `centre` is
    the mean input and `bias` the sum of squared column means over the sum of mean squares, the share explained by a
    constant; both are None if the file has no sums of inputs.
    """

    name: str
    block: int
    zone: int
    role: str
    tokens: int
    values: int
    total: float
    mean: float
    deviation: float
    least: float
    most: float
    entropy: float
    entropy_share: float
    active: float
    outliers: float
    similarity: float | None
    centre: float | None
    bias: float | None
    experts: int
    silent_experts: int
    tied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExpertStatistics:
    """The statistics of one expert: its tokens, their share of all, and its mean squared input (NaN if no tokens)."""

    name: str
    expert: int
    tokens: int
    share: float
    mean: float


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Means over the tensors of a group, weighted by their number of columns."""

    tensors: int
    total: float
    mean: float
    entropy_share: float


def entry_statistics(importance: Importance) -> tuple[EntryStatistics, ...]:
    """The statistics of every tensor, in the order of blocks."""
    ties = tied_groups(importance)
    names = sorted(importance.entries, key=lambda name: (block_of(name), name))
    return tuple(_of_entry(importance, name, ties[name]) for name in names)


def expert_statistics(importance: Importance, name: str) -> tuple[ExpertStatistics, ...]:
    """The statistics of each expert of one tensor; a single entry for a tensor without experts."""
    entry = importance.entries[name]
    tokens = entry.counts.astype(np.float64)
    means = np.where(tokens > 0, entry.mean_squares.mean(axis=1, dtype=np.float64), np.nan)
    shares = tokens / max(tokens.sum(), 1.0)
    return tuple(
        ExpertStatistics(name, expert, int(tokens[expert]), float(shares[expert]), float(means[expert]))
        for expert in range(tokens.size)
    )


def grouped(statistics: Sequence[EntryStatistics], key: Callable[[EntryStatistics], Key]) -> dict[Key, GroupStatistics]:
    """The statistics by block, zone, role or any other key, in the order of first appearance."""
    groups: dict[Key, list[EntryStatistics]] = {}
    for one in statistics:
        groups.setdefault(key(one), []).append(one)
    return {name: _of_group(members) for name, members in groups.items()}


def tied_groups(importance: Importance) -> dict[str, tuple[str, ...]]:
    """For each tensor, all tensors (including itself) with identical sums and counts, i.e. with the same input."""
    groups: dict[bytes, list[str]] = {}
    for name, entry in importance.entries.items():
        groups.setdefault(entry.sums.tobytes() + entry.counts.tobytes(), []).append(name)
    return {name: tuple(group) for group in groups.values() for name in group}


def zone_of(name: str) -> int:
    """The zone of a tensor's block, -1 outside of blocks.

    >>> zone_of("blk.17.attn_q.weight"), zone_of("output.weight")
    (2, -1)
    """
    block = block_of(name)
    return -1 if block < 0 else block // ZONE_BLOCKS


def _of_entry(importance: Importance, name: str, tied: tuple[str, ...]) -> EntryStatistics:
    entry = importance.entries[name]
    values = _reached(entry)
    total = float(values.sum())
    mean, deviation = (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)
    entropy = _entropy(values, total)
    centre, bias = _centre(entry, total)
    return EntryStatistics(
        name=name,
        block=block_of(name),
        zone=zone_of(name),
        role=role_of(name),
        tokens=int(entry.counts.sum(dtype=np.float64)),
        values=values.size,
        total=total,
        mean=mean,
        deviation=deviation,
        least=float(values.min(initial=np.inf)) if values.size else 0.0,
        most=float(values.max(initial=0.0)),
        entropy=entropy,
        entropy_share=entropy / float(np.log2(values.size)) if values.size > 1 else 0.0,
        active=_share(values > ACTIVE_ABOVE),
        outliers=_share(values > mean + deviation),
        similarity=_similarity(importance, name),
        centre=centre,
        bias=bias,
        experts=entry.counts.size,
        silent_experts=int((entry.counts == 0).sum()),
        tied=tuple(other for other in tied if other != name),
    )


def _reached(entry: Entry) -> Float64[np.ndarray, " values"]:
    return entry.mean_squares[entry.counts > 0].astype(np.float64).ravel()


def _centre(entry: Entry, total: float) -> tuple[float | None, float | None]:
    if entry.means is None:
        return None, None
    means = entry.means[entry.counts > 0].astype(np.float64)
    return float(means.mean()) if means.size else 0.0, float(np.square(means).sum()) / total if total > 0 else 0.0


def _entropy(values: Float64[np.ndarray, " values"], total: float) -> float:
    shares = values[values > 0] / total if total > 0 else np.zeros(0)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if flags.size else 0.0


def _similarity(importance: Importance, name: str) -> float | None:
    block = block_of(name)
    before = importance.entries.get(in_block(block - 1, name)) if block > 0 else None
    if before is None:
        return None
    one, other = (e.mean_squares.astype(np.float64).ravel() for e in (importance.entries[name], before))
    if one.shape != other.shape:
        return None
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0


def _of_group(members: Sequence[EntryStatistics]) -> GroupStatistics:
    counts = np.array([one.values for one in members], dtype=np.float64)
    if counts.sum() == 0:
        return GroupStatistics(len(members), 0.0, 0.0, 0.0)
    figures = np.array([(one.total, one.mean, one.entropy_share) for one in members])
    total, mean, entropy_share = np.average(figures, axis=0, weights=counts)
    return GroupStatistics(len(members), float(total), float(mean), float(entropy_share))
