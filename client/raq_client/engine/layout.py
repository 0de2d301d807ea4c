"""The C structs of libllama that the engine uses, and a check that a loaded library has the same layout.

Only a prefix of each struct is described. Parameter structs are fetched from the library, changed at a few offsets
and passed back by value; bytes behind the prefix stay as the library made them, so a release that appends or moves
fields there needs no change here. The prefix is checked field by field against the defaults that the library itself
returns: a release that inserts a field into the prefix is refused, never misread.

Source of the layouts: include/llama.h and ggml/include/ggml.h of llama.cpp commit 0c1e57098 (0.5.0-dev);
the same offsets hold in 0.4.1-dev (b11063) and 0.6.0-dev (b11549).
"""

import ctypes
import struct

OPAQUE_BYTES = 256
"""Space reserved for a parameter struct; the largest known one has 168 bytes."""


class OpaqueParams(ctypes.Structure):
    """A parameter struct as raw bytes, larger than the struct of any release, so that it fits all of them.

    C passes structs above 16 bytes in memory on x86-64 and aarch64, and the callee reads only its own part.
    """

    _fields_ = (("raw", ctypes.c_ubyte * OPAQUE_BYTES),)


class Batch(ctypes.Structure):
    """`llama_batch`: tokens with their position, sequence and a flag whether to compute their logits."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


# name -> (offset, struct format, default that the library must return)
MODEL_PARAMS: dict[str, tuple[int, str, float]] = {
    "n_gpu_layers": (16, "i", -1),
    "split_mode": (20, "i", 1),
    "load_mode": (24, "i", -1),
    "lazy_mode": (28, "i", 1),
    "main_gpu": (32, "i", 0),
    "vocab_only": (72, "B", 0),
    "check_tensors": (73, "B", 0),
    "use_extra_bufts": (74, "B", 1),
}
CONTEXT_PARAMS: dict[str, tuple[int, str, float]] = {
    "n_ctx": (0, "I", 512),
    "n_batch": (4, "I", 2048),
    "n_ubatch": (8, "I", 512),
    "n_seq_max": (12, "I", 1),
    "n_threads": (28, "i", 4),
    "n_threads_batch": (32, "i", 4),
    "ctx_type": (36, "i", 0),
    "rope_scaling_type": (40, "i", -1),
    "pooling_type": (44, "i", -1),
    "attention_type": (48, "i", -1),
    "flash_attn_type": (52, "i", -1),
    "rope_freq_base": (56, "f", 0.0),
    "yarn_ext_factor": (64, "f", -1.0),
    "yarn_orig_ctx": (80, "I", 0),
    "cb_eval": (88, "P", 0),
    "cb_eval_user_data": (96, "P", 0),
    "type_k": (104, "i", 1),
    "type_v": (108, "i", 1),
}


def read_field(params: OpaqueParams, field: tuple[int, str, float]) -> float:
    """The value of one described field."""
    offset, code, _ = field
    value: float = struct.unpack_from(code, bytes(params.raw), offset)[0]
    return value


def unexpected_fields(params: OpaqueParams, layout: dict[str, tuple[int, str, float]]) -> list[str]:
    """Names of the fields whose value in a library's default `params` differs from the default in `layout`."""
    return [name for name, field in layout.items() if read_field(params, field) != field[2]]


def write_field(params: OpaqueParams, layout: dict[str, tuple[int, str, float]], name: str, value: float) -> None:
    """Set one described field."""
    offset, code, _ = layout[name]
    struct.pack_into(code, params.raw, offset, value)
