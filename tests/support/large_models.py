"""Models for pages, headers and figures only: 1,328 tensors with 43 blocks of 256 experts; a hybrid of 64 blocks."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np

from support.published_shapes import tensors_of

BLOCKS, EXPERTS, TENSORS = 43, 256, 1328
ROW = 256
TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
_BITS = {"Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5, "Q3_K": 3.4375, "Q2_K": 2.625}
_ROLES = 30
"""Tensors of a block; the rest is in the first blocks and outside of them."""


Shapes = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes, row length first as GGUF states them."""


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Those of the large model."""
    yield "token_embd.weight", (ROW, 4096)
    yield "output.weight", (ROW, 4096)
    for block in range(BLOCKS):
        for role in ("gate", "up", "down"):
            yield f"blk.{block}.ffn_{role}_exps.weight", (ROW, 32, EXPERTS)
        for number in range(_ROLES - 3):
            yield f"blk.{block}.attn_{number:02}.weight", (ROW, 64 * (1 + number % 3))
    for number in range(TENSORS - 2 - BLOCKS * _ROLES):
        yield f"blk.{number}.indexer.weight", (ROW, 64)


def hybrid_shapes() -> list[tuple[str, tuple[int, ...]]]:
    """The matrices of Qwen3.6-27B by their names, made small: three blocks of four have state-space parts instead."""
    return [(name, (ROW, 64)) for name, shape in tensors_of("qwen36_27b") if len(shape) > 1]


def large_folder(folder: Path) -> Path:
    """A folder with the model (its data a hole in the file), its profile, and importance with experts."""
    return _folder(folder, "large", "deepseek2", list(shapes()), BLOCKS, EXPERTS)


def hybrid_folder(folder: Path) -> Path:
    """The same of the hybrid model, which has no experts."""
    return _folder(folder, "hybrid", "qwen35", hybrid_shapes(), 64, 0)


def _folder(folder: Path, name: str, architecture: str, tensors: Shapes, blocks: int, experts: int) -> Path:
    folder.mkdir(exist_ok=True)
    _model(folder / f"{name}-f16.gguf", architecture, tensors, blocks, experts)
    _profile(folder / f"{name}.profile.json", tensors)
    _importance(folder / f"{name}.imatrix.gguf", tensors)
    return folder


def _model(path: Path, architecture: str, tensors: Shapes, blocks: int, experts: int) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.name.removesuffix("-f16.gguf"))
    writer.add_block_count(blocks)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(6)
    size = 0
    for name, shape in tensors:
        weights = int(np.prod(shape))
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float16), 2 * weights)
        size += -(-2 * weights // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        start = -(-file.seek(0, 2) // 32) * 32
        file.truncate(start + size)


def _profile(path: Path, tensors: Shapes) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for name, shape in tensors:
        energy = float(rng.lognormal(0, 1.5))
        errors = [2.0 ** (-2 * _BITS[each]) * float(rng.uniform(0.8, 1.25)) for each in TYPES]
        rows.append(
            {"name": name, "shape": list(shape), "source_type": "F16", "relative_errors": errors, "energy": energy}
        )
    content = {
        "format": "raq-profile-1",
        "quant_types": list(TYPES),
        "provenance": {"model": path.stem},
        "tensors": rows,
    }
    path.write_text(json.dumps(content))


def _importance(path: Path, tensors: Shapes) -> None:
    """Block 7 never used its experts 3 and 200."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["large"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, shape in tensors:
        experts = shape[2] if len(shape) > 2 else 1
        counts = rng.integers(1, 200, size=(experts, 1)).astype(np.float32)
        if name.startswith("blk.7.") and experts > 1:
            counts[[3, 200]] = 0
        sums = rng.lognormal(size=(experts, shape[0])).astype(np.float32) * counts
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
