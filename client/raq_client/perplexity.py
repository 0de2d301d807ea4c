"""The check: how far a quantized model is from its original, on text.

Definitions are llama-perplexity's: a text is tokenized once, cut into windows of `context` tokens without overlap,
a rest is dropped; the first token of a window gives way to the begin token if the vocabulary adds one; the second
half of each window is scored. Both models are held in memory and read the same window one after the other, so
that the logits of no more than a few windows ever exist. Source: tools/perplexity of llama.cpp.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from raq_client import engine
from raq_client.check_report import CheckReport, make_report
from raq_client.engine import DEFAULT_CONTEXT, Engine, scored_positions
from raq_client.scores import TokenScores, join_scores, score_window
from raq_solver.errors import Fault, InvalidInput, raise_faults

LEAST_WINDOWS = 2
"""Fewer windows have no spread between them, hence no error to report."""

Progress = Callable[[int, int], None]
"""Told after each window: windows done, windows in all."""


@dataclass(frozen=True, slots=True)
class Text:
    """A named text to evaluate on; texts of one `domain` are also reported together."""

    name: str
    content: str
    domain: str = ""


@dataclass(frozen=True, eq=False)
class TextScores:
    """The scores of one text, and the tokens they belong to."""

    name: str
    domain: str
    windows: Int32[np.ndarray, "windows context"]
    scores: TokenScores


@dataclass(frozen=True, eq=False)
class Measurement:
    """Two models compared token by token on some texts: what a report or a paired comparison is made from."""

    baseline: str
    candidate: str
    context: int
    texts: tuple[TextScores, ...]
    warnings: tuple[str, ...]

    def scores(self) -> TokenScores:
        """All texts' scores, one after the other."""
        return join_scores([text.scores for text in self.texts])


def check(
    baseline: Path | str | Engine,
    candidate: Path | str | Engine,
    texts: Sequence[Text],
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    library: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Perplexity of both models and KL divergence of `candidate` from `baseline`, in total and per text.

    Arguments and errors as for `measure`.
    """
    measured = measure(
        baseline,
        candidate,
        texts,
        context=context,
        windows=windows,
        threads=threads,
        library=library,
        progress=progress,
    )
    return make_report(
        measured.baseline,
        measured.candidate,
        measured.context,
        [(text.name, text.domain, text.scores) for text in measured.texts],
        measured.warnings,
    )


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
    """Score every window of `texts` with both models; at most `windows` of each text, from its beginning.

    Models are loaded and freed here unless they come as engines, which must have been loaded for `context`.
    An interrupt between windows frees them too.

    Raises InvalidInput if there is no text, a text is shorter than two windows, a model can't be loaded, or the
    two models do not share a vocabulary.
    """
    _require_texts(texts, windows)
    with ExitStack() as stack:
        engines = []
        for model in (baseline, candidate):
            if isinstance(model, Engine):
                assert model.context == context, "an engine evaluates windows of the length it was loaded for"
                engines.append(model)
            else:
                engines.append(
                    stack.enter_context(engine.load(model, context=context, threads=threads, library=library))
                )
        return _measure_engines(engines[0], engines[1], texts, windows, progress)


def _measure_engines(
    base: Engine, other: Engine, texts: Sequence[Text], limit: int | None, progress: Progress | None
) -> Measurement:
    _require_one_vocabulary(base, other, texts[0])
    cut = cut_windows(base, texts, limit)
    total, done = sum(map(len, cut)), 0
    measured = []
    for text, windows in zip(texts, cut, strict=True):
        parts = []
        for scores in _score_side_by_side(base, other, windows):
            parts.append(scores)
            done += 1
            if progress is not None:
                progress(done, total)
        measured.append(TextScores(text.name, text.domain, windows, join_scores(parts)))
    warnings = _context_warnings(base, other)
    return Measurement(str(base.path), str(other.path), base.context, tuple(measured), warnings)


def cut_windows(model: Engine, texts: Sequence[Text], limit: int | None) -> list[Int32[np.ndarray, "windows context"]]:
    """Tokens of each text in windows of the engine's context, at most `limit` of each text.

    Raises InvalidInput naming every text that has fewer than two windows.
    """
    faults, cut = [], []
    for text in texts:
        tokens = model.tokenize(text.content)
        count = len(tokens) // model.context
        if count < LEAST_WINDOWS:
            faults.append(
                Fault(
                    text.name,
                    f"has {len(tokens)} tokens; a check needs at least {LEAST_WINDOWS} windows of "
                    f"{model.context}: give a longer text or a smaller context",
                )
            )
        kept = count if limit is None else min(count, limit)
        cut.append(tokens[: kept * model.context].reshape(kept, model.context))
    raise_faults(faults)
    return cut


def _score_side_by_side(
    base: Engine, other: Engine, windows: Int32[np.ndarray, "windows context"]
) -> Iterator[TokenScores]:
    following = slice(scored_positions(base.context).start + 1, None)
    pairs = zip(windows, base.score_windows(windows), other.score_windows(windows), strict=True)
    for window, base_logits, other_logits in pairs:
        yield score_window(base_logits, other_logits, window[following])


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
    elif not np.array_equal(base.tokenize(sample.content), other.tokenize(sample.content)):
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
