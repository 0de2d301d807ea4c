"""Read tensor tables: the names, shapes and types of a model's tensors, without weights.

Sources: the header of a GGUF file (local, where the data may be missing, or on a web server), a CSV of shapes
(`name,shape` with the row length first, e.g. `5120x17408`), a `.map` listing of Thireus' GGUF Tool Suite, or a folder
of safetensors files as published on model hubs.
"""

import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from raq_client.files.names import is_model_name
from raq_client.files.reading import check_readable, damage_named, read_text
from raq_client.hub.names import HUB
from raq_client.models.model_file import is_gguf, open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.remote import read_hub_table, read_remote_table
from raq_client.models.safetensors import read_safetensors_table
from raq_client.models.sources import local_model
from raq_client.models.table import ModelTable, guessed_architecture, table_of
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, stored_type
from raq_solver.tensors import Tensor

_UNQUANTIZED: Final = CATALOGUE["BF16"]
_UNTOUCHED: Final = CATALOGUE["F32"]


def names_gguf(path: Path) -> bool:
    """Whether a path or name means a GGUF model, and not an allocation, a recipe or a table."""
    return is_model_name(str(path)) or path.suffix == ".gguf" or is_gguf(path)


def read_table(path: Path | str, architecture: str = "") -> ModelTable:
    """Read a table in the format given by the file extension; an http(s) address must be that of a GGUF file.

    Names of models elsewhere (`models.sources`) are taken too; of a model on a hub only the header is read.

    `architecture` (llama.cpp's name) is used for formats that do not contain it.
    Raises InvalidInput with a fault for every line that can't be read.
    """
    if str(path).startswith(("http://", "https://")):
        return read_remote_table(str(path))
    if str(path).startswith(HUB):
        return read_hub_table(str(path))
    path = local_model(path) if is_model_name(str(path)) else Path(path)
    if path.is_dir():
        with damage_named(path, "a folder of safetensors files"):
            return read_safetensors_table(path)
    check_readable(path)
    if names_gguf(path):
        return table_of(open_model(path, header_only=True))
    readers: dict[str, Callable[[str, str], Iterable[Tensor]]] = {".csv": _read_csv, ".map": _read_map}
    if path.suffix not in readers:
        what = "not a table of tensors; give a .gguf file, a .csv of shapes, a .map, or a folder of safetensors"
        raise InvalidInput(Fault(str(path), what))
    text = read_text(path, "a table of tensors")
    with damage_named(path, "a table of tensors"):
        tensors = tuple(readers[path.suffix](text, str(path)))
    if not tensors:
        raise InvalidInput(Fault(str(path), "lists no tensors"))
    name = path.name.removesuffix(path.suffix).removesuffix("_tensors").removesuffix(".bf16")
    return ModelTable(name, architecture or guessed_architecture(tensors), tensors)


def _read_csv(text: str, where: str) -> Iterable[Tensor]:
    rows = csv.DictReader(text.splitlines())
    if not {"name", "shape"} <= set(rows.fieldnames or ()):
        raise InvalidInput(Fault(where, "the first line must name the columns name and shape"))
    faults = []
    tensors = []
    for row in rows:
        name, written = row["name"] or "", row["shape"] or ""
        shape = tuple(int(length) for length in written.split("x") if length.isdecimal())
        if not name or not shape or "x".join(map(str, shape)) != written or 0 in shape:
            faults.append(Fault(f"{where}, line {rows.line_num}", f"{written!r} is not a shape such as 5120x17408"))
        else:
            tensors.append(_with_usual_type(name, shape))
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
    """The tensor in the type that llama.cpp's converter gives it: F32 if it is never quantized."""
    tensor = Tensor(name, shape, _UNQUANTIZED)
    return tensor if is_quantizable(tensor) else Tensor(name, shape, _UNTOUCHED)


def _twice(tensors: list[Tensor], where: str) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for tensor in tensors:
        if tensor.name in seen:
            faults.append(Fault(where, f"{tensor.name} occurs twice"))
        seen.add(tensor.name)
    return faults
