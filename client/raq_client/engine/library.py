"""Find libllama and load it into this process; by default the one inside the `xllamacpp` wheel.

The wheel's extension module exports the whole C API of llama.cpp. It is opened with ctypes as a plain shared
library; the Python package around it is never imported. Any other build (with CUDA, Metal, newer) can be named
by path instead: the argument `library`, or the environment variable RAQ_LIBLLAMA.
"""

import ctypes
import functools
import importlib.util
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raq_client.engine.layout import CONTEXT_PARAMS, MODEL_PARAMS, Batch, OpaqueParams, unexpected_fields
from raq_solver.errors import Fault, InvalidInput

ENVIRONMENT_VARIABLE = "RAQ_LIBLLAMA"
KNOWN_RELEASES = "0.4 to 0.6"  # tried: 0.4.1-dev (b11063) and 0.6.0-dev (b11549); 0.2.0-dev (b10566) is refused
LOG_LINES_KEPT = 200
_LACKED = {
    "libgomp.so.1": "install it: apt-get install libgomp1, or dnf install libgomp",
    "libstdc++.so.6": "install it: apt-get install libstdc++6, or dnf install libstdc++",
}
"""Libraries that libllama in the package xllamacpp takes from the system, and how to get them."""
LOG_LEVEL_ERROR = 4  # ggml.h: GGML_LOG_LEVEL_ERROR
LOG_LEVEL_CONTINUED = 5  # ggml.h: GGML_LOG_LEVEL_CONT, continues the previous line

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_POINTER, _INT, _BOOL, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_char_p
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [_LogCallback, _POINTER]),
    "llama_model_default_params": (OpaqueParams, []),
    "llama_context_default_params": (OpaqueParams, []),
    "llama_model_load_from_file": (_POINTER, [_TEXT, OpaqueParams]),
    "llama_model_free": (None, [_POINTER]),
    "llama_model_get_vocab": (_POINTER, [_POINTER]),
    "llama_model_has_encoder": (_BOOL, [_POINTER]),
    "llama_model_has_decoder": (_BOOL, [_POINTER]),
    "llama_model_n_ctx_train": (_INT, [_POINTER]),
    "llama_init_from_model": (_POINTER, [_POINTER, OpaqueParams]),
    "llama_free": (None, [_POINTER]),
    "llama_get_memory": (_POINTER, [_POINTER]),
    "llama_memory_clear": (None, [_POINTER, _BOOL]),
    "llama_decode": (_INT, [_POINTER, Batch]),
    "llama_synchronize": (None, [_POINTER]),
    "llama_get_logits": (_POINTER, [_POINTER]),
    "llama_vocab_n_tokens": (_INT, [_POINTER]),
    "llama_vocab_get_add_bos": (_BOOL, [_POINTER]),
    "llama_vocab_bos": (_INT, [_POINTER]),
    "llama_vocab_is_eog": (_BOOL, [_POINTER, _INT]),
    "llama_token_to_piece": (_INT, [_POINTER, _INT, _POINTER, _INT, _INT, _BOOL]),
    "llama_tokenize": (_INT, [_POINTER, _TEXT, _INT, _POINTER, _INT, _BOOL, _BOOL]),
    "ggml_backend_dev_count": (ctypes.c_size_t, []),
    "ggml_backend_load_all_from_path": (None, [_TEXT]),
    "ggml_backend_tensor_get": (None, [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_backend_tensor_set": (None, [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t]),
    "ggml_nbytes": (ctypes.c_size_t, [_POINTER]),
    "ggml_op_name": (_TEXT, [ctypes.c_int]),
    "ggml_type_name": (_TEXT, [ctypes.c_int]),
}


class Log:
    """The last log lines of libllama, kept for error messages instead of being printed to stderr."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=LOG_LINES_KEPT)
        self.callback = _LogCallback(self._receive)

    def _receive(self, level: int, text: bytes, _: int | None) -> None:
        line = text.decode(errors="replace")
        if level == LOG_LEVEL_CONTINUED and self._lines:
            last_level, last = self._lines.pop()
            self._lines.append((last_level, last + line))
        else:
            self._lines.append((level, line))

    def clear(self) -> None:
        """Drop all lines; called before a call whose errors will be reported."""
        self._lines.clear()

    def errors(self) -> str:
        """The errors since `clear`, as one clause without function names."""
        lines = [text.strip() for level, text in self._lines if level == LOG_LEVEL_ERROR]
        clauses = [line.split(": ", 1)[1] if line.split(": ", 1)[0].isidentifier() else line for line in lines]
        telling = [clause for clause in dict.fromkeys(clauses) if clause != "failed to load model"]
        return "; ".join(telling) or "it gives no reason"


@dataclass(frozen=True, eq=False)
class Library:
    """An opened libllama whose struct layouts have been verified."""

    path: Path
    version: str
    calls: ctypes.CDLL
    log: Log


def find_library(library: Path | str | None = None) -> Path:
    """Path of the libllama to use: `library`, else RAQ_LIBLLAMA, else the one in the `xllamacpp` wheel.

    For a folder, the `libllama` in it is used. Raises InvalidInput if there is none.
    """
    named = library or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return _in_folder(Path(named))
    spec = importlib.util.find_spec("xllamacpp")
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob("xllamacpp*.so")):
            return path
    raise InvalidInput(
        Fault(
            "libllama",
            "none is installed; install the package xllamacpp (x86-64 Linux), or name your own build of "
            f"llama.cpp's library with --libllama or {ENVIRONMENT_VARIABLE}",
        )
    )


def _in_folder(path: Path) -> Path:
    if not path.exists():
        raise InvalidInput(Fault(str(path), "there is no such libllama"))
    if not path.is_dir():
        return path
    for name in ("libllama.so", "libllama.dylib", "llama.dll"):
        for folder in (path, path / "lib", path / "bin"):
            if (folder / name).exists():
                return folder / name
    raise InvalidInput(Fault(str(path), "this folder holds no libllama.so (nor lib/ or bin/ in it)"))


def open_library(library: Path | str | None = None) -> Library:
    """Open a libllama, redirect its log, check its struct layouts and initialise it; once per path and process.

    Raises InvalidInput if there is none, if it isn't libllama, or if it is a release with unknown structs.
    """
    return _open(find_library(library).resolve())


def _not_opened(error: OSError) -> str:
    """What to say when the loader refuses a library: which other one it lacks, and how to get that."""
    if missing := re.match(r"(\S+\.so[.\d]*): cannot open shared object file: No such file", str(error)):
        way_out = _LACKED.get(missing[1], "install the package of your system that has it")
        return f"needs the library {missing[1]}, which this system lacks; {way_out}"
    return f"cannot be opened as a shared library: {error}"


@functools.cache
def _open(path: Path) -> Library:
    try:
        with _patient_threads():
            calls = ctypes.CDLL(str(path))
    except OSError as error:
        raise InvalidInput(Fault(str(path), _not_opened(error))) from error
    _declare(calls, path)
    version = _version(calls)
    _verify(calls, path, version)
    log = Log()
    calls.llama_log_set(log.callback, None)
    if calls.ggml_backend_dev_count() == 0:  # a build whose CPU and GPU parts are plugins beside it
        calls.ggml_backend_load_all_from_path(str(path.parent).encode())
    calls.llama_backend_init()
    return Library(path, version, calls, log)


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Make libgomp, if it is loaded in this block, put waiting threads to sleep early, unless the user has set it.

    libggml's threads synchronise after every operation. libgomp lets them spin there for about a millisecond. When
    another program occupies a core, that millisecond is lost at every barrier: the same evaluation took 7 times as
    long beside another busy process on 2 cores. 1000 is libgomp's own count for more threads than cores.
    """
    set_by_user = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    if not set_by_user:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        if not set_by_user:
            del os.environ["GOMP_SPINCOUNT"]


def _declare(calls: ctypes.CDLL, path: Path) -> None:
    missing = [name for name in _PROTOTYPES if not hasattr(calls, name)]
    if missing:
        raise InvalidInput(Fault(str(path), f"is not a libllama that raq can use: it lacks {', '.join(missing)}"))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(calls, name)
        function.restype, function.argtypes = result, arguments


def _version(calls: ctypes.CDLL) -> str:
    if not hasattr(calls, "llama_version"):  # older releases lack this call
        return "without a version"
    calls.llama_version.restype = ctypes.c_char_p
    version: bytes = calls.llama_version()
    return version.decode()


def _verify(calls: ctypes.CDLL, path: Path, version: str) -> None:
    model, context = calls.llama_model_default_params(), calls.llama_context_default_params()
    wrong = [f"llama_model_params.{name}" for name in unexpected_fields(model, MODEL_PARAMS)]
    wrong += [f"llama_context_params.{name}" for name in unexpected_fields(context, CONTEXT_PARAMS)]
    if wrong:
        raise InvalidInput(
            Fault(
                str(path),
                f"libllama {version} lays out its structs in a way raq does not know ({', '.join(wrong)}); "
                f"use a build of llama.cpp {KNOWN_RELEASES}, or the one in the package xllamacpp",
            )
        )
