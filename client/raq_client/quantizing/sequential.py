"""Sequential rounding: block after block, each for the inputs that it gets once the blocks before it are rounded.

Two streams pass through the model: that of its own weights, and that of the rounded ones. Before a block is rounded
both pass through its own weights, which shows how its inputs have drifted (`compensation.drift`); its weights are
corrected for that, rounded with error feedback as ever, and the second stream passes through the result.

Rules
- The second stream begins with the rounded embedding, so that the blocks take back its errors too. An output head of
  its own comes last.
- Which tokens reach an expert differs between the streams: for pairs of its inputs, those of the second stream go where
  they go in the first. The router and norms are not rounded, and stay as they are.
- Rounded tensors are kept in files until all are written; an interrupted pass goes on with the first block that is not
  complete. Tensors kept from earlier builds are taken for those that the pass would make: `kept_in_turn`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

import raq_native
from raq_client.compensation.collect import input_scales, sample_places
from raq_client.compensation.drift import Drift, DriftSums, Inputs
from raq_client.compensation.gram import Gram, column_blocks, spread
from raq_client.compensation.sums import HELD_OUT_EVERY, HELD_OUT_INPUTS
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.network import BlockWeights, Network, Route, most_likely, unwatched
from raq_client.curvature.shapes import shape_of
from raq_client.models.model_file import CHUNK_WEIGHTS, ModelFile, row_chunks
from raq_client.models.writer import Blocks
from raq_client.quantizing.refusals import refusals_named
from raq_client.quantizing.rounding import Rounding, rows_of, sampled_rows
from raq_client.quantizing.spool import Spool
from raq_client.quantizing.tensor_store import KeptTensors
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING, block_of
from raq_solver.tensors import Tensor

SEQUENCES: Final = 64
"""Windows that pass through the model."""
EXPERT_BYTES: Final = 2 << 30
"""Memory for what is known of the drift of experts' inputs, of which as many as fit are counted at once."""
_DRIFT_BYTES: Final = 16  # for each pair of columns: float32 of two sums, a mean and the correction
IN_TURN: Final = "rounding blocks in turn"
"""The stage of the work, for progress."""

Stream = Float32[np.ndarray, "tokens width"]
Chunk = UInt8[np.ndarray, "rows size"]


def check_sequential(model: ModelFile, gram: Gram | None) -> None:
    """Raise InvalidInput with the reason if the blocks of a model can't be rounded one after the other."""
    if gram is None:
        raise InvalidInput(Fault("--sequential", "needs Gram statistics: give --gram FILE, or gram in raq.toml"))
    if gram.sequences is None or not gram.outputs:
        lost = "the tokens of its windows" if gram.sequences is None else "statistics of outputs"
        what = f"has not {lost}, which rounding blocks one after the other needs"
        what = f"{what}; collect it again (raq-client imatrix collect --gram)"
        raise InvalidInput(Fault(gram.where, what))
    if len(gram.sequences) < HELD_OUT_EVERY:
        what = f"has {len(gram.sequences)} windows, rounding blocks one after the other needs {HELD_OUT_EVERY}"
        what = f"{what}; collect it from longer texts"
        raise InvalidInput(Fault(gram.where, what))
    embedding = next((tensor for tensor in model.tensors if tensor.name == TOKEN_EMBEDDING), None)
    shape_of(model)
    if embedding is None or int(gram.sequences.max()) >= embedding.rows:
        raise InvalidInput(Fault(gram.where, f"has tokens that {model.path} does not have: the file is damaged"))


def sequences_of(gram: Gram) -> Int32[np.ndarray, "windows context"]:
    """The windows that pass through the model: at most `SEQUENCES` of those that the statistics are of."""
    assert gram.sequences is not None, "check_sequential has seen them"
    return spread(gram.sequences, SEQUENCES)


def sequentially_rounded(
    model: ModelFile,
    types: Mapping[Tensor, QuantType],
    rounding: Rounding,
    make: Blocks,
    folder: Path,
    passed: Callable[[int, int], None] | None = None,
    keep: KeptTensors | None = None,
) -> Blocks:
    """A function for the blocks of each tensor, after all blocks of the model were rounded one after the other.

    `make` rounds a tensor apart from others. Tensors of earlier builds are read from `keep`, and those of this one kept
    there: its keys must say all that they depend on (`kept_in_turn`).

    What is kept until then lies in `folder`, from where an interrupted pass goes on; who calls removes it. `passed` is
    called with the number of blocks that are done, and that of all. Raises InvalidInput as `check_sequential`, and if a
    weight is not finite or the disk is full.
    """
    compensation = rounding.compensation
    gram = None if compensation is None else compensation.gram
    check_sequential(model, gram)
    assert gram is not None, "it has been checked"
    changed = {tensor: wanted for tensor, wanted in types.items() if wanted != tensor.source_type}
    spool = Spool(folder)
    network = Network(model, shape_of(model), gram.context)
    _Pass(network, model, changed, rounding, gram, make, spool, passed, keep).run(sequences_of(gram))
    return lambda tensor, wanted: spool.read(tensor, wanted) if tensor in spool else make(tensor, wanted)


