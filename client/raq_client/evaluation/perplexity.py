"""Check a quantized model: perplexity, and KL divergence from its original, on text.

Definitions are llama-perplexity's: a text is tokenized once and cut into windows of `context` tokens without overlap,
the remainder is dropped; the first token of a window is replaced by the begin token if the vocabulary adds one; the
second half of each window is scored. Both models are in memory and evaluate the same window one after the other, so
that only the logits of a few windows exist at a time. Source: tools/perplexity of llama.cpp.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from raq_client.engine import DEFAULT_CONTEXT, Engine, scored_positions
from raq_client.engine.loading import loaded
from raq_client.engine.windows import LEAST_WINDOWS, Progress, Text, cut_windows
from raq_client.evaluation.report import CheckReport, make_report
from raq_client.evaluation.scores import TokenScores, join_scores, score_window
from raq_solver.errors import Fault, InvalidInput, raise_faults


@dataclass(frozen=True, eq=False)
class TextScores:
    """The scores of one text and its tokens."""

    name: str
    domain: str
    windows: Int32[np.ndarray, "windows context"]
    scores: TokenScores


@dataclass(frozen=True, eq=False)
class Measurement:
    """Two models compared token by token on some texts; the data for a report or a paired comparison."""

    baseline: str
    candidate: str
    context: int
    texts: tuple[TextScores, ...]
    warnings: tuple[str, ...]

    def scores(self) -> TokenScores:
        """The scores of all texts, concatenated."""
        return join_scores([text.scores for text in self.texts])

    def report(self) -> CheckReport:
        """The report with a summary of all texts, of each text and of each domain."""
        parts = [(text.name, text.domain, text.scores) for text in self.texts]
        return make_report(self.baseline, self.candidate, self.context, parts, self.warnings)


def measure(
    baseline: Path | str | Engine,
    candidate: Path | str | Engine,
    texts: Sequence[Text],
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    library: Path | str | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Score every window of `texts` with both models; arguments and errors as for `measure_all`."""
    (measured,) = measure_all(
        baseline,
        [candidate],
        texts,
        context=context,
        windows=windows,
        threads=threads,
        library=library,
        progress=progress,
    )
    return measured


def measure_all(
    baseline: Path | str | Engine,
    candidates: Sequence[Path | str | Engine],
    texts: Sequence[Text],
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    library: Path | str | None = None,
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """Score the first `windows` windows of each text (None: all) with all models.

    All models are in memory at once, and the baseline evaluates each window once. Models are loaded and freed here
    unless given as engines, which must have been loaded for `context`. An interrupt between windows frees them.

    Raises InvalidInput if there is no text, a text has fewer than two windows, a model can't be loaded, predictions are
    not finite, or a candidate has another vocabulary than the baseline.
    """
    _require_texts(texts, windows)
    with ExitStack() as stack:
        engines = []
        for model in (baseline, *candidates):
            if isinstance(model, Engine):
                assert model.context == context, "an engine evaluates windows of the length it was loaded for"
                engines.append(model)
            else:
                engines.append(stack.enter_context(loaded(model, context=context, threads=threads, library=library)))
        assert engines[0] not in engines[1:], "an engine holds one set of logits: it can't be its own candidate"
        return _measure_engines(engines[0], engines[1:], texts, windows, progress)


def _measure_engines(
    base: Engine, others: Sequence[Engine], texts: Sequence[Text], limit: int | None, progress: Progress | None
) -> tuple[Measurement, ...]:
    for other in others:
        _require_one_vocabulary(base, other, texts[0])
    cut = cut_windows(base, texts, limit)
    total, done = sum(map(len, cut)), 0
    measured: list[list[TextScores]] = [[] for _ in others]
    for text, windows in zip(texts, cut, strict=True):
        parts: list[list[TokenScores]] = [[] for _ in others]
        for scores in _score_side_by_side(base, others, windows):
            for part, score in zip(parts, scores, strict=True):
                part.append(score)
            done += 1
            if progress is not None:
                progress(done, total)
        for found, part in zip(measured, parts, strict=True):
            found.append(TextScores(text.name, text.domain, windows, join_scores(part)))
    return tuple(
        Measurement(str(base.path), str(other.path), base.context, tuple(found), _context_warnings(base, other))
        for other, found in zip(others, measured, strict=True)
    )


def _score_side_by_side(
    base: Engine, others: Sequence[Engine], windows: Int32[np.ndarray, "windows context"]
) -> Iterator[list[TokenScores]]:
    """Yield the scores of each other model, window by window; each model keeps the logits of a few windows only."""
    following = windows[:, scored_positions(base.context).start + 1 :]
    streams = [other.score_windows(windows) for other in others]
    for targets, base_logits, *logits in zip(following, base.score_windows(windows), *streams, strict=True):
        yield [score_window(base_logits, other_logits, targets) for other_logits in logits]


def _require_texts(texts: Sequence[Text], windows: int | None) -> None:
    faults = []
    if not texts:
        faults.append(Fault("text", "there is none to check on; name at least one text file"))
    if windows is not None and windows < LEAST_WINDOWS:
        faults.append(Fault("windows", f"must be at least {LEAST_WINDOWS}, not {windows}"))
    raise_faults(faults)


def _require_one_vocabulary(base: Engine, other: Engine, sample: Text) -> None:
    where = str(other.path)
    if base.vocabulary != other.vocabulary:
        what = f"has {other.vocabulary} tokens in its vocabulary, the baseline {base.path} has {base.vocabulary}"
    elif not np.array_equal(
        base.tokenize(sample.content, special=sample.special), other.tokenize(sample.content, special=sample.special)
    ):
        what = f"splits {sample.name} into other tokens than the baseline {base.path} does"
    else:
        return
    raise InvalidInput(Fault(where, f"{what}; only models of one vocabulary can be compared"))


def _context_warnings(*engines: Engine) -> tuple[str, ...]:
    return tuple(
        f"{model.path} was trained for a context of {model.trained_context} tokens; windows of {model.context} "
        "measure it beyond that"
        for model in engines
        if 0 < model.trained_context < model.context
    )
