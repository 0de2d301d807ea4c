"""Greedy generation: the most probable token after a prompt, and after that, one sequence at a time.

A sequence is evaluated alone from an empty cache, so an answer does not depend on what was asked before.
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Int32

from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import CONTEXT_PARAMS, Batch, write_field
from raq_client.engine.session import CLEAR_DATA, NOT_FINITE, Loaded, NotFiniteError
from raq_client.engine.tokenizer import Tokenizer
from raq_solver.errors import Fault, InvalidInput


class Generator:
    """A context of `length` tokens for prompts and their answers. Must be closed before the model.

    Raises InvalidInput if libllama can't make the context.
    """

    def __init__(self, model: Loaded, length: int, threads: int) -> None:
        self._model, self._calls = model, model.library.calls
        self._tokenizer, self.length = Tokenizer(model), length
        params = self._calls.llama_context_default_params()
        for name, value in (
            ("n_ctx", length),
            ("n_batch", length),
            ("n_seq_max", 1),
            ("n_threads", threads),
            ("n_threads_batch", threads),
        ):
            write_field(params, CONTEXT_PARAMS, name, value)
        model.library.log.clear()
        with deferred_interrupts():
            self._handle: int | None = self._calls.llama_init_from_model(model.handle, params)
        if self._handle is None:
            what = f"libllama cannot evaluate it with a context of {length}: {model.library.log.errors()}"
            raise InvalidInput(Fault(str(model.path), what))

    def answer(self, prompt: str, *, most: int, stops: Sequence[str] = (), special: bool = False) -> str:
        """The answer to a prompt: at most `most` tokens, up to the end that the model sets or the first of `stops`.

        Raises InvalidInput if prompt and answer don't fit the context, or if libllama fails.
        """
        tokens = self._tokenizer.tokenize(prompt, special=special)
        if len(tokens) + most > self.length:
            what = f"a prompt of {len(tokens)} tokens and {most} of an answer do not fit a context of {self.length}"
            raise InvalidInput(Fault(str(self._model.path), what))
        written = b""
        for token in self._tokens(tokens, most):
            written += self._tokenizer.piece(token)
            text = written.decode(errors="ignore")  # a character may be complete only with the next token
            ends = [place for stop in stops if (place := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return written.decode(errors="replace")

    def seconds(self, prompt: Int32[np.ndarray, " tokens"], answer: int) -> tuple[float, float]:
        """Seconds to evaluate a prompt from an empty cache, and then `answer` tokens, each after the one before.

        Tokens that end an answer do not end this one. Raises InvalidInput if libllama fails.
        """
        assert len(prompt) + answer <= self.length, "prompt and answer fit the context"
        self._calls.llama_memory_clear(self._calls.llama_get_memory(self._handle), CLEAR_DATA)
        began = time.perf_counter()
        token = self._next(prompt, 0)
        answered = time.perf_counter()
        for position in range(len(prompt), len(prompt) + answer):
            token = self._next(np.array([token], np.int32), position)
        return answered - began, time.perf_counter() - answered

    def _tokens(self, prompt: Int32[np.ndarray, " tokens"], most: int) -> Iterator[int]:
        self._calls.llama_memory_clear(self._calls.llama_get_memory(self._handle), CLEAR_DATA)
        given, position = prompt, 0
        for _ in range(most):
            token = self._next(given, position)
            if self._tokenizer.ends(token):
                return
            yield token
            position += len(given)
            given = np.array([token], np.int32)

    def _next(self, tokens: Int32[np.ndarray, " tokens"], position: int) -> int:
        """The most probable token after these; of equals the first."""
        count, model = len(tokens), self._model
        positions = np.arange(position, position + count, dtype=np.int32)
        ones, sequence, wanted = np.ones(count, np.int32), np.zeros(1, np.int32), np.zeros(count, np.int8)
        wanted[-1] = 1
        sequences = np.full(count, sequence.ctypes.data, np.uint64)
        arrays = (positions, ones, sequences, wanted)
        batch = Batch(count, tokens.ctypes.data, None, *(array.ctypes.data for array in arrays))
        model.library.log.clear()
        with deferred_interrupts():
            status = self._calls.llama_decode(self._handle, batch)
            self._calls.llama_synchronize(self._handle)
        address = self._calls.llama_get_logits(self._handle) if status == 0 else None
        if not address:
            what = f"libllama failed to evaluate it ({status}): {model.library.log.errors()}"
            raise InvalidInput(Fault(str(model.path), what))
        logits = np.ctypeslib.as_array((ctypes.c_float * model.vocabulary).from_address(address))
        if not np.isfinite(logits.max()):
            raise NotFiniteError(Fault(str(model.path), NOT_FINITE))
        return int(logits.argmax())

    def close(self) -> None:
        """Free the context; closing twice is fine."""
        if self._handle:
            self._calls.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
