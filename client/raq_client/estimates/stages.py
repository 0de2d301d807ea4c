"""The stages of commands, each estimated by a moment of the same work on the same model and text.

Nothing is written: what would be is cancelled before, or goes to a temporary folder.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram import WIDEST, Gram, InMemory, column_blocks
from raq_client.compensation.outputs import WIDTHS, OutputsCollection
from raq_client.compensation.sums import HELD_OUT_INPUTS
from raq_client.compensation.weighed import weighed_bytes, with_enough_tokens
from raq_client.curvature.fisher import FisherCollection
from raq_client.engine import Engine
from raq_client.engine.windows import Text, cut_windows
from raq_client.estimates.estimate import Stage, peak_memory
from raq_client.estimates.pace import Pace, Report, pace_of
from raq_client.estimates.passing_back import passing_back
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.evaluation.perplexity import measure
from raq_client.importance.collect import Counting, collect
from raq_client.importance.collect_fisher import chosen_windows
from raq_client.importance.fused import same_input
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import is_quantizable
from raq_client.sensitivity.measure import measure_sensitivities
from raq_solver.tensor_names import OUTPUT, TOKEN_EMBEDDING, block_of
from raq_solver.tensors import Tensor

_F32: Final = 4


def checking(original: Path, candidate: Path, texts: Sequence[Text], **options: Any) -> Stage:
    """Scoring two models on texts; `options` as for `evaluation.perplexity.measure`."""
    pace = pace_of(lambda report: measure(original, candidate, texts, progress=report, **options))
    return Stage("checking", pace.seconds, peak_memory(), by=_windows(pace))


def collecting(engine: Engine, texts: Sequence[Text], model: ModelFile, **options: Any) -> Stage:
    """Collecting importance; `options` as for `importance.collect.collect`."""
    pace = pace_of(lambda report: collect(engine, texts, progress=report, **options))
    return Stage("importance", pace.seconds, peak_memory(), _importance_size(model), _windows(pace))


def collecting_fisher(engine: Engine, texts: Sequence[Text], model: ModelFile, count: int, limit: int | None) -> Stage:
    """Collecting Fisher information of `count` windows. Raises InvalidInput where it can't be had."""
    windows = chosen_windows(cut_windows(engine, texts, limit), count)
    found = passing_back(model, windows, [FisherCollection(model, engine.context)])
    memory = peak_memory() + found.streams
    return Stage("Fisher information", found.pace.seconds, memory, _fisher_size(model), _windows(found.pace))


def collecting_with_gram(
    engine: Engine, texts: Sequence[Text], model: ModelFile, limit: int | None, memory: int, *, output_head: bool
) -> Stage:
    """Collecting importance, and in the same passes Gram statistics of inputs within `memory` bytes."""

    def work(report: Report) -> None:
        beside = Counting(engine, texts, limit, output_head)
        collect_gram(engine, model, texts, windows=limit, memory=memory, progress=report, beside=beside)

    pace, size = pace_of(work), gram_size(model, outputs=False)
    disk = size + _importance_size(model)
    name = "importance and Gram statistics"
    return Stage(name, pace.seconds, peak_memory() + min(size, memory), disk, _windows(pace))


def collecting_outputs(
    engine: Engine, texts: Sequence[Text], model: ModelFile, count: int, limit: int | None, memory: int
) -> Stage:
    """Collecting Fisher information and Gram statistics of outputs in passes over `count` windows.

    Raises InvalidInput where they can't be had.
    """
    windows = chosen_windows(cut_windows(engine, texts, limit), count)
    shared = _inputs(model)
    empty = Gram({}, shared, InMemory({}), (), len(windows), engine.context, model.fingerprint(), unfinished=True)
    outputs = OutputsCollection(empty, model, len(windows), memory=memory)
    found = passing_back(model, windows, [FisherCollection(model, engine.context), outputs])
    size = gram_size(model, outputs=True) - gram_size(model, outputs=False)
    in_blocks = [tensor for tensor in _quantizable(model) if block_of(tensor.name) >= 0]
    sums = size + weighed_bytes(with_enough_tokens(in_blocks, windows.size), shared)
    name, memory_bytes = "Fisher information and outputs", peak_memory() + found.streams + min(sums, memory)
    return Stage(name, found.pace.seconds, memory_bytes, size + _fisher_size(model), _windows(found.pace))


def _importance_size(model: ModelFile) -> int:
    return sum(2 * _F32 * tensor.row_length * tensor.matrices for tensor in _quantizable(model))


def _fisher_size(model: ModelFile) -> int:
    return sum(_F32 * (tensor.row_length * tensor.matrices + tensor.rows) for tensor in _quantizable(model))


def _inputs(model: ModelFile) -> dict[str, str]:
    """By tensor a name of its inputs, the same for tensors with the same ones."""
    return {tensor.name: (*same_input(tensor.name), tensor.name)[0] for tensor in _quantizable(model)}


def gram_size(model: ModelFile, *, outputs: bool) -> int:
    """Bytes of the Gram statistics of a model: 2 for each pair of columns, once for tensors with the same input.

    With `outputs` 2 for each pair of rows too, and for each pair of columns of embedding and head.
    """
    names = {tensor.name for tensor in model.tensors}
    tied = OUTPUT not in names
    head = TOKEN_EMBEDDING if tied else OUTPUT
    inputs, found, entries = dict[str, int](), 0, _inputs(model)
    for tensor in _quantizable(model):
        in_block = block_of(tensor.name) >= 0
        if in_block or (tensor.name == head and not outputs):
            inputs[entries[tensor.name]] = tensor.matrices * _statistics(tensor.row_length, WIDEST)
        if tensor.name in (TOKEN_EMBEDDING, OUTPUT) and outputs:
            found += _statistics(tensor.row_length, WIDEST)
            found += _F32 * HELD_OUT_INPUTS * tensor.row_length if tied else 0
        if in_block and outputs:
            found += tensor.matrices * _statistics(tensor.rows // tensor.matrices, WIDTHS[0])
    return sum(inputs.values()) + found


def _statistics(length: int, widest: int) -> int:
    """Bytes of one matrix's statistics: the upper triangles of its blocks, and what is held out."""
    triangles = sum(columns.packed for columns in column_blocks(length, widest))
    return _F32 * (triangles + HELD_OUT_INPUTS * length)


def perturbing(setup: TrialSetup, **options: Any) -> Stage:
    """Measuring sensitivities; `options` as for `sensitivity.measure.measure_sensitivities`."""
    with tempfile.TemporaryDirectory() as folder:
        pace = pace_of(
            lambda report: measure_sensitivities(setup, cache=Path(folder), progress=report, **options), moment=0
        )
    return Stage("measuring sensitivity", pace.seconds, peak_memory(), by=f"{pace.units} runs, {pace.each:.3g} s each")


def _quantizable(model: ModelFile) -> list[Tensor]:
    return [tensor for tensor in model.tensors if is_quantizable(tensor, model.architecture)]


def _windows(pace: Pace) -> str:
    return f"{pace.units} windows, {pace.each:.3g} s each"
