"""Importance: mean squared input of each column of each tensor on calibration text (an "imatrix").

Rules
- Stored are the quantities of llama-imatrix: sums of squared inputs and the number of rows summed. Means are derived.
- Sums of the inputs themselves are optional and descriptive; they do not affect quantization, so the digest leaves
  them out.
- Fisher information measures how much the output changes with each weight. It has its own digest, `fisher_digest`.
- A matrix with count 0 is an expert that no token was routed to. Its importance is unknown, not zero.
- The sums of one entry are stored matrix after matrix, both in GGUF (which records this) and in .dat (which does not).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from raq_client.curvature.information import Fisher, InformedWindow, window_faults
from raq_client.importance.fused import same_input
from raq_solver.errors import Fault, raise_faults
from raq_solver.tensors import Tensor

DEFAULT_CHUNK_SIZE: Final = 512
"""llama-imatrix's default number of tokens per chunk; .dat files do not store it."""


LEAST_SHARE = np.float32(1e-9)
"""Least importance of a column relative to the largest, so that no weight is left unconstrained."""

IDLE_BELOW = np.float32(1e-6)
"""A column below this share of its row's mean counts as idle; active columns were observed from 5e-4 up."""
IDLE_SHARE = np.float32(0.1)
"""Importance given to an idle column, as a share of its row's mean. Measured on a 4M model with every other column
set to 0: the unweighted error over all columns equals llama-quantize's (IQ3_S 0.033 against 0.034, Q4_K 0.0060 against
0.0061; without this share 0.37 and 0.0065), the error over the active columns stays below llama-quantize's, and the KL
divergence with all tensors in IQ3_S is 0.040 against 0.037."""
IDLE_TENSOR = np.float32(1e-6)
"""Importance, in squared inputs, of every column of a tensor whose inputs were all 0: tiny but equal."""


@dataclass(frozen=True, eq=False)
class Entry:
    """Statistics of the inputs of one tensor.

    `sums` are sums of squared inputs, `counts` the number of rows (tokens) summed: one per matrix of an expert tensor,
    else one. `plain_sums` are sums of the inputs themselves; None if they were not kept.
    """

    sums: Float32[np.ndarray, " values"]
    counts: Float32[np.ndarray, " matrices"]
    plain_sums: Float32[np.ndarray, " values"] | None = None

    def __post_init__(self) -> None:
        for array in (self.sums, self.counts, self.plain_sums):
            if array is not None:
                array.setflags(write=False)

    @property
    def mean_squares(self) -> Float32[np.ndarray, "matrices length"]:
        """Mean squared input per column; 0 where nothing was counted."""
        return self._means(self.sums)

    @property
    def means(self) -> Float32[np.ndarray, "matrices length"] | None:
        """Mean input per column, 0 where nothing was counted; None if the plain sums were not kept."""
        return None if self.plain_sums is None else self._means(self.plain_sums)

    def _means(self, sums: Float32[np.ndarray, " values"]) -> Float32[np.ndarray, "matrices length"]:
        per_matrix = sums.reshape(self.counts.size, -1)
        counts = self.counts[:, None]
        means = np.zeros_like(per_matrix)
        np.divide(per_matrix, counts, out=means, where=counts > 0)
        return means


