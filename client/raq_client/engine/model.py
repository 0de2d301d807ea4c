"""A model loaded in libllama: tokenize text, compute logits of token windows, observe products, edit weights."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32

from raq_client.engine.generate import Generator
from raq_client.engine.interrupts import deferred_interrupts
from raq_client.engine.layout import MODEL_PARAMS, write_field
from raq_client.engine.library import Library, open_library
from raq_client.engine.observe import Product, watch_products
from raq_client.engine.session import Loaded, Session
from raq_client.engine.tokenizer import Tokenizer
from raq_client.engine.weights import Weights, find_weights
from raq_solver.errors import Fault, InvalidInput

DEFAULT_CONTEXT = 512
SMALLEST_CONTEXT = 8
LOAD_INTO_MEMORY = 0  # llama.h: LLAMA_LOAD_MODE_NONE


def scored_positions(context: int) -> slice:
    """Positions of a window whose logits are scored; each predicts the token after it.

    The second half, as in llama-perplexity: the first half only serves as context.

    >>> scored_positions(512)
    slice(256, 511, None)
    """
    return slice(context // 2, context - 1)


class Engine:
    """One model in libllama with an evaluation context; made by `load`, freed by `close` or `with`.

    Not thread-safe. Arrays yielded by `score_windows` are libllama's own memory.
    """

    def __init__(self, model: Loaded, context: int, threads: int, *, editable: bool) -> None:
        self.path = model.path
        self.context = context
        self.threads = threads
        self.vocabulary = model.vocabulary
        self._model, self._editable = model, editable
        calls = self._calls = model.library.calls
        self.tokenizer = Tokenizer(model)
        self.trained_context: int = calls.llama_model_n_ctx_train(model.handle)
        self.begin_token = self.tokenizer.begin_token
        self._session = Session(model, context, scored_positions(context), threads)
        self._weights: Weights | None = None
        self._closed = False

    def tokenize(self, text: str, *, special: bool = False) -> Int32[np.ndarray, " tokens"]:
        """Tokens of `text`, as `Tokenizer.tokenize` makes them."""
        return self.tokenizer.tokenize(text, special=special)

    def score_windows(
        self, windows: Int32[np.ndarray, "windows context"]
    ) -> Iterator[Float32[np.ndarray, "positions vocabulary"]]:
        """Logits of every window at `scored_positions`, one array per window, in order.

        Each window starts with an empty KV cache; its first token is replaced by the begin token if the vocabulary
        adds one. An array is valid only until the next one is requested; copy it to keep it.

        Raises InvalidInput if libllama fails to evaluate.
        """
        return self._session.run(self.begun(windows))

    def observe_products(
        self,
        windows: Int32[np.ndarray, "windows context"],
        wanted: Callable[[str], bool],
        visit: Callable[[Product], None],
        least_tokens: int = 1,
    ) -> Iterator[int]:
        """Run the windows one by one and call `visit` with each product of a `wanted` weight.

        Yields the number of windows done after each window. The last layer is computed at all positions.
        Raises InvalidInput if libllama fails or can't be observed, and whatever `visit` raises.
        """
        watcher = watch_products(self._model.library, wanted, least_tokens, visit)
        everywhere = slice(0, self.context)
        with closing(Session(self._model, self.context, everywhere, self.threads, watcher, most_windows=1)) as session:
            for done, _ in enumerate(session.run(self.begun(windows)), start=1):
                yield done

    def generator(self, length: int) -> Generator:
        """A context of `length` tokens, prompt and answer, for greedy generation; close it before the engine.

        Raises InvalidInput if libllama can't make it.
        """
        return Generator(self._model, length, self.threads)

    def weights(self) -> Weights:
        """The weights of an engine loaded with `editable=True`; they can be read and replaced in place."""
        assert self._editable, "only an engine loaded with editable=True has weights that can be written"
        if self._weights is None:
            self._weights = find_weights(self._model, self.threads)
        return self._weights

    def begun(self, windows: Int32[np.ndarray, "windows context"]) -> Int32[np.ndarray, "windows context"]:
        """The windows with the token that begins a text, where the model has one."""
        assert windows.shape[1] == self.context, "windows have the length the engine was loaded for"
        begun = windows.astype(np.int32)
        if self.begin_token is not None:
            begun[:, 0] = self.begin_token
        return begun

    def close(self) -> None:
        """Free the model; the engine can't be used afterwards. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._session.close()
            self._calls.llama_model_free(self._model.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    model_path: Path | str,
    *,
    context: int = DEFAULT_CONTEXT,
    threads: int = 0,
    library: Path | str | None = None,
    editable: bool = False,
) -> Engine:
    """Load a model for evaluation in windows of `context` tokens on `threads` threads (0: all cores of this process).

    `library` selects another libllama than the installed one (see `library.find_library`). A build with GPU support
    puts the whole model on the GPU, as llama.cpp does by default. `editable` copies the weights into memory, as they
    are in the file, so that `Engine.weights` can change them; without it they may be mapped or rearranged.

    Raises InvalidInput if the file is missing, or libllama can't load it (truncated, unknown architecture), or
    if it isn't a model that predicts the next token.
    """
    path = Path(model_path)
    if not path.is_file():
        raise InvalidInput(Fault(str(path), "there is no such model file"))
    if context < SMALLEST_CONTEXT:
        raise InvalidInput(Fault("context", f"must be at least {SMALLEST_CONTEXT} tokens, not {context}"))
    model = _load_model(open_library(library), path, editable=editable)
    try:
        return Engine(model, context, threads or usable_cores(), editable=editable)
    except BaseException:
        model.library.calls.llama_model_free(model.handle)
        raise


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_model(library: Library, path: Path, *, editable: bool) -> Loaded:
    calls = library.calls
    params = calls.llama_model_default_params()
    if editable:
        write_field(params, MODEL_PARAMS, "load_mode", LOAD_INTO_MEMORY)
        write_field(params, MODEL_PARAMS, "use_extra_bufts", 0)  # they rearrange weights for the CPU's kernels
    library.log.clear()
    with deferred_interrupts():
        handle: int | None = calls.llama_model_load_from_file(os.fsencode(path), params)
    if handle is None:
        raise InvalidInput(Fault(str(path), f"libllama cannot load it: {library.log.errors()}"))
    if calls.llama_model_has_encoder(handle) or not calls.llama_model_has_decoder(handle):
        calls.llama_model_free(handle)
        raise InvalidInput(Fault(str(path), "has an encoder; perplexity is defined for decoder-only models"))
    return Loaded(library, path, handle, calls.llama_vocab_n_tokens(calls.llama_model_get_vocab(handle)))
