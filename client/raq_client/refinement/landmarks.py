"""llama.cpp's mixtures, quantized and measured as the steps of a ladder are, to stand beside them."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raq_client.engine.loading import loaded
from raq_client.engine.windows import Progress
from raq_client.evaluation.perplexity import measure
from raq_client.evaluation.report import Summary, summarize
from raq_client.models.file_types import file_type
from raq_client.models.table import ModelTable, table_of
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.recipes.mixtures import mixture, tensor_bytes
from raq_client.refinement.candidates import MIXTURES
from raq_client.refinement.ladder import LadderSetup
from raq_solver.allocation import Allocation
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

NEAREST: Final = "nearest"
"""In place of a mixture's name: that nearest in size to each step."""

Types = Mapping[Tensor, QuantType]


@dataclass(frozen=True, eq=False)
class MeasuredMixture:
    """A mixture with what was measured of it: `size` of its tensor data and `file_size` of its file, bytes."""

    name: str
    size: int
    file_size: int
    bits_per_weight: float
    summary: Summary


def chosen_mixtures(
    names: Sequence[str], sizes: Sequence[int], table: ModelTable, *, has_importance: bool
) -> dict[str, Types]:
    """The types of the mixtures with these names, smallest first; for NEAREST one for each of these sizes (bytes).

    Raises InvalidInput for a name that is no mixture's.
    """
    found = {file_type(name).name: None for name in names if name != NEAREST}
    types = {name: mixture(table, file_type(name), has_importance=has_importance) for name in {*found, *MIXTURES}}
    if NEAREST in names:
        for size in sizes:
            found[min(MIXTURES, key=lambda name: abs(tensor_bytes(types[name]) - size))] = None
    return {name: types[name] for name in sorted(found, key=lambda name: tensor_bytes(types[name]))}


def measured_mixtures(
    names: Sequence[str],
    sizes: Sequence[int],
    setup: LadderSetup,
    writing: Callable[[str], Progress] | None = None,
    measuring: Callable[[str], Progress] | None = None,
) -> Iterator[MeasuredMixture]:
    """Quantize and measure the chosen mixtures, each to a temporary file in the ladder's folder.

    Weights are rounded by raq's quantizer with the same importance, without error feedback, as llama-quantize rounds.
    Raises InvalidInput as `chosen_mixtures` does.
    """
    found = chosen_mixtures(names, sizes, table_of(setup.model), has_importance=setup.rounding.importance is not None)
    rounding = replace(setup.rounding, compensation=None)
    with (
        loaded(setup.model.path, context=setup.context, threads=rounding.threads, library=setup.library) as original,
        tempfile.TemporaryDirectory(dir=setup.folder, prefix=".raq-") as temporary,
    ):
        for name, types in found.items():
            path, size = Path(temporary) / f"{name}.gguf", tensor_bytes(types)
            allocation = Allocation({tensor.name: chosen.name for tensor, chosen in types.items()})
            advance = _counted(None if writing is None else writing(name), size)
            quantize_model(Quantization(setup.model, allocation, path, rounding), progress=advance)
            measured = measure(
                original,
                path,
                setup.texts,
                context=setup.context,
                windows=setup.windows,
                threads=rounding.threads,
                library=setup.library,
                progress=None if measuring is None else measuring(name),
            )
            weights = sum(tensor.weights for tensor in types)
            summary = summarize(measured.scores(), setup.context)
            yield MeasuredMixture(name, size, path.stat().st_size, 8 * size / weights, summary)
            path.unlink()


def _counted(progress: Progress | None, total: int) -> Callable[[str, int], None]:
    """A callback for tensors written, from one for bytes done."""
    done = 0

    def advance(_name: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return advance
