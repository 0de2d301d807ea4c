"""Collect Gram statistics of outputs: pass back through a model and sum g gᵀ over the gradients g at every product.

Theory. With G = Σ_t g_t x_tᵀ the gradient of a matrix W, the KL divergence of a change ΔW is E[<G, ΔW>²] / (2 T)
(`curvature.fisher`). Where gradients and inputs are independent, and those of different tokens too, this is
tr(M ΔW H ΔWᵀ) with M = E[g gᵀ] and H = E[x xᵀ] (K-FAC: Martens and Grosse, arXiv 1503.05671; for rounding: Tseng and
others, arXiv 2505.22988). Rows whose outputs vary together can then take back each other's errors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from raq_client.compensation.gram import Entry, Gram, InMemory, MatrixGram, column_blocks, output_entry, spread
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS, Sums
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.passes import Collection, GradientSums
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor

WIDTHS: Final = (2048, 1024, 512, 256)
"""Widths of blocks of rows, from which the widest that fits in memory is taken. On an 18M model at Q4_K blocks of 128,
256 and 512 rows left 0.79, 0.75 and 0.73 of the KL divergence of feedback between columns alone."""
_F32_BYTES: Final = 4


class OutputsCollection(Collection):
    """The statistics of outputs of every tensor of the blocks, collected from `windows` windows; `gram` has them.

    `memory` bounds the bytes of the sums, by the width of their blocks. Some windows at a time `save` is called with
    the state so far, and returns it as it was stored; what `gram` already has of outputs is continued.

    Raises InvalidInput if there are fewer than 8 windows, or not enough memory.
    """

    def __init__(
        self,
        gram: Gram,
        model: ModelFile,
        windows: int,
        *,
        memory: int,
        save: Callable[[Gram], Gram] | None = None,
    ) -> None:
        if windows < HELD_OUT_EVERY:
            what = f"{windows} windows to pass back; at least {HELD_OUT_EVERY} are needed, of which one is held out"
            raise InvalidInput(Fault("outputs", what))
        tensors = [t for t in model.tensors if block_of(t.name) >= 0 and is_quantizable(t, model.architecture)]
        # What is continued keeps the width that it was begun with.
        widths = [gram.entries[output_entry(name)].widest for name in gram.outputs]
        self.gram, self._windows, self._save = gram, windows, save
        self._growing = OutputSums(tensors, widths[0] if widths else _width(tensors, memory), windows)
        begun = _windows_done(gram)
        if begun:
            self._growing.continue_from(gram)
        super().__init__(self._growing, begun)

    def reached(self, windows: int) -> None:
        """Save the state, or end with the last of the windows."""
        if windows == self._windows:
            self.gram = _with(self.gram, self._growing, windows)
        elif self._save is not None:
            stored = self._save(replace(_with(self.gram, self._growing, windows), unfinished=True))
            self.gram = replace(self.gram, source=stored.source)  # the file that it was read from has been replaced


def _windows_done(gram: Gram) -> int:
    """The windows that were counted for outputs."""
    return min((gram.entries[output_entry(name)].windows for name in gram.outputs), default=0)


def _with(gram: Gram, sums: "OutputSums", windows: int) -> Gram:
    found = dict(sums.found())
    parts = {output_entry(name): each for name, each in found.items()}
    entries = {name: Entry.of(each, windows, sums.width) for name, each in parts.items()}
    source = InMemory(parts, gram.source)
    return replace(gram, entries={**gram.entries, **entries}, source=source, outputs=frozenset(found), known_digest="")


def _width(tensors: Sequence[Tensor], memory: int) -> int:
    """The widest blocks whose sums fit. Raises InvalidInput if none do."""
    for width in WIDTHS:
        if _bytes(tensors, width) <= memory:
            return width
    needed = _bytes(tensors, WIDTHS[-1])
    what = f"statistics of outputs need {needed:,} bytes of memory, more than --gram-memory {memory:,}; give more"
    raise InvalidInput(Fault("outputs", what))


def _bytes(tensors: Sequence[Tensor], width: int) -> int:
    """Memory of the sums with blocks of at most `width` rows."""
    squares = sum(t.matrices * sum(each.square for each in column_blocks(t.rows // t.matrices, width)) for t in tensors)
    return _F32_BYTES * (squares + HELD_OUT_INPUTS * sum(t.rows for t in tensors))


class OutputSums(GradientSums):
    """The growing sums of the outputs of these tensors, over `windows` windows.

    Not of the head and the embedding: one has as many outputs as the vocabulary, the other uses a row at a time.
    """

    def __init__(self, tensors: Sequence[Tensor], width: int, windows: int) -> None:
        self.width = width
        self._sums = {tensor.name: _empty(tensor, width) for tensor in tensors}
        self._window = 0
        self._kept = -(-HELD_OUT_INPUTS // len(range(HELD_OUT_EVERY - 1, windows, HELD_OUT_EVERY)))

    def continue_from(self, gram: Gram) -> None:
        """Go on from the outputs in these statistics."""
        for name in gram.outputs:
            entry = output_entry(name)
            self._sums[name] = [Sums.of(gram.source.matrix(entry, each)) for each in range(len(self._sums[name]))]

    def found(self) -> Iterator[tuple[str, list[MatrixGram]]]:
        """The means so far, by tensor."""
        for name, parts in self._sums.items():
            yield name, [each.found() for each in parts]

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window."""
        self._window = window

    def watch_of(self, name: str, matrix: int, _inputs: Array) -> Watch:
        """A watcher that adds the gradients at one product's outputs."""

        def watch(_inputs: np.ndarray, gradient: np.ndarray) -> None:
            sums = self._sums[name][matrix]
            rows = np.ascontiguousarray(gradient, np.float32)
            if not np.isfinite(rows).all():
                raise InvalidInput(
                    Fault(name, "its gradient is not finite: a weight or an activation is NaN or infinite")
                )
            if self._window % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
                sums.hold_out(spread(rows, self._kept))
            else:
                sums.add(rows)

        return watch if name in self._sums else lambda _inputs, _gradient: None


def _empty(tensor: Tensor, width: int) -> list[Sums]:
    columns = column_blocks(tensor.rows // tensor.matrices, width)
    return [Sums.empty(columns) for _ in range(tensor.matrices)]
