"""Split texts into windows of tokens as llama-perplexity does (tools/perplexity of llama.cpp)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from raq_client.engine.model import Engine
from raq_client.engine.tokenizer import Tokenizer
from raq_solver.errors import Fault, raise_faults

LEAST_WINDOWS = 2
"""Fewer windows have no variance, so no standard error could be reported."""

Progress = Callable[[int, int], None]
"""Called after each window with the number of windows done and the total."""


@dataclass(frozen=True, slots=True)
class Text:
    """A named text to evaluate on; texts of one `domain` are also reported together.

    In a `special` text, special tokens that are spelled out (`<|im_start|>`) become those tokens, as in a chat at run
    time; in other texts they are plain text, as in llama-perplexity.
    """

    name: str
    content: str
    domain: str = ""
    special: bool = False

    def digest(self) -> bytes:
        """The SHA-256 of what its tokens depend on, the tokenizer aside."""
        return hashlib.sha256(self.content.encode() + b"\0special" * self.special).digest()


def cut_windows(model: Engine, texts: Sequence[Text], limit: int | None) -> list[Int32[np.ndarray, "windows context"]]:
    """Tokens of each text in windows of the engine's context length, at most `limit` windows per text.

    Raises InvalidInput naming every text that has fewer than two windows.
    """
    return cut_texts(model, model.context, texts, limit)


def cut_texts(
    tokenizer: Engine | Tokenizer, context: int, texts: Sequence[Text], limit: int | None
) -> list[Int32[np.ndarray, "windows context"]]:
    """Tokens of each text in windows of this length, as `cut_windows`."""
    faults, cut = [], []
    for text in texts:
        tokens = tokenizer.tokenize(text.content, special=text.special)
        count = len(tokens) // context
        if count < LEAST_WINDOWS:
            faults.append(
                Fault(
                    text.name,
                    f"too short with {len(tokens)} tokens: at least {LEAST_WINDOWS} windows of {context} are "
                    "needed; give a longer text or a smaller context",
                )
            )
        kept = count if limit is None else min(count, limit)
        cut.append(tokens[: kept * context].reshape(kept, context))
    raise_faults(faults)
    return cut


def spread_windows(model: Engine, texts: Sequence[Text], count: int) -> Int32[np.ndarray, "windows context"]:
    """At most `count` windows, evenly spread over all texts. Raises InvalidInput if a text has fewer than two."""
    everything = np.concatenate(cut_windows(model, texts, None))
    if len(everything) <= count:
        return everything
    chosen: Int32[np.ndarray, "windows context"] = everything[
        np.linspace(0, len(everything) - 1, count).round().astype(int)
    ]
    return chosen
