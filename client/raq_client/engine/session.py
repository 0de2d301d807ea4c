"""An evaluation context of libllama: windows of tokens in, logits out."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import CONTEXT_PARAMS, Batch, write_field
from raq_client.engine.library import Library
from raq_client.engine.observe import Watcher
from raq_solver.errors import Fault, InvalidInput

BATCH_TOKENS = 2048
"""Tokens per call of `llama_decode` when windows are shorter than that: llama-perplexity's default."""
LOGIT_BYTES = 256 << 20
"""Memory limit for the logits of one call; with a large vocabulary a call takes fewer windows."""
NOT_FINITE = (
    "its predictions are not finite (NaN or infinite): a weight in the file is not finite, or values overflow during "
    "evaluation; get or make the file again"
)
CLEAR_DATA = True  # llama_memory_clear: the cache's data too, not only its index


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model loaded in libllama: its library, file, handle and vocabulary size."""

    library: Library
    path: Path
    handle: int
    vocabulary: int


class NotFiniteError(InvalidInput):
    """The predictions of a model are NaN or infinite, so nothing can be measured with it."""


class Session:
    """An evaluation context for windows of `context` tokens, each from an empty cache; logits at positions `outputs`.

    Must be closed before the model. Raises InvalidInput if libllama can't make a context, e.g. for lack of memory.
    """

    def __init__(
        self,
        model: Loaded,
        context: int,
        outputs: slice,
        threads: int,
        watcher: Watcher | None = None,
        *,
        most_windows: int = BATCH_TOKENS,
    ) -> None:
        self._model, self._outputs, self._watcher = model, outputs, watcher
        self._calls = model.library.calls
        logit_bytes = 4 * model.vocabulary * (outputs.stop - outputs.start)
        self._windows_per_call = max(1, min(BATCH_TOKENS // context, LOGIT_BYTES // logit_bytes, most_windows))
        self._batch = _WindowBatch(self._windows_per_call, context, outputs)
        params = self._calls.llama_context_default_params()
        tokens = self._windows_per_call * context
        for name, value in (
            ("n_ctx", tokens),
            ("n_batch", tokens),
            ("n_seq_max", self._windows_per_call),
            ("n_threads", threads),
            ("n_threads_batch", threads),
            ("cb_eval", ctypes.cast(watcher.callback, ctypes.c_void_p).value or 0 if watcher else 0),
        ):
            write_field(params, CONTEXT_PARAMS, name, value)
        model.library.log.clear()
        with deferred_interrupts():
            self._handle: int | None = self._calls.llama_init_from_model(model.handle, params)
        if self._handle is None:
            what = f"libllama cannot evaluate it with a context of {context}: {model.library.log.errors()}"
            raise InvalidInput(Fault(str(model.path), what))

    def run(self, windows: Int32[np.ndarray, "windows context"]) -> Iterator[Float32[np.ndarray, "outputs vocabulary"]]:
        """Logits of each window in turn; an array is libllama's own memory, valid until the next is requested.

        Raises InvalidInput if libllama fails, NotFiniteError if logits are not finite, and what the watcher raised.
        """
        count = self._outputs.stop - self._outputs.start
        for first in range(0, len(windows), self._windows_per_call):
            group = windows[first : first + self._windows_per_call]
            logits = self._decode(group, len(group) * count)
            # Minus infinity may exclude single tokens; all of them, NaN or plus infinity are no prediction.
            if not np.isfinite(logits.max(axis=1)).all():
                raise NotFiniteError(Fault(str(self._model.path), NOT_FINITE))
            for index in range(len(group)):
                yield logits[index * count : (index + 1) * count]

    def _decode(self, group: Int32[np.ndarray, "windows context"], rows: int) -> Float32[np.ndarray, "rows vocabulary"]:
        calls, library = self._calls, self._model.library
        batch = self._batch.fill(group)
        library.log.clear()
        with deferred_interrupts():
            calls.llama_memory_clear(calls.llama_get_memory(self._handle), CLEAR_DATA)
            status = calls.llama_decode(self._handle, batch)
            calls.llama_synchronize(self._handle)
        if self._watcher is not None:
            self._watcher.reraise()
        if status != 0:
            what = f"libllama failed to evaluate it ({status}): {library.log.errors()}"
            raise InvalidInput(Fault(str(self._model.path), what))
        address = calls.llama_get_logits(self._handle)
        if not address:
            raise InvalidInput(Fault(str(self._model.path), "gives no prediction of the next token"))
        raw = (ctypes.c_float * (rows * self._model.vocabulary)).from_address(address)
        return np.ctypeslib.as_array(raw).reshape(rows, self._model.vocabulary)

    def close(self) -> None:
        """Free the context; closing twice is fine."""
        if self._handle:
            self._calls.llama_free(self._handle)
            self._handle = None


class _WindowBatch:
    """The arrays of a `llama_batch` in which each window is its own sequence."""

    def __init__(self, windows: int, context: int, outputs: slice) -> None:
        self._token = np.zeros((windows, context), np.int32)
        self._position = np.tile(np.arange(context, dtype=np.int32), (windows, 1))
        self._sequence = np.repeat(np.arange(windows, dtype=np.int32), context)
        self._sequence_count = np.ones(windows * context, np.int32)
        self._sequence_pointer = self._sequence.ctypes.data + 4 * np.arange(windows * context, dtype=np.uint64)
        self._wanted = np.zeros((windows, context), np.int8)
        self._wanted[:, outputs] = 1

    def fill(self, group: Int32[np.ndarray, "windows context"]) -> Batch:
        """A batch of these windows, valid until the next call."""
        self._token[: len(group)] = group
        return Batch(
            group.size,
            self._token.ctypes.data,
            None,
            self._position.ctypes.data,
            self._sequence_count.ctypes.data,
            self._sequence_pointer.ctypes.data,
            self._wanted.ctypes.data,
        )