class _SeenError(Exception):
    """Ends a pass whose wanted inputs have been seen."""


class _Order:
    """The entries of a block in the order in which their products are computed."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = entries
        self.found: dict[str, None] = {}

    def watch_of(self, name: str, matrix: int, inputs: Array) -> Watch:
        if name in self._entries:
            self.found.setdefault(self._entries[name])
        return unwatched(name, matrix, inputs)


@dataclass(eq=False)
class _Pass:
    """The passes of both streams through a model whose tensors of `types` are rounded."""

    network: Network
    model: ModelFile
    types: Mapping[Tensor, QuantType]
    rounding: Rounding
    gram: Gram
    make: Blocks
    spool: Spool
    passed: Callable[[int, int], None] | None
    keep: KeptTensors | None
    true: list[Stream] = field(default_factory=list)
    drifted: list[Stream] = field(default_factory=list)

    def run(self, windows: Int32[np.ndarray, "windows context"]) -> None:
        """Round the embedding, block after block, and the head, as far as anything is missing."""
        last, blocks = self._last_missing(), self.network.shape.blocks
        if last >= 0:
            self.true = [self.network.embed(window) for window in windows]
            self.drifted = self._embedded(windows)
        for block in range(min(last + 1, blocks)):
            self._round_block(block)
        if last == blocks:
            self._round_head()
        elif self.passed is not None:
            self.passed(blocks, blocks)

    def _last_missing(self) -> int:
        """The last block with a tensor that no interrupted pass has rounded and no earlier build has kept.

        The number of blocks if the head is missing; -1 if nothing is.
        """
        blocks = self.network.shape.blocks
        last = -1
        for tensor, wanted in self.types.items():
            is_head = tensor.name == OUTPUT and has_drift(tensor, self.gram)
            if tensor in self.spool:
                if self.keep is not None:
                    self.keep.reused.append(tensor.name)
            elif (kept := self._kept(tensor, wanted)) is not None:
                self.spool.keep(tensor, kept)
            elif is_head or block_of(tensor.name) < blocks:
                last = max(last, blocks if is_head else block_of(tensor.name))
        return last

    def _kept(self, tensor: Tensor, wanted: QuantType) -> Iterator[Chunk] | None:
        return None if self.keep is None else self.keep.read(tensor, wanted, self.rounding)

    def _embedded(self, windows: Int32[np.ndarray, "windows context"]) -> list[Stream]:
        """The second stream before the first block."""
        found = self._of_name(TOKEN_EMBEDDING)
        if found is None:
            return list(self.true)
        tensor, wanted = found
        if tensor not in self.spool:
            self.spool.keep(tensor, self.make(tensor, wanted))
        stored = self.spool.mapped(tensor, wanted)

        def rows_of(tokens: Int32[np.ndarray, " distinct"]) -> Float32[np.ndarray, "distinct width"]:
            return raq_native.dequantize(wanted.name, np.ascontiguousarray(stored[tokens]), tensor.row_length)

        return [self.network.embed(window, rows_of) for window in windows]

    def _of_name(self, name: str) -> tuple[Tensor, QuantType] | None:
        return next(((tensor, wanted) for tensor, wanted in self.types.items() if tensor.name == name), None)

    def _round_block(self, block: int) -> None:
        """Round the tensors of the next block, and pass both streams through it."""
        weights = self.network.block_weights(block)
        rounded = BlockWeights(block, dict(weights.values))
        stages = self._stages(weights, [tensor for tensor in self.types if block_of(tensor.name) == block])
        for entry, tensors in stages:
            missing = [tensor for tensor in tensors if tensor not in self.spool]
            if entry is None:
                self._round(missing, None)
            elif missing and missing[0].matrices > 1:
                for tensor in missing:
                    drifts = self._drifts_of_experts(tensor, weights, rounded)
                    self.spool.keep(tensor, self._rounded(tensor, self.rounding, drifts))
            elif missing:
                self._round(missing, self._drifts(missing, range(1), weights, rounded))
            rounded = self._with(rounded, tensors)
        for window, (true, drifted) in enumerate(zip(self.true, self.drifted, strict=True)):
            self.true[window] = self.network.block(true, weights, unwatched)
            self.drifted[window] = self.network.block(drifted, rounded, unwatched)
        if self.passed is not None:
            self.passed(block + 1, self.network.shape.blocks)

    def _stages(self, weights: BlockWeights, tensors: Sequence[Tensor]) -> Iterator[tuple[str | None, list[Tensor]]]:
        """The tensors of a block by entry, in the order of their products; first those without drift, under None."""
        entries = {tensor.name: self.gram.shared[tensor.name] for tensor in tensors if has_drift(tensor, self.gram)}
        yield None, [tensor for tensor in tensors if tensor.name not in entries]
        order = _Order(entries)
        self.network.block(self.true[0], weights, order.watch_of)
        for entry in order.found:
            yield entry, [tensor for tensor in tensors if entries.get(tensor.name) == entry]

    def _drifts_of_experts(self, tensor: Tensor, own: BlockWeights, rounded: BlockWeights) -> Iterator[Drift]:
        """How the inputs of each matrix of a tensor differ, as many at once as are counted together."""
        at_once = experts_at_once(tensor)
        for first in range(0, tensor.matrices, at_once):
            group = range(first, min(first + at_once, tensor.matrices))
            yield from self._drifts([tensor], group, own, rounded)

    def _drifts(
        self, tensors: Sequence[Tensor], matrices: range, own: BlockWeights, rounded: BlockWeights
    ) -> list[Drift]:
        """How the inputs of these matrices of tensors differ, with the tensors before them in the block rounded."""
        counting = {matrix: _Counting(tensors[0].row_length, len(self.true)) for matrix in matrices}
        typical: float | None = None
        for window, (true, drifted) in enumerate(zip(self.true, self.drifted, strict=True)):
            routes = Routes()
            inputs = self._inputs(tensors, true, own, routes.first)
            others = self._inputs(tensors, drifted, rounded, routes.again)
            typical = _typical(inputs.values()) if typical is None else typical
            for matrix in inputs.keys() & counting.keys():
                scales = routes.scales(matrix, inputs[matrix], len(true), typical)
                counting[matrix].add(window, inputs[matrix], others[matrix], scales)
        return [counting.pop(matrix).found() for matrix in matrices]

    def _inputs(
        self, tensors: Sequence[Tensor], stream: Stream, weights: BlockWeights, route: Route
    ) -> dict[int, Inputs]:
        """The inputs that tensors of a block share, by matrix, for the stream before it."""
        names, matrices = {tensor.name for tensor in tensors}, tensors[0].matrices
        found: dict[int, Inputs] = {}

        def watch_of(name: str, matrix: int, inputs: Array) -> Watch:
            if name in names:
                found[matrix] = np.ascontiguousarray(inputs, np.float32)
                if len(found) == matrices:
                    raise _SeenError
            return unwatched(name, matrix, inputs)

        with suppress(_SeenError):
            self.network.block(stream, weights, watch_of, route)
        return found

    def _round(self, tensors: Sequence[Tensor], drifts: Sequence[Drift] | None) -> None:
        """Round tensors of one block with the same inputs, several at once."""
        threads = self.rounding.threads or os.cpu_count() or 1
        at_once = max(1, min(len(tensors), threads))
        share = replace(self.rounding, threads=max(1, threads // at_once))
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda tensor: self.spool.keep(tensor, self._rounded(tensor, share, drifts)), tensors))

    def _rounded(self, tensor: Tensor, by: Rounding, drifts: Iterable[Drift] | None) -> Iterable[Chunk]:
        if drifts is None:
            return self.make(tensor, self.types[tensor])
        made = self._corrected(tensor, by, drifts)
        return made if self.keep is None else self.keep.keep(tensor, self.types[tensor], self.rounding, made)

    def _with(self, weights: BlockWeights, tensors: Sequence[Tensor]) -> BlockWeights:
        """A block's weights with those of rounded tensors."""
        values = dict(weights.values)
        for tensor in tensors:
            role, wanted = tensor.name.removeprefix(f"blk.{weights.block}."), self.types[tensor]
            stored = np.concatenate(list(self.spool.read(tensor, wanted)))
            restored = raq_native.dequantize(wanted.name, stored, tensor.row_length)
            values[role] = restored.reshape(weights.values[role].shape)
        return BlockWeights(weights.block, values)

    def _corrected(self, tensor: Tensor, by: Rounding, drifts: Iterable[Drift]) -> Iterator[Chunk]:
        for matrix, drift in enumerate(drifts):
            yield from self._corrected_matrix(tensor, matrix, by, drift)

    def _corrected_matrix(self, tensor: Tensor, matrix: int, by: Rounding, drift: Drift) -> Iterator[Chunk]:
        rows = tensor.rows // tensor.matrices
        places = sampled_rows(rows)
        some = rows_of(self.model, tensor, matrix)(places)
        share = drift.share(some)
        tested = drift.corrected(some, share)
        with refusals_named(tensor, some, (matrix * rows + places).tolist()):
            how = by.of_matrix(tensor, matrix, self.types[tensor], lambda _places: tested)
        chunk = tensor.weights // tensor.matrices if by.needs_all_rows(tensor) else CHUNK_WEIGHTS
        for _, first, last in (each for each in row_chunks(tensor, chunk) if each[0] == matrix):
            weights = np.ascontiguousarray(self.model.weights(tensor, first, last))
            with refusals_named(tensor, weights, range(first, last)):
                yield how.blocks(drift.corrected(weights, share))

    def _round_head(self) -> None:
        """Round an output head of its own for the inputs that it gets from the second stream."""
        found = self._of_name(OUTPUT)
        if found is None or found[0] in self.spool or not has_drift(found[0], self.gram):
            return
        own, other = ([self.network.head_inputs(each) for each in streams] for streams in (self.true, self.drifted))
        counting, typical = _Counting(found[0].row_length, len(own)), _typical(own[:1])
        for window, pair in enumerate(zip(own, other, strict=True)):
            counting.add(window, *pair, input_scales(pair[0], typical))
        self._round([found[0]], [counting.found()])


