"""Tables of the tensors of published models, written from the shapes in `tests/data/published_shapes.toml`."""

import csv
import re
import tomllib
from collections.abc import Iterator
from math import prod
from pathlib import Path

from support.paths import DATA

_SHAPES = tomllib.loads((DATA / "published_shapes.toml").read_text(encoding="utf-8"))
_BLOCKS = re.compile(r"blk\.([\d,/-]+)\.(.+)")
_STORED_AS_F32 = re.compile(r"norm|ssm_(a$|dt|conv1d)")

PUBLISHED = tuple(_SHAPES)
"""Names of the tables, for the parameters of tests."""


def write_tables(folder: Path) -> Path:
    """Write every table as NAME_tensors.csv, and that of Qwen3.6-27B as a listing of its shards too; the folder."""
    for name in PUBLISHED:
        with (folder / f"{name}_tensors.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("name", "shape", "params", "role"))
            for tensor, shape in tensors_of(name):
                table.writerow((tensor, "x".join(map(str, shape)), prod(shape), _role(tensor)))
    lines = (_listed(number, *entry) for number, entry in enumerate(tensors_of("qwen36_27b"), start=2))
    (folder / "qwen36_27b.bf16.map").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tensors_of(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a model's tensors, in order of blocks and of names within a block."""
    found = [entry for key, shape in _SHAPES[name].items() for entry in _expanded(key, shape)]
    return sorted(found, key=lambda entry: _place(entry[0]))


def _expanded(key: str, shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    sizes = tuple(map(int, shape.split("x")))
    match = _BLOCKS.fullmatch(key)
    if match is None:
        yield key, sizes
        return
    for part in match[1].split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        for block in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"blk.{block}.{match[2]}", sizes


def _place(name: str) -> tuple[int, int, str]:
    match = _BLOCKS.fullmatch(name)
    if match is not None:
        return (1, int(match[1]), match[2])
    return (0 if name.startswith("token_embd") else 2, 0, name)


def _role(name: str) -> str:
    return "norm" if "norm" in name else re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", name)


def _listed(number: int, name: str, shape: tuple[int, ...]) -> str:
    """A line as the listings of Thireus' GGUF Tool Suite have it."""
    kind, size = ("f32", 4) if _STORED_AS_F32.search(name) else ("bf16", 2)
    weights = prod(shape)
    sizes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    shard = f"shard-{number:05}.gguf:{number:064x}"
    return f"{shard}:{name}:shape={sizes}:dtype={kind}:elements={weights}:bytes={size * weights}"
