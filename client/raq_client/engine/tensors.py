"""ggml tensors in Python: their C struct, checked at run time, and copies of their values.

Source of the layout: ggml/include/ggml.h of llama.cpp commit 0c1e57098; the same in 0.6.0-dev. It is checked, not
assumed: `find_operations` builds tensors through ggml's own calls and reads them back through the struct.
"""

import ctypes
import functools
from dataclasses import dataclass

import numpy as np

from raq_client.engine.library import KNOWN_RELEASES, Library
from raq_solver.errors import Fault, InvalidInput

MAX_DIMENSIONS, MAX_SOURCES, MAX_NAME = 4, 10, 64  # ggml.h: GGML_MAX_DIMS, GGML_MAX_SRC, GGML_MAX_NAME
_OPERATIONS_TRIED = 64  # the wanted ones are near 30; ggml has about 100 and does not check the bounds of its table
F32, F16, I32, BF16 = 0, 1, 26, 30  # ggml.h: enum ggml_type


class TensorStruct(ctypes.Structure):
    """`struct ggml_tensor`."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMENSIONS),
        ("nb", ctypes.c_size_t * MAX_DIMENSIONS),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
    )


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True, slots=True)
class Operations:
    """Numbers of the ggml operations that read weight matrices; they differ between releases."""

    multiply: int
    multiply_experts: int
    look_up_rows: int


@functools.cache
def find_operations(library: Library) -> Operations:
    """Look up the library's operation numbers and check that its tensors have the layout above.

    Raises InvalidInput if they do not.
    """
    names = [library.calls.ggml_op_name(number) for number in range(_OPERATIONS_TRIED)]
    wanted = (b"MUL_MAT", b"MUL_MAT_ID", b"GET_ROWS")
    if not set(wanted) <= set(names):
        raise _unknown_layout(library)
    operations = Operations(*map(names.index, wanted))
    _prove_layout(library, operations)
    return operations


def _unknown_layout(library: Library) -> InvalidInput:
    return InvalidInput(
        Fault(
            str(library.path),
            f"libllama {library.version} lays out its tensors in a way raq does not know; "
            f"importance and sensitivity need a build of llama.cpp {KNOWN_RELEASES}",
        )
    )


def _prove_layout(library: Library, operations: Operations) -> None:
    """Make tensors through ggml's own calls and read them back through the struct."""
    calls = library.calls
    _declare_makers(calls)
    context = calls.ggml_init(_InitParams(1 << 20, None, False))  # noqa: FBT003 - a C struct
    weight = calls.ggml_new_tensor_3d(context, F16, 96, 5, 3)
    inputs = calls.ggml_new_tensor_3d(context, F32, 96, 7, 3)
    product = calls.ggml_mul_mat(context, weight, inputs)
    view = calls.ggml_view_1d(context, inputs, 10, 64)
    calls.ggml_set_name(weight, b"blk.0.some.weight")
    w, x, p, v = map(TensorStruct.from_address, (weight, inputs, product, view))
    proven = (
        (w.type, tuple(w.ne), tuple(w.nb), w.name) == (F16, (96, 5, 3, 1), (2, 192, 960, 2880), b"blk.0.some.weight")
        and (p.type, p.op, p.src[0], p.src[1], tuple(p.ne)) == (F32, operations.multiply, weight, inputs, (5, 7, 3, 1))
        and (v.view_src, v.view_offs, v.data) == (inputs, 64, x.data + 64)
    )
    calls.ggml_free(context)
    if not proven:
        raise _unknown_layout(library)


def _declare_makers(calls: ctypes.CDLL) -> None:
    pointer, size, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    for name, result, arguments in (
        ("ggml_init", pointer, [_InitParams]),
        ("ggml_free", None, [pointer]),
        ("ggml_new_tensor_3d", pointer, [pointer, integer, size, size, size]),
        ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        ("ggml_view_1d", pointer, [pointer, pointer, size, ctypes.c_size_t]),
        ("ggml_set_name", pointer, [pointer, ctypes.c_char_p]),
    ):
        function = getattr(calls, name)
        function.restype, function.argtypes = result, arguments


def clean_name(raw: bytes) -> str:
    """A tensor's name without the prefix and suffix that a GPU scheduler gives to copies.

    >>> clean_name(b"CUDA0#blk.0.attn_k.weight#0")
    'blk.0.attn_k.weight'
    """
    parts = raw.decode(errors="replace").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def copy_values(library: Library, address: int, dtype: np.dtype[np.generic]) -> np.ndarray:
    """A copy of a tensor's values from CPU or GPU memory; four axes in NumPy order (the reverse of ggml's)."""
    tensor = TensorStruct.from_address(address)
    raw = np.empty(library.calls.ggml_nbytes(address), np.uint8)
    library.calls.ggml_backend_tensor_get(address, raw.ctypes.data, 0, raw.nbytes)
    return np.ndarray(tuple(tensor.ne)[::-1], dtype, raw, strides=tuple(tensor.nb)[::-1])
