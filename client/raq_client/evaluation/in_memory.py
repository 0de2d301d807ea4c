"""Try allocations in memory: replace tensors of a loaded model by their quantized values and measure the loss.

The model is loaded when it is first needed; a measurement that is already in the journal does not need it.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32, UInt8

import raq_native
from raq_client.compensation.compensate import Compensation, Effort
from raq_client.engine import DEFAULT_CONTEXT, Engine, NotFiniteError, scored_positions
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Text, spread_windows
from raq_client.evaluation.scores import TokenScores, join_scores, score_window
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile
from raq_client.models.quantizable import fitting_type, needs_importance
from raq_client.quantizing.rounding import MatrixRounding, Rounding
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor


@dataclass(frozen=True, eq=False)
class TrialSetup:
    """The setup of a trial: the model, the statistics for quantizing it, the texts, and the number of their windows.

    Raises InvalidInput if there is no text.
    """

    model: ModelFile
    path: Path
    importance: Importance | None
    texts: Sequence[Text]
    windows: int = 8
    context: int = DEFAULT_CONTEXT
    effort: Effort = "fast"
    threads: int = 0
    library: Path | str | None = None
    compensation: Compensation | None = None

    @property
    def rounding(self) -> Rounding:
        """How tensors are rounded: as in a file, always on the CPU."""
        return Rounding(self.importance, self.compensation, self.effort, self.threads)

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidInput(Fault("text", "there is none to measure on; name at least one text file"))


@dataclass(frozen=True, eq=False)
class TrialResult:
    """Scores against the unchanged model, and the relative output error of every replaced tensor."""

    scores: TokenScores
    errors: Mapping[str, float]


class BrokenByTrialError(InvalidInput):
    """With these tensors quantized the model predicts NaN or infinity; unchanged it does not."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The dequantized `values` of a tensor, and their relative output error.

    That is Σ h (W - Ŵ)² / Σ h W² of plain rounding, times what error feedback leaves of it, as in a profile.
    """

    values: Float32[np.ndarray, "matrices rows length"]
    error: float


def probe_type(wanted: QuantType, tensor: Tensor, *, has_importance: bool) -> QuantType:
    """The type to probe a tensor with: `wanted` if it fits and may be used, else llama.cpp's substitute or Q8_0."""
    fitting = fitting_type(wanted, tensor.row_length)
    if fitting is None or (needs_importance(fitting, tensor.name) and not has_importance):
        fitting = fitting_type(CATALOGUE["Q4_0"], tensor.row_length)
    assert fitting is not None, "Q4_0 has a substitute for any row length"
    return fitting


def make_probe(
    weights: Float32[np.ndarray, "matrices rows length"],
    tensor: Tensor,
    quant_type: QuantType,
    rounding: Rounding,
    importance: Float32[np.ndarray, "matrices length"] | None,
) -> Probe:
    """Quantize and dequantize every matrix as a file would be written; `importance` weights columns in the error.

    Raises ValueError if the row length is not a multiple of the block length, or a weight or importance is not finite.
    """
    values = np.empty_like(weights)
    squared = energy = 0.0
    for index, matrix in enumerate(weights):
        columns = None if importance is None else importance[index]
        by = rounding.of_matrix(tensor, index, quant_type, matrix.__getitem__)

        def restored(by: MatrixRounding, matrix: Float32[np.ndarray, "rows length"] = matrix) -> np.ndarray:
            length = matrix.shape[1]
            return raq_native.dequantize(quant_type.name, by.blocks(matrix), length, threads=rounding.threads)

        values[index] = restored(by)
        # The diagonal error of compensated values would be large where their true error is small.
        plain = values[index] if by.factor is None else restored(by.plain)
        counted = np.ones(matrix.shape[1]) if columns is None else columns.astype(np.float64)
        squared += by.gain * float(np.square(plain - matrix).sum(axis=0, dtype=np.float64) @ counted)
        energy += float(np.square(matrix).sum(axis=0, dtype=np.float64) @ counted)
    return Probe(values, squared / energy if energy > 0 else 0.0)


MEMORY_BYTES = 1 << 30
"""Logits above this size are stored in a temporary file, which is mapped."""


class RecordedLogits:
    """The logits of `model` on `windows`, stored unrounded, so that an unchanged model differs by exactly 0.

    Raises InvalidInput if libllama fails.
    """

    def __init__(self, model: Engine, windows: Int32[np.ndarray, "windows context"]) -> None:
        self._model, self._windows = model, windows
        scored = scored_positions(model.context)
        self._following = windows[:, scored.start + 1 :]
        shape = (len(windows), scored.stop - scored.start, model.vocabulary)
        self._logits = _room(shape)
        started = time.monotonic()
        for index, logits in enumerate(model.score_windows(windows)):
            self._logits[index] = logits
        self.seconds = time.monotonic() - started
        """Seconds for running the model on all windows."""

    @property
    def tokens(self) -> int:
        """The number of scored tokens."""
        return self._following.size

    def compare(self, other: Engine | None = None) -> TokenScores:
        """Scores of the model in its present state, or of another one with its vocabulary, against the recording."""
        return join_scores(list(self._compared(other or self._model)))

    def _compared(self, model: Engine) -> Iterator[TokenScores]:
        logits_now = model.score_windows(self._windows)
        for before, now, following in zip(self._logits, logits_now, self._following, strict=True):
            yield score_window(before, now, following)


