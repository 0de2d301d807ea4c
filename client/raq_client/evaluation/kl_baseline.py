"""Baselines on disk: read and write llama.cpp's `--kl-divergence-base` files.

Layout (little-endian): "_logits_", then int32 context, vocabulary, windows; the tokens of all windows as int32, their
first tokens not replaced; then for each window and scored position a row of uint16: two float32 {scale, least} in the
first four, the codes of all tokens, and one code of padding if their number is odd. log p = scale * code + least.
Codes reach 16 nats below the likeliest token; lower values have code 0. Source: tools/perplexity of llama.cpp.
raq writes a line of JSON after the last row, which llama-perplexity does not read: the model of the predictions.

The rounding to 16 bits and the cut at 16 nats belong to the format; a comparison of two loaded models has neither.
"""

import hashlib
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt16
from pydantic import BaseModel, ConfigDict, ValidationError

from raq_client.engine import DEFAULT_CONTEXT, SMALLEST_CONTEXT, Engine, NotFiniteError, scored_positions
from raq_client.engine.loading import loaded
from raq_client.engine.windows import LEAST_WINDOWS, Progress, Text, cut_windows
from raq_client.evaluation.perplexity import Measurement, TextScores
from raq_client.evaluation.scores import TokenScores, join_scores, score_window
from raq_client.files.atomic_file import atomic_file
from raq_client.files.reading import check_readable
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import Fault, InvalidInput

MAGIC = b"_logits_"
HEADER = struct.Struct("<8siii")
REACH = 16.0
"""Range of the codes in nats below the likeliest token; llama-perplexity also ignores probabilities below exp(-16)."""
LARGEST_CODE = 65535
_LONGEST_NAME = 200
_LONGEST_ORIGIN = 4096


class Origin(BaseModel):
    """The model whose predictions a baseline holds: its name, the fingerprint of its weights, that of its tokens."""

    model_config = ConfigDict(frozen=True)

    model: str
    model_sha256: str
    tokens_sha256: str


@dataclass(frozen=True, eq=False)
class StoredBaseline:
    """A model's stored log-probabilities on some windows, made by `open_baseline`; rows are read on demand.

    `origin` is None for a file that does not tell its model: llama-perplexity's.
    """

    path: Path
    context: int
    vocabulary: int
    windows: Int32[np.ndarray, "windows context"]
    rows: UInt16[np.ndarray, "windows positions codes"]
    origin: Origin | None = None

    def log_probabilities(self, window: int) -> Float32[np.ndarray, "positions vocabulary"]:
        """Log-probabilities of one window at its scored positions; values cut off have the least of their row."""
        rows = np.array(self.rows[window])
        scale, least = rows[:, :2].copy().view(np.float32), rows[:, 2:4].copy().view(np.float32)
        found: np.ndarray = rows[:, 4 : 4 + self.vocabulary].astype(np.float32)
        found *= scale
        found += least
        return found


def open_baseline(path: Path | str) -> StoredBaseline:
    """Open a file written by `write_baseline` or by llama-perplexity; the rows are mapped, not read.

    Raises InvalidInput if there is no such file, or if it is something else or cut short.
    """
    path = Path(path)
    check_readable(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror or error}")) from error
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise InvalidInput(Fault(str(path), "is not a file of log-probabilities (llama-perplexity's or raq's)"))
    _, context, vocabulary, windows = HEADER.unpack(head)
    if context < SMALLEST_CONTEXT or vocabulary < 1 or windows < 1:
        what = f"claims to hold {windows} windows of {context} tokens of a vocabulary of {vocabulary}"
        raise InvalidInput(Fault(str(path), what))
    shape = (windows, _positions(context), _row_codes(vocabulary))
    start = HEADER.size + 4 * windows * context
    needed = start + 2 * shape[0] * shape[1] * shape[2]
    if size < needed:
        raise InvalidInput(Fault(str(path), f"is cut short: {size:,} bytes of {needed:,}"))
    tokens = np.fromfile(path, "<i4", windows * context, offset=HEADER.size).reshape(windows, context)
    rows = np.memmap(path, "<u2", "r", offset=start, shape=shape)
    return StoredBaseline(path, context, vocabulary, tokens, rows, _origin(path, needed))


