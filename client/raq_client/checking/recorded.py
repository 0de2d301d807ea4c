"""The logits of an untouched model, kept to be compared with those of the same model after a change."""

import tempfile
import time
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.checking.scores import TokenScores, join_scores, score_window
from raq_client.engine import Engine, scored_positions

MEMORY_BYTES = 1 << 30
"""Logits beyond this size go to a temporary file, which is mapped."""


class RecordedLogits:
    """What `model` says on `windows`, bit for bit: nothing is rounded, so an unchanged model differs by exactly 0.

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
        """Seconds that running the model on all windows took."""

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return self._following.size

    def compare(self, other: Engine | None = None) -> TokenScores:
        """Scores of the model as it is now, or of another with its vocabulary, against what was recorded."""
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
