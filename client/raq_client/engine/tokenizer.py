"""The tokenizer of a model: text to tokens and back."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int32

from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import MODEL_PARAMS, write_field
from raq_client.engine.library import open_library
from raq_client.engine.session import Loaded
from raq_solver.errors import Fault, InvalidInput

ADD_SPECIAL: Final = True
"""Whether llama_tokenize adds what the vocabulary says (a begin token), as llama-perplexity has it."""
_LONGEST_PIECE: Final = 4096
_KEEP_SPACES: Final = 0  # llama_token_to_piece: leading spaces to remove
_SHOW_SPECIAL: Final = True


class Tokenizer:
    """The vocabulary of a loaded model; valid as long as the model is."""

    def __init__(self, model: Loaded) -> None:
        calls = self._calls = model.library.calls
        self._vocabulary = calls.llama_model_get_vocab(model.handle)
        self.size = model.vocabulary
        adds_begin = calls.llama_vocab_get_add_bos(self._vocabulary)
        self.begin_token: int | None = calls.llama_vocab_bos(self._vocabulary) if adds_begin else None

    def tokenize(self, text: str, *, special: bool = False) -> Int32[np.ndarray, " tokens"]:
        """Tokens of `text`, with those that the vocabulary adds by itself, as in llama-perplexity.

        With `special`, special tokens spelled out in the text become those tokens, as llama-server reads a chat;
        otherwise they are plain text.
        """
        data = text.encode("utf-8", "replace")  # JSON can spell half a character, which no encoding has
        tokens = np.empty(len(data) + 8, np.int32)
        count = self._calls.llama_tokenize(
            self._vocabulary, data, len(data), tokens.ctypes.data, len(tokens), ADD_SPECIAL, special
        )
        assert count >= 0, "no tokenizer makes more tokens than a text has bytes, special ones aside"
        return tokens[:count].copy()

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for, those of special tokens too; they need not be whole characters."""
        buffer = ctypes.create_string_buffer(_LONGEST_PIECE)
        length = self._calls.llama_token_to_piece(
            self._vocabulary, token, buffer, _LONGEST_PIECE, _KEEP_SPACES, _SHOW_SPECIAL
        )
        assert length >= 0, "no token is longer than a few hundred bytes"
        return buffer.raw[:length]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of these tokens; bytes that are no whole character become replacement characters."""
        return b"".join(self.piece(token) for token in tokens).decode(errors="replace")

    def ends(self, token: int) -> bool:
        """Whether a generation ends with this token."""
        return bool(self._calls.llama_vocab_is_eog(self._vocabulary, token))


@contextmanager
def vocabulary_of(path: Path, library: Path | str | None = None) -> Iterator[Tokenizer]:
    """The tokenizer of a model file without its weights, which takes no memory to speak of.

    Raises InvalidInput if libllama can't load it.
    """
    opened = open_library(library)
    params = opened.calls.llama_model_default_params()
    write_field(params, MODEL_PARAMS, "vocab_only", 1)
    opened.log.clear()
    with deferred_interrupts():
        handle: int | None = opened.calls.llama_model_load_from_file(os.fsencode(path), params)
    if handle is None:
        raise InvalidInput(Fault(str(path), f"libllama cannot load it: {opened.log.errors()}"))
    try:
        tokens = opened.calls.llama_vocab_n_tokens(opened.calls.llama_model_get_vocab(handle))
        yield Tokenizer(Loaded(opened, path, handle, tokens))
    finally:
        opened.calls.llama_model_free(handle)
