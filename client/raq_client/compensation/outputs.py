"""Collect Gram statistics of outputs: pass back through a model and sum g gᵀ over the gradients g at every product.

Theory. With G = Σ_t g_t x_tᵀ the gradient of a matrix W, the KL divergence of a change ΔW is E[<G, ΔW>²] / (2 T)
(`curvature.fisher`). Where gradients and inputs are independent, and those of different tokens too, this is
tr(M ΔW H ΔWᵀ) with M = E[g gᵀ] and H = E[x xᵀ] (K-FAC: Martens and Grosse, arXiv 1503.05671; for rounding: Tseng and
others, arXiv 2505.22988). Rows whose outputs vary together can then take back each other's errors.

The embedding and the output head have as many rows as the vocabulary, too many for M. A change δ of a row of the
embedding changes the loss by gᵀ δ, with g the gradient at that row; one of a row of the head changes a logit by xᵀ δ,
and the KL divergence by the square of that times half the variance of the label, p (1 - p). So their columns can take
back each other's errors by E[g gᵀ] and E[Σ p (1 - p) x xᵀ], taken as the same for all rows; those of an embedding that
is the head too by the sum of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.compensation.gram import (
    Gram,
    column_blocks,
    curvature_entry,
    output_entry,
    spread,
    weighed_entry,
)
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS, Sums, SumsSource, entry_of
from raq_client.compensation.weighed import HalfWeighed, WeighedInputs, weighed_bytes, with_enough_tokens
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.network import unwatched
from raq_client.curvature.passes import Collection, GradientSums, HeadPass
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING, block_of
from raq_solver.tensors import Tensor

WIDTHS: Final = (2048, 1024, 512, 256)
"""Widths of blocks of rows, from which the widest that fits in memory is taken. On an 18M model at Q4_K blocks of 128,
256 and 512 rows left 0.79, 0.75 and 0.73 of the KL divergence of feedback between columns alone."""
_F32_BYTES: Final = 4


class OutputsCollection(Collection):
    """The statistics of outputs of every tensor of the blocks, and of the embedding and the head; `gram` has them.

    They are of `windows` windows. `memory` bounds the bytes of the sums, by the width of their blocks. Where it and
    the tokens are enough, inputs are weighed by the gradients too (`compensation.weighed`), but for those of the
    windows numbered in `held_out`, on which feedback is tested. Some windows at a time `save` is called with the state
    so far, and returns it as it was stored; what `gram` already has of outputs is continued.

    Raises InvalidInput if there are fewer than 8 windows, or not enough memory.
    """

    def __init__(
        self,
        gram: Gram,
        model: ModelFile,
        windows: int,
        *,
        memory: int,
        held_out: frozenset[int] = frozenset(),
        save: Callable[[Gram], Gram] | None = None,
    ) -> None:
        if windows < HELD_OUT_EVERY:
            what = f"{windows} windows to pass back; at least {HELD_OUT_EVERY} are needed, of which one is held out"
            raise InvalidInput(Fault("outputs", what))
        tensors, ends = _counted(model)
        begun = _windows_done(gram, ends)
        inputs = with_enough_tokens(tensors, (windows - len(held_out)) * gram.context)
        needed = weighed_bytes(inputs, gram.shared) + _bytes(tensors, ends, WIDTHS[-1])
        self.lacking = needed if needed > memory and not begun else 0
        """Bytes of memory with which inputs would be weighed too; 0 where they are, as far as tokens are enough."""
        # What is continued keeps the inputs and the width that it was begun with.
        if begun:
            inputs = [each for each in tensors if weighed_entry(gram.shared.get(each.name, "")) in gram.entries]
        weighed = WeighedInputs(() if self.lacking else inputs, gram.shared, held_out)
        widths = [gram.entries[output_entry(name)].widest for name in gram.outputs]
        width = widths[0] if widths else _width(tensors, ends, memory - weighed.size_bytes)
        self.gram, self._windows, self._save = gram, windows, save
        self._growing = OutputSums(tensors, ends, width, windows, weighed)
        if begun:
            self._growing.continue_from(gram)
        super().__init__(self._growing, begun)

    def reached(self, windows: int) -> None:
        """Save the state, or end with the last of the windows."""
        if windows == self._windows:
            found = self._growing.added_to(self.gram, windows)
            halves = HalfWeighed(found.source, self._growing.weighed)
            self.gram = _without_unused(replace(found, source=halves))
        elif self._save is not None:
            stored = self._save(self._growing.added_to(self.gram, windows, growing=True))
            self.gram = replace(self.gram, source=stored.source)  # the file that it was read from has been replaced


def check_memory(model: ModelFile, memory: int) -> None:
    """Raise InvalidInput if the statistics of a model's outputs do not fit in `memory` bytes."""
    _width(*_counted(model), memory)


