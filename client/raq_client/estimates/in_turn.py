"""Seconds that `--sequential` adds to rounding: text passed through the blocks, and corrections for its drift.

A window passes through the block in the middle of the model. Drift is summed and solved for some columns of inputs that
are drawn: the time does not depend on them.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

import numpy as np

from raq_client.compensation.drift import DriftSums, correction
from raq_client.compensation.gram import Gram, column_blocks
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.network import BlockWeights, Network, unwatched
from raq_client.curvature.shapes import shape_of
from raq_client.estimates.estimate import Stage, peak_memory
from raq_client.estimates.pace import Clock
from raq_client.models.model_file import ModelFile
from raq_client.quantizing.rounding import Rounding
from raq_client.quantizing.sequential import experts_at_once, has_drift, sequences_of
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor

WIDEST: Final = 1024
"""Columns for which drift is summed and solved."""
_STREAMS: Final = 2


def in_turn_at_once(tensors: Iterable[Tensor], rounding: Rounding) -> Callable[[Tensor], int]:
    """A function that tells how many tensors are rounded at once with one: those of its block with the same inputs."""
    assert rounding.compensation is not None, "it has been checked"
    gram, threads = rounding.compensation.gram, rounding.threads or os.cpu_count() or 1

    def together(tensor: Tensor) -> tuple[int, str | None]:
        return block_of(tensor.name), _counted_once(tensor, gram) if has_drift(tensor, gram) else None

    counts = Counter(map(together, tensors))
    return lambda tensor: min(threads, counts[together(tensor)])


def _counted_once(tensor: Tensor, gram: Gram) -> str:
    """Under what the drift of a tensor's inputs is counted: experts by themselves, others with those that share it."""
    return tensor.name if tensor.matrices > 1 else gram.shared[tensor.name]


def passing(
    model: ModelFile, rounding: Rounding, tensors: Collection[Tensor], *, clock: Clock = time.perf_counter
) -> Stage:
    """Passing text through all blocks, whose `tensors` are corrected for the drift of their inputs."""
    assert rounding.compensation is not None, "it has been checked"
    gram = rounding.compensation.gram
    windows, network = sequences_of(gram), Network(model, shape_of(model), gram.context)
    blocks = network.shape.blocks
    corrected = [each for each in tensors if has_drift(each, gram)]
    of_block = [each for each in corrected if block_of(each.name) == blocks // 2]
    stream = network.embed(windows[0])
    began = clock()
    weights = network.block_weights(blocks // 2)
    reading = clock() - began
    whole, seen = _pass_seconds(network, stream, weights, of_block, gram, clock)
    add, solve = _drift_seconds(max((each.row_length for each in corrected), default=0), gram.context, clock)
    entries = {_counted_once(each, gram): each for each in corrected}.values()
    used = network.shape.experts_used
    summed = sum(_powers(each.row_length, 2) * (used if each.matrices > 1 else 1) for each in entries)
    solved = sum(_powers(each.row_length, 3) * each.matrices for each in entries)
    products = sum(each.rows * _powers(each.row_length, 2) for each in corrected)
    # A window adds tokens x columns^2 products for the differences, and half of that for the inputs.
    seconds = len(windows) * (blocks * _STREAMS * (whole + seen) + add * summed)
    seconds += blocks * reading + solve * solved + add / (1.5 * gram.context) * products
    by = f"a window in a block, {len(windows)} windows, {blocks} blocks"
    memory = peak_memory() + _STREAMS * len(windows) * stream.nbytes
    return Stage("passing text through blocks", seconds, memory, by=by)


def _pass_seconds(
    network: Network, stream: Array, weights: BlockWeights, tensors: Collection[Tensor], gram: Gram, clock: Clock
) -> tuple[float, float]:
    """Seconds of a window in a block, and of the way to the inputs that tensors share, for all of these together."""
    by_name = {tensor.name: tensor for tensor in tensors}

    def once() -> tuple[float, float]:
        began, seen = clock(), dict[str, float]()

        def watch_of(name: str, matrix: int, inputs: Array) -> Watch:
            if name in by_name:
                tensor = by_name[name]
                passes = -(-tensor.matrices // experts_at_once(tensor))
                # Each expert's inputs are seen, up to those of the last.
                if tensor.matrices > 1 or gram.shared[name] not in seen:
                    seen[_counted_once(tensor, gram)] = passes * (clock() - began)
            return unwatched(name, matrix, inputs)

        network.block(stream, weights, watch_of)
        return clock() - began, sum(seen.values())

    once()  # memory is untouched at first
    return once()


def _drift_seconds(length: int, tokens: int, clock: Clock) -> tuple[float, float]:
    """Seconds of a window's drift for each pair of columns, and of a correction for columns to the third."""
    width = min(length, WIDEST)
    if not width:
        return 0.0, 0.0
    drawn = np.random.default_rng(0).standard_normal((tokens, width), np.float32)
    sums = DriftSums.empty(column_blocks(width))
    for _ in range(2):
        began = clock()
        sums.add(drawn, drawn[::-1])
        adding = clock() - began
    gram = drawn.T @ drawn
    began = clock()
    correction(gram, gram)
    return adding / width**2, (clock() - began) / width**3


def _powers(length: int, power: int) -> int:
    """The sum of this power of the widths of the blocks of a row."""
    return sum((each.last - each.first) ** power for each in column_blocks(length))