def write_baseline(
    model: Path | str | Engine,
    texts: Sequence[Text],
    out: Path,
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    library: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the logits of `model` on `texts` (at most `windows` of each) for later checks, also with llama-perplexity.

    The file has about 2 bytes per scored token and entry of the vocabulary. Raises InvalidInput if there is no text, a
    text has fewer than two windows, the model can't be loaded, or the file can't be written or exists without `force`.
    """
    if not texts:
        raise InvalidInput(Fault("text", "there is none to evaluate; name at least one text file"))
    with ExitStack() as stack:
        if not isinstance(model, Engine):
            model = stack.enter_context(loaded(model, context=context, threads=threads, library=library))
        cut = np.concatenate(cut_windows(model, texts, windows))
        rows = len(cut) * _positions(model.context)
        needed = HEADER.size + cut.nbytes + 2 * rows * _row_codes(model.vocabulary)
        file = stack.enter_context(atomic_file(out, force=force, needed=needed))
        file.write(HEADER.pack(MAGIC, model.context, model.vocabulary, len(cut)))
        file.write(cut.astype("<i4").tobytes())
        for done, logits in enumerate(model.score_windows(cut), start=1):
            file.write(encode_rows(logits).tobytes())
            if progress is not None:
                progress(done, len(cut))
        file.write(origin_of(model.path).model_dump_json().encode() + b"\n")


def origin_of(path: Path) -> Origin:
    """What a baseline tells of the model in this file. Raises InvalidInput if it can't be read."""
    model = open_model(path)
    return Origin(model=model.name[:_LONGEST_NAME], model_sha256=model.fingerprint(), tokens_sha256=_tokens(model))


def _tokens(model: ModelFile) -> str:
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    return hashlib.sha256(b"" if tokens is None else tokens.raw).hexdigest()


def _origin(path: Path, start: int) -> Origin | None:
    """The model that is named after the rows, which end at `start`."""
    with path.open("rb") as file:
        file.seek(start)
        line = file.read(_LONGEST_ORIGIN)
    try:
        return Origin.model_validate_json(line) if line else None
    except ValidationError:
        return None


def encode_rows(logits: Float32[np.ndarray, "positions vocabulary"]) -> UInt16[np.ndarray, "positions codes"]:
    """The rows of a baseline file for these logits."""
    top = logits.max(axis=1, keepdims=True)
    low = np.maximum(logits.min(axis=1, keepdims=True), top - np.float32(REACH))
    log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    scale = (top - low) / np.float32(LARGEST_CODE)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    vocabulary = logits.shape[1]
    rows = np.zeros((len(logits), _row_codes(vocabulary)), "<u2")
    rows[:, :2], rows[:, 2:4] = scale.view("<u2"), (low - top - log_sum).view("<u2")
    rows[:, 4 : 4 + vocabulary] = np.rint(np.maximum(logits - low, 0) * inverse)
    return rows


def measure_against_stored(
    baseline: StoredBaseline,
    candidate: Path | str | Engine,
    *,
    windows: int | None = None,
    threads: int = 0,
    library: Path | str | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Score a candidate on the windows of a stored baseline (at most `windows`), by llama-perplexity's definitions.

    Raises InvalidInput if the candidate can't be loaded or has another vocabulary, if there are fewer than two windows,
    or if a number is not finite on either side.
    """
    kept = baseline.windows[:windows]
    if len(kept) < LEAST_WINDOWS:
        raise InvalidInput(
            Fault(str(baseline.path), f"a check needs at least {LEAST_WINDOWS} windows, not {len(kept)}")
        )
    with ExitStack() as stack:
        if not isinstance(candidate, Engine):
            candidate = stack.enter_context(
                loaded(candidate, context=baseline.context, threads=threads, library=library)
            )
        if candidate.vocabulary != baseline.vocabulary:
            what = f"has {candidate.vocabulary} tokens in its vocabulary, {baseline.path} has {baseline.vocabulary}"
            raise InvalidInput(Fault(str(candidate.path), f"{what}; only models of one vocabulary can be compared"))
        origin = baseline.origin
        if origin is not None and _tokens(open_model(candidate.path)) != origin.tokens_sha256:
            what = f"has other tokens than {origin.model}, whose predictions {baseline.path} holds"
            raise InvalidInput(Fault(str(candidate.path), f"{what}; only models of one vocabulary can be compared"))
        parts = []
        for index, logits in enumerate(candidate.score_windows(kept)):
            following = kept[index, scored_positions(baseline.context).start + 1 :]
            stored = baseline.log_probabilities(index)
            if not np.isfinite(stored).all():
                what = f"holds numbers that are not finite in window {index}: save it again, from an intact model"
                raise NotFiniteError(Fault(str(baseline.path), what))
            parts.append(score_stored(stored, logits, following))
            if progress is not None:
                progress(index + 1, len(kept))
        text = TextScores(baseline.path.name, "", kept, join_scores(parts))
        return Measurement(str(baseline.path), str(candidate.path), baseline.context, (text,), ())


def score_stored(
    stored: Float32[np.ndarray, "positions vocabulary"],
    candidate: Float32[np.ndarray, "positions vocabulary"],
    targets: Int32[np.ndarray, " positions"],
) -> TokenScores:
    """Compare stored log-probabilities with a candidate's logits as llama-perplexity does.

    Tokens with a baseline probability below exp(-16) are left out of the KL divergence, without normalizing the rest.
    """
    likely = np.where(stored > -REACH, stored, np.float32(-np.inf))
    scores = score_window(likely, candidate, targets)
    kept = np.exp(likely).sum(axis=1, dtype=np.float64)
    # score_window normalizes p to p/S: its KL is sum (p/S) log(p/(S q)), so sum p log(p/q) is S (KL + log S).
    baseline_nll = -stored[np.arange(len(targets)), targets].astype(np.float64)
    return replace(
        scores,
        baseline_nll=baseline_nll[None],
        kl=kept * (scores.kl + np.log(kept)),
        probability_change=np.exp(-scores.candidate_nll) - np.exp(-baseline_nll),
    )


def _positions(context: int) -> int:
    return len(range(context)[scored_positions(context)])


def _row_codes(vocabulary: int) -> int:
    return 2 * ((vocabulary + 1) // 2) + 4