def experts_at_once(tensor: Tensor) -> int:
    """How many matrices of a tensor are counted in the same passes: as many as fit in `EXPERT_BYTES`."""
    squares = sum(columns.square for columns in column_blocks(tensor.row_length))
    return max(1, EXPERT_BYTES // (_DRIFT_BYTES * squares))


def has_drift(tensor: Tensor, gram: Gram) -> bool:
    """Whether the drift of a tensor's inputs is counted: feedback has statistics of it, and it has inputs."""
    return tensor.name != TOKEN_EMBEDDING and tensor.name in gram.shared


def _typical(inputs: Iterable[Inputs]) -> float:
    """The usual length of inputs of one window."""
    return float(np.median(np.concatenate([np.linalg.norm(each, axis=1) for each in inputs])))


class Routes:
    """Sends the tokens of a window in the second stream to the experts that they have in the first."""

    def __init__(self) -> None:
        self._chosen: Int64[np.ndarray, "tokens used"] | None = None

    def first(self, shares: Float32[np.ndarray, "tokens experts"], used: int) -> Int64[np.ndarray, "tokens used"]:
        """The model's own choice, which is kept."""
        self._chosen = most_likely(shares, used)
        return self._chosen

    def again(self, _shares: Float32[np.ndarray, "tokens experts"], _used: int) -> Int64[np.ndarray, "tokens used"]:
        """The choice of the first stream."""
        assert self._chosen is not None, "the first stream passes first"
        return self._chosen

    def scales(self, matrix: int, inputs: Inputs, tokens: int, typical: float) -> Float64[np.ndarray, "inputs 1"]:
        """What the inputs of a matrix, in a window of `tokens` tokens, are multiplied by: see `input_scales`."""
        if self._chosen is None or len(inputs) == tokens:  # no expert, or one shared by all tokens
            return input_scales(inputs, typical)
        # The first of an expert's inputs is not that of the first token: each is scaled at its place in the window.
        places = np.nonzero((self._chosen == matrix).any(axis=1))[0]
        whole = np.zeros((tokens, inputs.shape[1]), np.float32)
        whole[places] = inputs
        return input_scales(whole, typical)[places]


class _Counting:
    """The drift of the inputs of one matrix, summed window by window."""

    def __init__(self, length: int, windows: int) -> None:
        self._sums = DriftSums.empty(column_blocks(length))
        self._kept = -(-HELD_OUT_INPUTS // len(range(HELD_OUT_EVERY - 1, windows, HELD_OUT_EVERY)))

    def add(self, window: int, own: Inputs, other: Inputs, scales: Float64[np.ndarray, "inputs 1"]) -> None:
        """Count the inputs of a window in both streams, times `scales`, or hold some of them out."""
        pair = [(each * scales).astype(np.float32) for each in (own, other)]
        if window % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
            places, shares = sample_places(pair[0], self._kept)
            self._sums.hold_out(*(each[places] * shares for each in pair))
        else:
            self._sums.add(*pair)

    def found(self) -> Drift:
        """The drift so far."""
        return self._sums.found()