@dataclass(frozen=True, eq=False)
class Importance:
    """The entries of an importance file, sorted by tensor name. Raises InvalidInput with every fault.

    `fisher` is the Fisher information by tensor, from `fisher_windows` windows of the text; empty if not collected.
    `windows` are these windows in the order of the levels; empty for files without levels. `remarks` are what users
    should know of how it was combined. `growing` is what a state has beside rounded sums, to go on with the same bits.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = DEFAULT_CHUNK_SIZE
    source: str = ""
    fisher: Mapping[str, Fisher] = field(default_factory=dict)
    fisher_windows: int = 0
    remarks: tuple[str, ...] = ()
    windows: tuple[InformedWindow, ...] = ()
    growing: Mapping[str, Float64[np.ndarray, " values"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.fisher:
            object.__setattr__(self, "windows", ())
        object.__setattr__(self, "entries", MappingProxyType(dict(sorted(self.entries.items()))))
        object.__setattr__(self, "fisher", MappingProxyType(dict(sorted(self.fisher.items()))))
        faults = [fault for name, entry in self.entries.items() for fault in _entry_faults(name, entry)]
        faults += [fault for name, each in self.fisher.items() for fault in each.faults(name)]
        if self.fisher and self.fisher_windows < 1:
            faults.append(Fault(self.title, "has Fisher information, but not its number of windows"))
        raise_faults(faults or window_faults(self.title, self.fisher, self.windows, self.fisher_windows))

    @property
    def title(self) -> str:
        """What it is called in messages: where it is from."""
        return self.source or "the importance"

    def rows(self, tensor: Tensor) -> Float32[np.ndarray, "matrices length"] | None:
        """The importance of each column of each matrix of `tensor`, or None if nothing was counted.

        Experts that no token reached get the mean of the other experts in all columns. (llama.cpp uses ones, with the
        same result, since a common factor does not matter within a row.) Idle columns get a small share of their row's
        mean: with 0 their weights would be unconstrained, and one text does not prove that they are never used.
        """
        entry = self._entry_of(tensor.name)
        if entry is None or entry.sums.size != tensor.matrices * tensor.row_length:
            return None
        means = entry.mean_squares
        known = entry.counts > 0
        if not known.all():
            means[~known] = means[known].mean()
        _lift_idle(means)
        return means.reshape(tensor.matrices, tensor.row_length)

    def knows(self, name: str) -> bool:
        """Whether there is importance or Fisher information for this tensor."""
        return name in self.fisher or self._entry_of(name) is not None

    def _entry_of(self, name: str) -> Entry | None:
        """The counted entry of a tensor, or that of one with the same inputs in a model fused otherwise."""
        entries = (self.entries.get(each) for each in (name, *same_input(name)))
        return next((entry for entry in entries if entry is not None and entry.counts.any()), None)

    def rounding(self, tensor: Tensor) -> Float32[np.ndarray, "matrices length"] | None:
        """Column weights for quantizing each matrix, or None if all columns count equally.

        These are the importance or, for tensors without it (usually embedding and output head), the Fisher
        information of the columns.
        """
        known = self.rows(tensor)
        fisher = self.fisher.get(tensor.name)
        if known is not None or fisher is None:
            return known
        largest = fisher.columns.max(axis=1, keepdims=True)
        # Relative to the largest: products of tiny values would underflow in float32. A matrix of zeros becomes ones.
        shares = np.divide(fisher.columns, largest, out=np.ones_like(fisher.columns), where=largest > 0)
        counted: Float32[np.ndarray, "matrices length"] = np.maximum(shares, LEAST_SHARE)
        return counted.reshape(tensor.matrices, tensor.row_length)

    def digest(self) -> str:
        """SHA-256 over names, sums and counts; equal digests mean equal importance."""
        state = hashlib.sha256(b"raq importance 1\0")
        for name, entry in self.entries.items():
            state.update(f"{name}\0{entry.sums.size}\0{entry.counts.size}\0".encode())
            state.update(entry.sums.astype("<f4").tobytes() + entry.counts.astype("<f4").tobytes())
        return state.hexdigest()

    def fisher_digest(self) -> str:
        """SHA-256 over the Fisher information; "none" if there is none."""
        if not self.fisher:
            return "none"
        state = hashlib.sha256(b"raq fisher 1\0")
        for name, each in self.fisher.items():
            state.update(f"{name}\0{each.rows.shape}\0{each.columns.shape}\0".encode())
            state.update(b"".join(array.astype("<f4").tobytes() for array in each.deciding))
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How well an importance file covers a model.

    `missing`: wanted tensors without an entry (usually embedding and output head). `extra`: entries that match no
    tensor. `silent_experts`: by expert tensor, the number of experts that no token reached, if not 0.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    silent_experts: Mapping[str, int]


def check_against(importance: Importance, tensors: Sequence[Tensor], wanted: Sequence[Tensor]) -> Coverage:
    """Check that the importance belongs to a model with these tensors; `wanted` are those it should have entries for.

    Raises InvalidInput with every entry whose length differs from its tensor's, and, if fewer than half of the entries
    match a tensor, with every entry that does not.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    extra = tuple(n for n in importance.entries if not any(each in by_name for each in (n, *same_input(n))))
    known = {name: entry for name, entry in importance.entries.items() if name in by_name}
    faults = [fault for name, entry in known.items() for fault in _shape_faults(importance, by_name[name], entry)]
    faults += [
        Fault(name, f"Fisher information in {importance.title} has other shapes: the importance of another model?")
        for name, each in importance.fisher.items()
        if name in by_name and not _is_of(each, by_name[name])
    ]
    if 2 * len(extra) > len(importance.entries):
        faults += [Fault(name, f"in {importance.title}, but not a tensor of this model") for name in extra]
    raise_faults(faults)
    missing = tuple(tensor.name for tensor in wanted if importance.rows(tensor) is None)
    silent = {name: int((entry.counts == 0).sum()) for name, entry in known.items()}
    return Coverage(missing, extra, MappingProxyType({name: count for name, count in silent.items() if count}))


def _lift_idle(means: Float32[np.ndarray, "matrices length"]) -> None:
    """Raise idle columns to their share of the row's mean, in place; other columns stay unchanged."""
    whole = means.mean(dtype=np.float64)
    usual = means.mean(axis=1, keepdims=True, dtype=np.float64)
    usual[usual == 0] = whole or IDLE_TENSOR / IDLE_SHARE
    idle = means < IDLE_BELOW * usual
    if idle.any():
        means[idle] = np.broadcast_to(IDLE_SHARE * usual, means.shape)[idle]


def _entry_faults(name: str, entry: Entry) -> list[Fault]:
    faults = []
    for kind, values in (("value", entry.sums), ("count", entry.counts)):
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            what = f"{int(bad.sum())} of {values.size} {kind}s are negative or not finite, first {kind} {first}"
            faults.append(Fault(name, f"{what}: {values[first]}; collect the importance again"))
    if entry.plain_sums is not None and not np.isfinite(entry.plain_sums).all():
        faults.append(Fault(name, "sums of inputs are not finite; collect the importance again"))
    if entry.plain_sums is not None and entry.plain_sums.size != entry.sums.size:
        faults.append(Fault(name, f"{entry.plain_sums.size} sums of inputs, but {entry.sums.size} of their squares"))
    if entry.counts.size == 0 or entry.sums.size % entry.counts.size:
        faults.append(Fault(name, f"{entry.sums.size} values do not divide into {entry.counts.size} matrices"))
    return faults


def _is_of(fisher: Fisher, tensor: Tensor) -> bool:
    rows, columns = (tensor.matrices, tensor.rows // tensor.matrices), (tensor.matrices, tensor.row_length)
    return fisher.rows.shape == rows and fisher.columns.shape == columns


def _shape_faults(importance: Importance, tensor: Tensor, entry: Entry) -> list[Fault]:
    expected = tensor.row_length * tensor.matrices
    if entry.sums.size == expected and entry.counts.size in (1, tensor.matrices):
        return []
    shape = "×".join(str(length) for length in tensor.shape)
    what = f"{entry.sums.size} values in {importance.title}, but the tensor is {shape} and needs {expected}"
    return [Fault(tensor.name, f"{what}: the importance of another model?")]
