"""Tensor tables: what a model consists of, without its weights.

Read from the header of a GGUF file (the data need not be there; it may lie on a web server), a CSV of shapes
(`name,shape` with the row length first, as in `5120x17408`), a `.map` listing of Thireus' GGUF Tool Suite, or a folder
of safetensors files as models are published in.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from raq_client.models.gguf_header import Value
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, stored_type
from raq_solver.tensors import Tensor

NUMBERS: Final = "numbers"
"""Where the provenance of a profile keeps `numbers_text`: what memory and active bytes are reckoned from."""
_BLOCK: Final = re.compile(r"blk\.(\d+)\.")
_UNQUANTIZED: Final = CATALOGUE["BF16"]
_UNTOUCHED: Final = CATALOGUE["F32"]


@dataclass(frozen=True, eq=False)
class ModelTable:
    """The tensors of a model in file order, its architecture, and what metadata is known."""

    name: str
    architecture: str
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Weights of all tensors."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def block_count(self) -> int:
        """Blocks (layers), from the metadata or the highest number in a tensor's name."""
        return self.number("block_count") or 1 + max((block_of(t.name) for t in self.tensors), default=-1)

    def number(self, key: str) -> int:
        """The whole number under `ARCHITECTURE.key`, of block 0 where each block has its own; 0 when not known."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        first = value[0] if isinstance(value, list) and value else value
        return first if isinstance(first, int) else 0


def block_of(name: str) -> int:
    """The number of the block a tensor belongs to, -1 for the embedding, the output and the like."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else -1


def role_of(name: str) -> str:
    """What a tensor is in any block: its name without the block, `.weight` and `.bias`."""
    return _BLOCK.sub("", name).removesuffix(".weight").removesuffix(".bias")


def read_table(path: Path | str, architecture: str = "") -> ModelTable:
    """Read a table; the ending of the name tells the format. An http(s) address is that of a GGUF file.

    `architecture` (llama.cpp's name) is for the formats that do not hold it.
    Raises InvalidInput with a fault for every line that can't be read.
    """
    if str(path).startswith(("http://", "https://")):
        from raq_client.models.remote_table import read_remote_table

        return read_remote_table(str(path))
    path = Path(path)
    if path.is_dir():
        from raq_client.models.safetensors_table import read_safetensors_table

        return read_safetensors_table(path)
    if path.suffix == ".gguf":
        return table_of(open_model(path, header_only=True))
    readers: dict[str, Callable[[str, str], Iterable[Tensor]]] = {".csv": _read_csv, ".map": _read_map}
    if path.suffix not in readers:
        what = "not a table of tensors; give a .gguf file, a .csv of shapes, a .map, or a folder of safetensors"
        raise InvalidInput(Fault(str(path), what))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error}")) from error
    tensors = tuple(readers[path.suffix](text, str(path)))
    if not tensors:
        raise InvalidInput(Fault(str(path), "lists no tensors"))
    name = path.name.removesuffix(path.suffix).removesuffix("_tensors").removesuffix(".bf16")
    return ModelTable(name, architecture or guessed_architecture(tensors), tensors)


def table_of(model: ModelFile) -> ModelTable:
    """The table of a model file."""
    prefix = f"{model.architecture}."
    metadata = {key: value.decode() for key, value in model.metadata.items() if key.startswith(prefix)}
    return ModelTable(model.name, model.architecture, model.tensors, MappingProxyType(metadata))


def numbers_text(table: ModelTable) -> str:
    """The whole numbers among what is known of the architecture, as text that a profile can carry."""
    numbers = {key: value for key, value in sorted(table.metadata.items()) if _is_numbers(value)}
    return json.dumps(numbers, separators=(",", ":"))


def numbers_of(text: str) -> Mapping[str, Value]:
    """Metadata from the text that a profile carries; nothing from a text that says nothing."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if _is_numbers(value)} if isinstance(found, dict) else {}


def _is_numbers(value: Value) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(each, int) for each in value))


def guessed_architecture(tensors: Iterable[Tensor]) -> str:
    """llama.cpp's name for the architecture, guessed from tensor names where only those are known.

    It tells apart what llama.cpp's mixtures treat differently, no more; nothing where even that can't be seen.
    """
    names = {_BLOCK.sub("", tensor.name) for tensor in tensors}
    experts = any("_exps." in name for name in names)
    if "ssm_alpha.weight" in names:
        return "qwen35moe" if experts else "qwen35"
    if "attn_q_norm.weight" in names and "attn_q.bias" not in names:
        return "qwen3moe" if experts else "qwen3"
    if "attn_q.bias" in names:
        return "glm4moe" if experts else "qwen2"
    return "llama" if {"attn_q.weight", "attn_k.weight", "attn_v.weight"} <= names else ""


def _read_csv(text: str, where: str) -> Iterable[Tensor]:
    rows = csv.DictReader(text.splitlines())
    if not {"name", "shape"} <= set(rows.fieldnames or ()):
        raise InvalidInput(Fault(where, "the first line must name the columns name and shape"))
    faults = []
    tensors = []
    for row in rows:
        shape = tuple(int(length) for length in row["shape"].split("x") if length.isdecimal())
        if not row["name"] or not shape or "x".join(map(str, shape)) != row["shape"] or 0 in shape:
            faults.append(
                Fault(f"{where}, line {rows.line_num}", f"{row['shape']!r} is not a shape such as 5120x17408")
            )
        else:
            tensors.append(_with_usual_type(row["name"], shape))
    raise_faults(faults + _twice(tensors, where))
    return tensors


def _read_map(text: str, where: str) -> Iterable[Tensor]:
    faults = []
    tensors = []
    for number, line in enumerate(text.splitlines(), start=1):
        _, _, name, *fields = line.split(":") if line.count(":") >= 5 else ("", "", "")
        values = dict(part.split("=", 1) for part in fields if "=" in part)
        shape = tuple(int(length) for length in re.findall(r"\d+", values.get("shape", "")))
        try:
            tensor = Tensor(name, shape, stored_type(values.get("dtype", "")))
            if not shape or str(tensor.size) != values.get("bytes", ""):
                faults.append(Fault(f"{where}, line {number}", f"{name or line!r}: shape, type and bytes do not agree"))
            tensors.append(tensor)
        except InvalidInput as error:
            faults += [Fault(f"{where}, line {number}", f"{name or line!r}: {fault}") for fault in error.faults]
    raise_faults(faults + _twice(tensors, where))
    return tensors


def _with_usual_type(name: str, shape: tuple[int, ...]) -> Tensor:
    """The type that llama.cpp's converter gives a tensor of that name: F32 for what is never quantized."""
    tensor = Tensor(name, shape, _UNQUANTIZED)
    return tensor if is_quantizable(tensor) else Tensor(name, shape, _UNTOUCHED)


def _twice(tensors: list[Tensor], where: str) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for tensor in tensors:
        if tensor.name in seen:
            faults.append(Fault(where, f"{tensor.name} stands there twice"))
        seen.add(tensor.name)
    return faults
