"""Generation: the most probable token after a prompt, or one drawn, and after that, one sequence at a time.

A sequence is evaluated alone from an empty cache, so an answer does not depend on what was asked before.
"""

import codecs
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import CONTEXT_PARAMS, Batch, write_field
from raq_client.engine.session import CLEAR_DATA, NOT_FINITE, Loaded, NotFiniteError
from raq_client.engine.tokenizer import Tokenizer
from raq_solver.errors import Fault, InvalidInput

Choose = Callable[[Float32[np.ndarray, " vocabulary"]], int]
"""The next token by the logits of all."""


def most_probable(logits: Float32[np.ndarray, " vocabulary"]) -> int:
    """The token of the largest logit; of equals the first."""
    return int(logits.argmax())


def drawn(temperature: float, top_p: float, seed: int | None) -> Choose:
    """Draw tokens by their probability at a temperature above 0, among the most probable that reach `top_p` (0 to 1).

    The same seed draws the same tokens; None is another one each time.
    """
    generator = np.random.default_rng(seed)

    def choose(logits: Float32[np.ndarray, " vocabulary"]) -> int:
        scaled = (logits.astype(np.float64) - logits.max()) / temperature
        order = np.argsort(-scaled, kind="stable")
        chances = np.exp(scaled[order])
        reached = np.cumsum(chances / chances.sum())
        kept = int(np.searchsorted(reached, top_p)) + 1
        sums = np.cumsum(chances[:kept])
        return int(order[min(np.searchsorted(sums, generator.random() * sums[-1], side="right"), len(sums) - 1)])

    return choose


class Generator:
    """A context of `length` tokens for prompts and their answers. Must be closed before the model.

    Raises InvalidInput if libllama can't make the context.
    """

    def __init__(self, model: Loaded, length: int, threads: int) -> None:
        self._model, self._calls = model, model.library.calls
        self._tokenizer, self.length, self.vocabulary = Tokenizer(model), length, model.vocabulary
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

    def tokenize(self, text: str, *, special: bool = False) -> Int32[np.ndarray, " tokens"]:
        """Tokens of a prompt; with `special`, special tokens spelled out in it become those tokens."""
        return self._tokenizer.tokenize(text, special=special)

    def answer(self, prompt: str, *, most: int, stops: Sequence[str] = (), special: bool = False) -> str:
        """The answer to a prompt: at most `most` tokens, up to the end that the model sets or the first of `stops`.

        Raises InvalidInput if prompt and answer don't fit the context, or if libllama fails.
        """
        return "".join(self.begin(self.tokenize(prompt, special=special), most=most, stops=stops))

    def begin(
        self,
        prompt: Int32[np.ndarray, " tokens"],
        *,
        most: int,
        stops: Sequence[str] = (),
        choose: Choose = most_probable,
    ) -> "Answer":
        """The answer to a prompt in parts, each as soon as it is certain; only the last one begun goes on.

        Raises InvalidInput if prompt and answer don't fit the context.
        """
        if len(prompt) + most > self.length:
            what = f"a prompt of {len(prompt)} tokens and {most} of an answer do not fit a context of {self.length}"
            raise InvalidInput(Fault(str(self._model.path), what))
        return Answer(self._tokens(prompt, most, choose), self._tokenizer, most, stops)

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

    def _tokens(self, prompt: Int32[np.ndarray, " tokens"], most: int, choose: Choose) -> Iterator[int]:
        self._calls.llama_memory_clear(self._calls.llama_get_memory(self._handle), CLEAR_DATA)
        given, position = prompt, 0
        for _ in range(most):
            token = self._next(given, position, choose)
            yield token
            position += len(given)
            given = np.array([token], np.int32)

    def _next(self, tokens: Int32[np.ndarray, " tokens"], position: int, choose: Choose = most_probable) -> int:
        """The token chosen after these."""
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
        return choose(logits)

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


class Answer:
    """An answer under way: an iterator of its parts, whole characters each.

    `count` is the number of tokens so far, that of the end too; `is_cut` is whether it ended for `most` of them.
    """

    def __init__(self, tokens: Iterator[int], tokenizer: Tokenizer, most: int, stops: Sequence[str]) -> None:
        self._tokens, self._tokenizer, self._most = tokens, tokenizer, most
        self._stops = [stop for stop in stops if stop]
        self._ended = False
        self.count = 0

    @property
    def is_cut(self) -> bool:
        """Whether there was more to come."""
        return self.count == self._most and not self._ended

    def __iter__(self) -> Iterator[str]:
        """The parts, once."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stopped = False
        held = ""  # may be the beginning of a stop
        for token in self._tokens:
            self.count += 1
            if self._tokenizer.ends(token):
                self._ended = True
                break
            held += decoder.decode(self._tokenizer.piece(token))
            ends = [place for stop in self._stops if (place := held.find(stop)) >= 0]
            if ends:
                self._ended = stopped = True
                held = held[: min(ends)]
                break
            certain = len(held) - self._undecided(held)
            if certain:
                yield held[:certain]
                held = held[certain:]
        if not stopped:
            held += decoder.decode(b"", final=True)
        if held:
            yield held

    def _undecided(self, text: str) -> int:
        """Characters at the end of a text with which a stop may begin."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
