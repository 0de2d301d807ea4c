"""A loaded model whose tensors are replaced by their quantized selves, in place, and what that costs.

The model is loaded when it is first needed: a measurement that is in the journal already needs none.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from raq_client.checking.loading import loaded
from raq_client.checking.perplexity import Text, cut_windows
from raq_client.checking.probes import Probe, make_probe, probe_type
from raq_client.checking.recorded import RecordedLogits
from raq_client.checking.scores import TokenScores
from raq_client.engine import DEFAULT_CONTEXT, Engine, NotFiniteError
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile
from raq_client.quantizing.quantize import Effort
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType


@dataclass(frozen=True, eq=False)
class Bench:
    """What a trial runs on: the model, the importance its quantizer sees, the texts, and how many windows of them.

    Raises InvalidInput without any text.
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

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidInput(Fault("text", "there is none to measure on; name at least one text file"))


@dataclass(frozen=True, eq=False)
class TrialResult:
    """Scores against the untouched model, and the relative output error of every tensor that was replaced."""

    scores: TokenScores
    errors: Mapping[str, float]


class BrokenByTrialError(InvalidInput):
    """With these tensors quantized the model predicts NaN or infinity; untouched it does not."""


class Trial:
    """Tries allocations on a model in memory; made with `with`, which frees the model."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._stack = ExitStack()
        self._loaded: tuple[Engine, RecordedLogits] | None = None

    def run(self, types: Mapping[str, QuantType]) -> TrialResult:
        """Quantize these tensors as these types, each with its importance, and compare with the untouched model.

        A type that does not fit a tensor gives way to llama.cpp's substitute. Nothing stays changed.

        Raises InvalidInput if the model can't be loaded or evaluated, a text is too short, or a tensor named here is
        not used by the model or stored in blocks already; BrokenByTrialError if what the changed model predicts is not
        finite.
        """
        model, recorded = self._ready()
        weights = model.weights()
        self._require_writable(types)
        errors: dict[str, float] = {}

        def values() -> Iterator[tuple[str, Float32[np.ndarray, "matrices rows length"]]]:
            for name, quant_type in types.items():
                probe = self._probe(name, quant_type)
                errors[name] = probe.error
                yield name, probe.values

        with weights.replaced(values(), self._original):
            try:
                scores = recorded.compare()
            except NotFiniteError as error:
                what = "with these types what it predicts is not finite (NaN or infinite)"
                raise BrokenByTrialError(Fault(str(self._bench.path), what)) from error
        return TrialResult(scores, errors)

    def prepare(self) -> float:
        """Load the model and record what it says, untouched; gives the seconds that running the windows took.

        Raises InvalidInput if the model can't be loaded or evaluated, or a text is too short.
        """
        _, recorded = self._ready()
        return recorded.seconds

    def compare(self, other: Engine) -> TokenScores:
        """Scores of another model with this one's vocabulary, a quantized file say, against the untouched model."""
        return self._ready()[1].compare(other)

    def writable(self) -> frozenset[str]:
        """Names of the tensors that can be tried: used by the model and stored as plain floats."""
        model, _ = self._ready()
        return frozenset(name for name, tensor in model.weights().items() if tensor.writable)

    def _probe(self, name: str, quant_type: QuantType) -> Probe:
        bench = self._bench
        tensor = bench.model.tensor(name)
        rows = None if bench.importance is None else bench.importance.rows(tensor)
        rounding = None if bench.importance is None else bench.importance.rounding(tensor)
        fitting = probe_type(quant_type, tensor, has_importance=rows is not None)
        weights = self._ready()[0].weights().read(name)
        return make_probe(weights, fitting, rounding, rows, effort=bench.effort, threads=bench.threads)

    def _original(self, name: str) -> UInt8[np.ndarray, "rows size"]:
        model = self._bench.model
        return model.stored(model.tensor(name))

    def _require_writable(self, types: Mapping[str, QuantType]) -> None:
        stuck = sorted(set(types) - self.writable())
        if stuck:
            names = ", ".join(stuck[:5]) + (" and others" if len(stuck) > 5 else "")
            what = f"can't be tried in memory: {names} (a trial needs F16, BF16 or F32 weights that the model uses)"
            raise InvalidInput(Fault(str(self._bench.path), what))

    def _ready(self) -> tuple[Engine, RecordedLogits]:
        if self._loaded is None:
            bench = self._bench
            model = self._stack.enter_context(
                loaded(bench.path, context=bench.context, threads=bench.threads, library=bench.library, editable=True)
            )
            self._loaded = model, RecordedLogits(model, spread_windows(model, bench.texts, bench.windows))
        return self._loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # which names the weight, if one is not finite


def spread_windows(model: Engine, texts: Sequence[Text], count: int) -> Int32[np.ndarray, "windows context"]:
    """At most `count` windows, evenly spread over all texts. Raises InvalidInput if one is shorter than two windows."""
    everything = np.concatenate(cut_windows(model, texts, None))
    if len(everything) <= count:
        return everything
    chosen: Int32[np.ndarray, "windows context"] = everything[
        np.linspace(0, len(everything) - 1, count).round().astype(int)
    ]
    return chosen