def _room(shape: tuple[int, int, int]) -> Float32[np.ndarray, "windows positions vocabulary"]:
    if 4 * np.prod(shape, dtype=np.int64) <= MEMORY_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:  # the mapping keeps the nameless file alive
        return np.memmap(file, np.float32, "w+", shape=shape)


class Trial:
    """Tries allocations on a model in memory; a context manager that frees the model.

    With `loaded`, an editable engine and its recording, that model is used, and not freed.
    """

    def __init__(self, setup: TrialSetup, loaded: tuple[Engine, RecordedLogits] | None = None) -> None:
        self._setup = setup
        self._stack = ExitStack()
        self._loaded = loaded

    def run(self, types: Mapping[str, QuantType], *, compensated: bool = True) -> TrialResult:
        """Quantize these tensors to these types, each with its importance, and compare with the unchanged model.

        A type that does not fit a tensor is replaced by llama.cpp's substitute. Without `compensated` all are rounded
        plainly, also if the setup has Gram statistics. Afterwards the weights are restored.

        Raises InvalidInput if the model can't be loaded or evaluated, a text is too short, or a tensor in `types` is
        not used by the model or already quantized; BrokenByTrialError if the changed model's predictions are not
        finite.
        """
        model, recorded = self._ready()
        weights = model.weights()
        self._require_writable(types)
        rounding = self._setup.rounding if compensated else self._setup.rounding.plain
        errors: dict[str, float] = {}

        def values() -> Iterator[tuple[str, Float32[np.ndarray, "matrices rows length"]]]:
            for name, quant_type in types.items():
                probe = self._probe(name, quant_type, rounding)
                errors[name] = probe.error
                yield name, probe.values

        with weights.replaced(values(), self._original):
            try:
                scores = recorded.compare()
            except NotFiniteError as error:
                what = "with these types its predictions are not finite (NaN or infinite)"
                raise BrokenByTrialError(Fault(str(self._setup.path), what)) from error
        return TrialResult(scores, errors)

    def prepare(self) -> float:
        """Load the model, record its logits unchanged, and return the seconds for running the windows.

        Raises InvalidInput if the model can't be loaded or evaluated, or a text is too short.
        """
        _, recorded = self._ready()
        return recorded.seconds

    def compare(self, other: Engine) -> TokenScores:
        """Scores of another model with this one's vocabulary, e.g. a quantized file, against the unchanged model."""
        return self._ready()[1].compare(other)

    @property
    def compensates(self) -> bool:
        """Whether the setup has Gram statistics."""
        return self._setup.compensation is not None

    def writable(self) -> frozenset[str]:
        """The names of the tensors that can be tried: used by the model and stored as plain floats."""
        model, _ = self._ready()
        return frozenset(name for name, tensor in model.weights().items() if tensor.writable)

    def _probe(self, name: str, quant_type: QuantType, rounding: Rounding) -> Probe:
        setup = self._setup
        tensor = setup.model.tensor(name)
        rows = None if setup.importance is None else setup.importance.rows(tensor)
        fitting = probe_type(quant_type, tensor, has_importance=rows is not None)
        weights = self._ready()[0].weights().read(name)
        return make_probe(weights, tensor, fitting, rounding, rows)

    def _original(self, name: str) -> UInt8[np.ndarray, "rows size"]:
        model = self._setup.model
        return model.stored(model.tensor(name))

    def _require_writable(self, types: Mapping[str, QuantType]) -> None:
        stuck = sorted(set(types) - self.writable())
        if stuck:
            names = ", ".join(stuck[:5]) + (" and others" if len(stuck) > 5 else "")
            what = f"can't be tried in memory: {names} (a trial needs F16, BF16 or F32 weights that the model uses)"
            raise InvalidInput(Fault(str(self._setup.path), what))

    def _ready(self) -> tuple[Engine, RecordedLogits]:
        if self._loaded is None:
            setup = self._setup
            model = self._stack.enter_context(
                loaded(setup.path, context=setup.context, threads=setup.threads, library=setup.library, editable=True)
            )
            self._loaded = model, RecordedLogits(model, spread_windows(model, setup.texts, setup.windows))
        return self._loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # adds the name of a weight that is not finite to the error
