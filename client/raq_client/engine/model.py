"""A model loaded in libllama: text to tokens, and windows of tokens to logits."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import CONTEXT_PARAMS, Batch, write_field
from raq_client.engine.library import Library, open_library
from raq_solver.errors import Fault, InvalidInput

DEFAULT_CONTEXT = 512
SMALLEST_CONTEXT = 8
ADD_SPECIAL, PARSE_SPECIAL = True, False  # what llama-perplexity asks of llama_tokenize
CLEAR_DATA = True  # llama_memory_clear: the cache's data too, not only its index
BATCH_TOKENS = 2048
"""Tokens per call of `llama_decode` when windows are shorter than that: llama-perplexity's default."""
LOGIT_BYTES = 256 << 20
"""Most memory for the logits of one call; a large vocabulary gets fewer windows per call."""


def scored_positions(context: int) -> slice:
    """Positions of a window whose logits are scored: each predicts the token after it.

    The second half, as llama-perplexity does: the first half only gives the model something to read.
    """
    return slice(context // 2, context - 1)


class Engine:
    """One model in libllama with an evaluation context; made by `load`, freed by `close` or `with`.

    Not for use by two threads at once. Arrays handed out by `score_windows` are libllama's own memory.
    """

    def __init__(self, library: Library, path: Path, model: int, context: int, threads: int) -> None:
        self.path = path
        self.context = context
        self._library, self._calls, self._model = library, library.calls, model
        self._vocabulary = self._calls.llama_model_get_vocab(model)
        self.vocabulary: int = self._calls.llama_vocab_n_tokens(self._vocabulary)
        self.trained_context: int = self._calls.llama_model_n_ctx_train(model)
        self.begin_token: int | None = (
            self._calls.llama_vocab_bos(self._vocabulary)
            if self._calls.llama_vocab_get_add_bos(self._vocabulary)
            else None
        )
        outputs = scored_positions(context)
        logit_bytes = 4 * self.vocabulary * (outputs.stop - outputs.start)
        self._windows_per_call = max(1, min(BATCH_TOKENS // context, LOGIT_BYTES // logit_bytes))
        self._session = self._new_session(threads)
        self._batch = _WindowBatch(self._windows_per_call, context)

    def _new_session(self, threads: int) -> int:
        calls = self._calls
        params = calls.llama_context_default_params()
        tokens = self._windows_per_call * self.context
        for name, value in {
            "n_ctx": tokens,
            "n_batch": tokens,
            "n_seq_max": self._windows_per_call,
            "n_threads": threads,
            "n_threads_batch": threads,
        }.items():
            write_field(params, CONTEXT_PARAMS, name, value)
        self._library.log.clear()
        with deferred_interrupts():
            session: int | None = calls.llama_init_from_model(self._model, params)
        if session is None:
            raise InvalidInput(
                Fault(
                    str(self.path),
                    f"libllama cannot evaluate it with a context of {self.context}: {self._library.log.errors()}",
                )
            )
        return session

    def tokenize(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Tokens of `text`, with the special tokens that the vocabulary adds by itself, as llama-perplexity does.

        Special tokens written out in the text stay text.
        """
        data = text.encode()
        tokens = np.empty(len(data) + 8, np.int32)
        count = self._calls.llama_tokenize(
            self._vocabulary, data, len(data), tokens.ctypes.data, len(tokens), ADD_SPECIAL, PARSE_SPECIAL
        )
        assert count >= 0, "no tokenizer makes more tokens than a text has bytes, special ones aside"
        return tokens[:count].copy()

    def score_windows(
        self, windows: Int32[np.ndarray, "windows context"]
    ) -> Iterator[Float32[np.ndarray, "positions vocabulary"]]:
        """Logits of every window at `scored_positions`, one array per window, in order.

        Each window is read from an empty memory, its first token replaced by the begin token if the vocabulary
        adds one. An array is only valid until the next one is asked for, unless it is copied.

        Raises InvalidInput if libllama fails to evaluate.
        """
        assert windows.shape[1] == self.context, "windows have the length the engine was loaded for"
        outputs = scored_positions(self.context)
        count = outputs.stop - outputs.start
        for first in range(0, len(windows), self._windows_per_call):
            group = windows[first : first + self._windows_per_call].astype(np.int32)
            if self.begin_token is not None:
                group[:, 0] = self.begin_token
            logits = self._decode(group, outputs)
            for index in range(len(group)):
                yield logits[index * count : (index + 1) * count]

    def _decode(
        self, group: Int32[np.ndarray, "windows context"], outputs: slice
    ) -> Float32[np.ndarray, "outputs vocabulary"]:
        calls = self._calls
        batch = self._batch.fill(group, outputs)
        self._library.log.clear()
        with deferred_interrupts():
            calls.llama_memory_clear(calls.llama_get_memory(self._session), CLEAR_DATA)
            status = calls.llama_decode(self._session, batch)
            calls.llama_synchronize(self._session)
        if status != 0:
            raise InvalidInput(
                Fault(str(self.path), f"libllama failed to evaluate it ({status}): {self._library.log.errors()}")
            )
        rows = len(group) * (outputs.stop - outputs.start)
        address = calls.llama_get_logits(self._session)
        raw = (ctypes.c_float * (rows * self.vocabulary)).from_address(address)
        return np.frombuffer(raw, np.float32).reshape(rows, self.vocabulary)

    def close(self) -> None:
        """Free the model; the engine can't be used afterwards. Closing twice is fine."""
        if self._model:
            self._calls.llama_free(self._session)
            self._calls.llama_model_free(self._model)
            self._session = self._model = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _WindowBatch:
    """The arrays behind a `llama_batch`: each window is a sequence of its own."""

    def __init__(self, windows: int, context: int) -> None:
        self._token = np.zeros((windows, context), np.int32)
        self._position = np.tile(np.arange(context, dtype=np.int32), (windows, 1))
        self._sequence = np.repeat(np.arange(windows, dtype=np.int32), context)
        self._sequence_count = np.ones(windows * context, np.int32)
        self._sequence_pointer = self._sequence.ctypes.data + 4 * np.arange(windows * context, dtype=np.uint64)
        self._wanted = np.zeros((windows, context), np.int8)

    def fill(self, group: Int32[np.ndarray, "windows context"], outputs: slice) -> Batch:
        """A batch of these windows with logits wanted at `outputs`; valid until the next call."""
        self._token[: len(group)] = group
        self._wanted[:] = 0
        self._wanted[:, outputs] = 1
        return Batch(
            group.size,
            self._token.ctypes.data,
            None,
            self._position.ctypes.data,
            self._sequence_count.ctypes.data,
            self._sequence_pointer.ctypes.data,
            self._wanted.ctypes.data,
        )


def load(
    model_path: Path | str,
    *,
    context: int = DEFAULT_CONTEXT,
    threads: int = 0,
    library: Path | str | None = None,
) -> Engine:
    """Load a model to be evaluated in windows of `context` tokens on `threads` threads (0: all this process has).

    `library` names another libllama than the installed one (see `library.find_library`). A build with GPU support
    puts the whole model on the GPU, as llama.cpp does by default.

    Raises InvalidInput if the file is missing, or libllama can't load it (truncated, unknown architecture), or
    if it isn't a model that predicts the next token.
    """
    path = Path(model_path)
    if not path.is_file():
        raise InvalidInput(Fault(str(path), "there is no such model file"))
    if context < SMALLEST_CONTEXT:
        raise InvalidInput(Fault("context", f"must be at least {SMALLEST_CONTEXT} tokens, not {context}"))
    opened = open_library(library)
    model = _load_model(opened, path)
    try:
        return Engine(opened, path, model, context, threads or _usable_cores())
    except BaseException:
        opened.calls.llama_model_free(model)
        raise


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_model(library: Library, path: Path) -> int:
    calls = library.calls
    library.log.clear()
    with deferred_interrupts():
        model: int | None = calls.llama_model_load_from_file(os.fsencode(path), calls.llama_model_default_params())
    if model is None:
        raise InvalidInput(Fault(str(path), f"libllama cannot load it: {library.log.errors()}"))
    if calls.llama_model_has_encoder(model) or not calls.llama_model_has_decoder(model):
        calls.llama_model_free(model)
        raise InvalidInput(Fault(str(path), "has an encoder; perplexity is defined for decoder-only models"))
    return model
