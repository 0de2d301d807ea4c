"""Inputs weighed by the gradients at the outputs: tokens whose errors cost more count more.

Theory. With g_t the gradient at the outputs for a token's input x_t, the KL divergence of a change ΔW is that of
Σ_t (g_tᵀ ΔW x_t)². Where the rows of ΔW do not depend on each other, that is Σ_t |g_t|² |ΔW x_t|² but for a factor, so
the metric of the columns is E[|g|² x xᵀ] (Kim and others, arXiv 2505.07004; Tseng and others, arXiv 2505.22988), not
E[x xᵀ]. Fewer windows are passed back than forward: what they say is one half of the metric, and inputs at unit length,
of all windows, are the other. Products of the same inputs share a metric, to which each adds its gradients.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float32

from raq_client.compensation.gram import Gram, GramSource, MatrixGram, column_blocks, weighed_entry
from raq_client.compensation.sums import Sums
from raq_solver.tensors import Tensor

LEAST_TOKENS: Final = 32
"""Tokens for each column with which inputs are weighed. With 16 nothing was gained, with 32 to 128 a twentieth to a
tenth (docs/compensation.md)."""


class WeighedInputs:
    """Growing sums of |g|² x xᵀ for the inputs of some tensors; `shared` are the entries of their inputs.

    Tensors without an entry are left out, and so are the windows numbered in `held_out`, whose inputs are those that
    feedback is tested on.
    """

    def __init__(self, tensors: Sequence[Tensor], shared: Mapping[str, str], held_out: Collection[int]) -> None:
        self._entries = {tensor.name: shared[tensor.name] for tensor in tensors if tensor.name in shared}
        self._products = Counter(map(weighed_entry, self._entries.values()))
        self._held_out = held_out
        self.sums: dict[str, list[Sums]] = {}
        for tensor in tensors:
            if tensor.name in self._entries:
                columns = column_blocks(tensor.row_length)
                empty = [Sums.empty(columns) for _ in range(tensor.matrices)]
                self.sums.setdefault(weighed_entry(self._entries[tensor.name]), empty)

    @property
    def size_bytes(self) -> int:
        """Memory of the sums."""
        return sum(block.nbytes for parts in self.sums.values() for part in parts for block in part.blocks)

    def continue_from(self, gram: Gram) -> None:
        """Go on from the sums in a state."""
        for entry, parts in self.sums.items():
            self.sums[entry] = [Sums.going_on(gram.source.matrix(entry, each)) for each in range(len(parts))]

    def found(self, entry: str, index: int) -> MatrixGram | None:
        """The means for matrix `index` of an entry; None with too few tokens, as for an expert seldom reached."""
        name = weighed_entry(entry)
        if name not in self.sums:
            return None
        sums = self.sums[name][index]
        enough = sums.tokens >= LEAST_TOKENS * self._products[name] * sums.columns[-1].last
        return sums.found() if enough else None

    def add(
        self,
        name: str,
        matrix: int,
        window: int,
        inputs: Float32[np.ndarray, "tokens columns"],
        gradient: Float32[np.ndarray, "tokens rows"],
    ) -> None:
        """Count the inputs of a product in a window, with the gradient at its outputs."""
        if name in self._entries and window not in self._held_out:
            lengths = np.sqrt(np.square(gradient, dtype=np.float64).sum(axis=1, keepdims=True))
            sums = self.sums[weighed_entry(self._entries[name])][matrix]
            sums.add(np.ascontiguousarray(inputs * lengths, np.float32))


def with_enough_tokens(tensors: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """The tensors whose inputs can be weighed with this number of tokens; of experts, if all reach the same one."""
    return [tensor for tensor in tensors if tokens >= LEAST_TOKENS * tensor.row_length]


def weighed_bytes(tensors: Sequence[Tensor], shared: Mapping[str, str]) -> int:
    """Memory that the sums of the inputs of these tensors would take."""
    entries = {shared[tensor.name]: tensor for tensor in tensors if tensor.name in shared}
    squares = (each.matrices * sum(part.square for part in column_blocks(each.row_length)) for each in entries.values())
    return np.dtype(np.float32).itemsize * sum(squares)


@dataclass(frozen=True, eq=False)
class HalfWeighed:
    """A source whose entries are one half those of another, and one half what is known of the weighed inputs."""

    source: GramSource
    weighed: WeighedInputs

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """Matrix `index` of an entry, on its own scale."""
        found, by_gradients = self.source.matrix(entry, index), self.weighed.found(entry, index)
        if by_gradients is None or _trace(by_gradients) <= 0:
            return found
        share = np.float32(_trace(found) / _trace(by_gradients))
        halves = zip(found.blocks, by_gradients.blocks, strict=True)
        return replace(found, blocks=tuple((one + share * other) / np.float32(2) for one, other in halves))


def _trace(gram: MatrixGram) -> float:
    return float(sum(np.diagonal(block).sum(dtype=np.float64) for block in gram.blocks))
