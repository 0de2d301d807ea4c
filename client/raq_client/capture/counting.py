"""Count the tokens of texts as they come: the sums of `imatrix collect` over all of them one after another.

Rules
- The tokens of a text follow those of the one before, each text begun by the begin token; a window is evaluated as soon
  as it is full. The sums are those of `imatrix collect --parse-special` over the same texts in one file.
- Tokens that do not fill a window are dropped when the counting ends, as `imatrix collect` drops the end of a text.
- Only sums and counts are written, never a text or a token.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int32

from raq_client.capture.exchange import Continued, UnreadableExchangeError
from raq_client.engine import Engine
from raq_client.importance.collect import LEAST_TOKENS, SAVE_EVERY, Tally, count_windows
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_solver.errors import Fault, InvalidInput

NAME: Final = "live capture"
"""What stands for the text in a file of captured importance."""


class Counter:
    """The importance of texts that come one by one, beginning with `resume`."""

    def __init__(self, engine: Engine, resume: Importance | None, *, output_head: bool = False) -> None:
        self._engine, self._head = engine, output_head
        self._tally = Tally(resume)
        self._marks = marks_of(engine.path)
        self._waiting: Int32[np.ndarray, " tokens"] = np.empty(0, np.int32)
        self.windows = 0 if resume is None else resume.chunk_count
        self.tokens = 0

    def tokens_of(self, text: str | Continued) -> Int32[np.ndarray, " tokens"]:
        """A text as the tokens to be counted.

        Raises UnreadableExchangeError for tokens that the model does not have.
        """
        if isinstance(text, str):
            return self._engine.tokenize(text, special=True)
        if not all(0 <= token < self._engine.vocabulary for token in text.prompt):
            raise UnreadableExchangeError("the prompt has tokens that the model does not have")
        answer = self._engine.tokenize(text.answer, special=True)
        begins = len(answer) > 0 and answer[0] == self._engine.begin_token
        return np.concatenate((np.array(text.prompt, np.int32), answer[1:] if begins else answer))

    def add(self, tokens: Int32[np.ndarray, " tokens"], save: Callable[[Importance], None]) -> None:
        """Count a text; `save` is called every 50 windows. Raises InvalidInput if libllama fails."""
        self.tokens += len(tokens)
        self._waiting = np.concatenate((self._waiting, tokens))
        full = len(self._waiting) // self._engine.context * self._engine.context
        windows, self._waiting = self._waiting[:full].reshape(-1, self._engine.context), self._waiting[full:]
        for _ in count_windows(self._engine, windows, self._tally, output_head=self._head) if full else ():
            self.windows += 1
            if self.windows % SAVE_EVERY == 0:
                self._tally.end_group()  # as `imatrix collect` does at the same windows
                save(self.importance())

    def importance(self) -> Importance:
        """All that was counted so far."""
        return Importance(
            self._tally.entries(),
            self._marks,
            self.windows,
            self._engine.context,
            f"captured with {self._engine.path.name}",
        )


def marks_of(model: Path) -> tuple[str, str]:
    """What a captured file says instead of names of texts: that it was captured, and a digest of the model."""
    digest = hashlib.sha256(f"raq capture 1 {open_model(model).fingerprint()}".encode()).hexdigest()
    return NAME, f"sha256:{digest}"


def resumed(output: Path, model: Path, context: int) -> Importance | None:
    """What an earlier capture counted into this file; None if there is none.

    Raises InvalidInput if the file is something else, of another model, or of windows of another length, and for
    windows too short to be counted.
    """
    if context < LEAST_TOKENS:
        what = f"must be at least {LEAST_TOKENS} tokens, not {context}: shorter inputs are not counted"
        raise InvalidInput(Fault("context", what))
    if not output.exists():
        return None
    found = read_importance(output)
    if found.datasets != marks_of(model):
        what = "is there already and was not captured with this model; name another file"
        raise InvalidInput(Fault(str(output), what))
    if found.chunk_size != context:
        what = f"was captured in windows of {found.chunk_size} tokens, not {context}; give --context {found.chunk_size}"
        raise InvalidInput(Fault(str(output), what))
    return found