def _counted(model: ModelFile) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors whose outputs are counted, and the embedding and the head."""
    quantizable = [tensor for tensor in model.tensors if is_quantizable(tensor, model.architecture)]
    ends = [tensor for tensor in quantizable if tensor.name in (TOKEN_EMBEDDING, OUTPUT)]
    return [tensor for tensor in quantizable if block_of(tensor.name) >= 0], ends


def held_out_windows(gram: Gram, windows: Int32[np.ndarray, "windows context"]) -> frozenset[int]:
    """The numbers of those windows, of `windows` to pass back, whose inputs were held out when inputs were counted."""
    if gram.sequences is None:
        return frozenset()
    held_out = {row.tobytes() for row in gram.sequences[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]}
    return frozenset(number for number, row in enumerate(windows) if row.tobytes() in held_out)


def without_outputs(gram: Gram) -> Gram:
    """The statistics without what is begun of outputs and curvature."""
    passed_back = {curvature_entry(OUTPUT), curvature_entry(TOKEN_EMBEDDING), *map(output_entry, gram.outputs)}
    passed_back |= set(map(weighed_entry, gram.entries))
    entries = {name: entry for name, entry in gram.entries.items() if name not in passed_back}
    shared = {name: entry for name, entry in gram.shared.items() if entry in entries}
    growing = gram.growing - passed_back
    return replace(gram, entries=entries, shared=shared, outputs=frozenset(), known_digest="", growing=growing)


def _windows_done(gram: Gram, ends: Sequence[Tensor]) -> int:
    """The windows that were counted, for outputs and for the curvature of `ends`."""
    needed = [*map(output_entry, gram.outputs), *(curvature_entry(tensor.name) for tensor in ends)]
    found = [gram.entries[name].windows if name in gram.entries else 0 for name in needed]
    return min(found, default=0) if gram.outputs else 0


def _without_unused(gram: Gram) -> Gram:
    """The statistics without inputs of the head, in whose place its curvature is, and weighed inputs of a state."""
    used = {*gram.shared.values(), *map(output_entry, gram.outputs)}
    return replace(gram, entries={name: entry for name, entry in gram.entries.items() if name in used})


def _width(tensors: Sequence[Tensor], ends: Sequence[Tensor], memory: int) -> int:
    """The widest blocks whose sums fit. Raises InvalidInput if none do."""
    for width in WIDTHS:
        if _bytes(tensors, ends, width) <= memory:
            return width
    needed = _bytes(tensors, ends, WIDTHS[-1])
    what = f"statistics of outputs need {needed:,} bytes of memory, more than --gram-memory {memory:,}; give more"
    raise InvalidInput(Fault("outputs", what))


def _bytes(tensors: Sequence[Tensor], ends: Sequence[Tensor], width: int) -> int:
    """Memory of the sums with blocks of at most `width` rows."""
    squares = sum(t.matrices * sum(each.square for each in column_blocks(t.rows // t.matrices, width)) for t in tensors)
    squares += sum(each.square for tensor in ends for each in column_blocks(tensor.row_length))
    # Of an embedding that is the head too, gradients and inputs are held out.
    held_out = sum(tensor.rows for tensor in tensors) + 2 * sum(tensor.row_length for tensor in ends)
    return _F32_BYTES * (squares + HELD_OUT_INPUTS * held_out)


class OutputSums(GradientSums):
    """The growing sums of the outputs of these tensors, and the curvature of the `ends`, over `windows` windows.

    `weighed` are those of inputs that grow with them.
    """

    def __init__(
        self, tensors: Sequence[Tensor], ends: Sequence[Tensor], width: int, windows: int, weighed: WeighedInputs
    ) -> None:
        self._width = width
        self.weighed = weighed
        self._sums = {tensor.name: _empty(tensor, width) for tensor in tensors}
        self._curvature = {tensor.name: Sums.empty(column_blocks(tensor.row_length)) for tensor in ends}
        self._window = 0
        self._kept = -(-HELD_OUT_INPUTS // len(range(HELD_OUT_EVERY - 1, windows, HELD_OUT_EVERY)))

    def continue_from(self, gram: Gram) -> None:
        """Go on from the outputs in these statistics."""
        for name in gram.outputs:
            entry = output_entry(name)
            parts = range(len(self._sums[name]))
            self._sums[name] = [Sums.going_on(gram.source.matrix(entry, each)) for each in parts]
        for name in self._curvature:
            self._curvature[name] = Sums.going_on(gram.source.matrix(curvature_entry(name), 0))
        self.weighed.continue_from(gram)

    def added_to(self, gram: Gram, windows: int, *, growing: bool = False) -> Gram:
        """These statistics with the means of this number of windows; `growing`: a state with the sums so far."""
        outputs = {output_entry(name): parts for name, parts in self._sums.items()}
        curvature = {curvature_entry(name): [sums] for name, sums in self._curvature.items()}
        entries = {name: entry_of(parts, windows, self._width) for name, parts in outputs.items()}
        columns = {**curvature, **self.weighed.sums} if growing else curvature
        entries |= {name: entry_of(parts, windows) for name, parts in columns.items()}
        sums = {**outputs, **columns}
        return replace(
            gram,
            entries={**gram.entries, **entries},
            shared={**gram.shared, **{name: curvature_entry(name) for name in self._curvature}},
            source=SumsSource(sums, gram.source, growing),
            outputs=frozenset(self._sums),
            known_digest="",
            unfinished=growing,
            growing=frozenset(sums) if growing else frozenset(),
        )

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window."""
        self._window = window

    def watch_of(self, name: str, matrix: int, inputs: Array) -> Watch:
        """A watcher that adds the gradients at one product's outputs."""

        def watch(inputs: np.ndarray, gradient: np.ndarray, _at_inputs: np.ndarray) -> None:
            self._count(name, self._sums[name][matrix], gradient)
            self.weighed.add(name, matrix, self._window, inputs, gradient)

        return watch if name in self._sums else unwatched(name, matrix, inputs)

    def add_head(self, name: str, head: HeadPass) -> None:
        """Add the inputs of the output head, times the standard deviation of the labels."""
        if name in self._curvature:
            variances = head.label_variances().sum(axis=1, keepdims=True)
            self._count(name, self._curvature[name], head.inputs * np.sqrt(variances))

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """Add the gradients at the rows of the embedding, of each token by itself.

        Those of a token that occurs several times, added up first, as Fisher information has them, were no better on
        the whole: docs/compensation.md.
        """
        del tokens
        if name in self._curvature:
            self._count(name, self._curvature[name], gradient)

    def _count(self, name: str, sums: Sums, gradient: np.ndarray) -> None:
        """Count what belongs to one window, or hold some of it out."""
        rows = np.ascontiguousarray(gradient, np.float32)
        if not np.isfinite(rows).all():
            raise InvalidInput(Fault(name, "its gradient is not finite: a weight or an activation is NaN or infinite"))
        if self._window % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
            sums.hold_out(spread(rows, self._kept))
        else:
            sums.add(rows)


def _empty(tensor: Tensor, width: int) -> list[Sums]:
    columns = column_blocks(tensor.rows // tensor.matrices, width)
    return [Sums.empty(columns) for _ in range(tensor.matrices)]
