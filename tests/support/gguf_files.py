"""GGUF files for tests, written by gguf-py: the witness, not the code under test."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.paths import DATA

MODEL_4M = DATA / "wiki-math-4M-f16.gguf"
"""Larger data, beside the repository; tests that need it skip where it is absent."""


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf-py's reader that passes over the elements of arrays, for tests of tensors and of single values.

    The texts of a tokenizer take it a quarter of a second otherwise.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        of, end = gguf.GGUFValueType(int(kind[0])), int(orig_offs) + 12
        if of is gguf.GGUFValueType.STRING:
            held = memoryview(self.data)
            for _ in range(int(count[0])):
                end += 8 + int.from_bytes(held[end : end + 8], "little")
        else:
            end += int(count[0]) * np.dtype(self.gguf_scalar_to_np[of]).itemsize
        return end - orig_offs, [kind, count], [], [gguf.GGUFValueType.ARRAY, of]


def small_model(path: Path, *, alignment: int = 32, architecture: str = "llama", seed: int = 0) -> Path:
    """Two blocks, an expert tensor, a routing table of whole numbers, and a key of every metadata type."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    writer.add_name("small")
    writer.add_block_count(2)
    add_every_value(writer)
    for name, shape in tensor_shapes().items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float16 if len(shape) > 1 else np.float32))
    writer.add_tensor("blk.0.ffn_gate_tid2eid.weight", np.arange(12, dtype=np.int32).reshape(4, 3))
    write(writer)
    return path


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes in NumPy order, row length last."""
    return {
        "token_embd.weight": (64, 256),
        "blk.0.attn_norm.weight": (256,),
        "blk.0.attn_q.weight": (256, 256),
        "blk.0.ffn_down_exps.weight": (3, 16, 256),
        "blk.1.attn_norm.weight": (256,),
        "blk.1.attn_q.weight": (128, 256),
        "output.weight": (64, 256),
    }


def add_every_value(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4_000_000_000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 2**63)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", val=True)
    writer.add_string("test.text", "grüße 🙂")
    writer.add_array("test.texts", ["", "a", "tokens"])
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_array("test.fractions", [0.5, 0.25])
    writer.add_array("test.flags", [True, False])


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_model(folder: Path, shards: int = 3) -> list[Path]:
    """A model in shards, as llama-gguf-split names and marks them: all metadata in the first."""
    rng = np.random.default_rng(1)
    paths = [folder / f"big-{number:05}-of-{shards:05}.gguf" for number in range(1, shards + 1)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            writer.add_name("big")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", shards)
        writer.add_int32("split.tensors.count", 2 * shards)
        for part in range(2):
            writer.add_tensor(f"blk.{number}.part_{part}.weight", rng.normal(size=(8, 32)).astype(np.float16))
        write(writer)
    return paths


def named_model(path: Path, name: str) -> Path:
    """A model of one tensor with any name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tensor("output.weight", np.zeros((32, 32), np.float32))
    write(writer)
    return path
