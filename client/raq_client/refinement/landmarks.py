"""llama.cpp's mixtures, quantized and measured as the steps of a ladder are, to stand beside them."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raq_client.engine.windows import Progress
from raq_client.evaluation.report import Summary, summarize
from raq_client.models.file_types import file_type
from raq_client.models.table import ModelTable, table_of
from raq_client.progress import added_up
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.recipes.mixtures import MIXTURES, mixture, nearest_in_size, tensor_bytes
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
            found[nearest_in_size({name: types[name] for name in MIXTURES}, size)] = None
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
    with (
        setup.loaded as original,
        tempfile.TemporaryDirectory(dir=setup.folder, prefix=".raq-") as temporary,
    ):
        for name, types in found.items():
            path, size = Path(temporary) / f"{name}.gguf", tensor_bytes(types)
            advance = added_up(None if writing is None else writing(name), size)
            wanted = Quantization(setup.model, Allocation.of(types), path, setup.rounding.plain)
            quantize_model(wanted, progress=advance)
            measured = setup.measured(original, path, None if measuring is None else measuring(name))
            weights = sum(tensor.weights for tensor in types)
            summary = summarize(measured.scores(), setup.context)
            yield MeasuredMixture(name, size, path.stat().st_size, 8 * size / weights, summary)
            path.unlink()
