"""Plain problems: a table of sizes and losses from any tool, solved without a model.

Two forms: an .npz file with the arrays `tensors` (names), `qtypes` (names), `bytes` [tensors, types] (whole numbers)
and `losses` [tensors, types] (infinite: not possible), optionally `elements` (weights per tensor); or JSON with
the same keys, null for a loss that is not possible. Read without pickle: nothing in a file is executed.
"""

import json
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raq_client.profile_file import faults_of
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable

KEYS = ("tensors", "qtypes", "bytes", "losses")


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tensors: tuple[str, ...]
    qtypes: tuple[str, ...]
    bytes: tuple[tuple[int, ...], ...]
    losses: tuple[tuple[float | None, ...], ...]
    elements: tuple[Annotated[int, Field(gt=0)], ...] | None = None


def read_problem(path: Path) -> LossTable:
    """The table in a file. Raises InvalidInput with every fault."""
    try:
        table = _from_npz(path) if path.suffix == ".npz" else _from_json(path)
    except OSError as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror or error}")) from error
    return table


def _from_npz(path: Path) -> LossTable:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in KEYS if key not in arrays]
            if missing:
                what = f"holds no array {', '.join(missing)}; a problem needs {', '.join(KEYS)}"
                raise InvalidInput(Fault(str(path), what))
            found = {key: arrays[key] for key in (*KEYS, "elements") if key in arrays}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(Fault(str(path), f"not an .npz file without pickled objects: {error}")) from error
    return _table(path, found)


def _from_json(path: Path) -> LossTable:
    try:
        plain = _Plain.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(Fault(str(path), f"not JSON: {error}")) from error
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), "a plain problem")) from None
    faults = [
        Fault(f"{path}: {name}, row {row}", f"has {len(values)} numbers for {len(plain.qtypes)} quant types")
        for name, rows in (("bytes", plain.bytes), ("losses", plain.losses))
        for row, values in enumerate(rows)
        if len(values) != len(plain.qtypes)
    ]
    if faults:
        raise InvalidInput(faults)
    losses = [[np.inf if loss is None else loss for loss in row] for row in plain.losses]
    shape = (-1, len(plain.qtypes))
    found = {
        "tensors": np.array(plain.tensors),
        "qtypes": np.array(plain.qtypes),
        "bytes": np.array(plain.bytes, dtype=np.int64).reshape(shape),
        "losses": np.array(losses, dtype=np.float64).reshape(shape),
    }
    return _table(path, found if plain.elements is None else found | {"elements": np.array(plain.elements)})


def _table(path: Path, found: dict[str, np.ndarray]) -> LossTable:
    sizes, losses = found["bytes"], found["losses"]
    if not np.issubdtype(sizes.dtype, np.integer):
        raise InvalidInput(Fault(f"{path}: bytes", f"are {sizes.dtype}; sizes are whole numbers"))
    if not np.issubdtype(losses.dtype, np.number):
        raise InvalidInput(Fault(f"{path}: losses", f"are {losses.dtype}, not numbers"))
    weights = found.get("elements", np.zeros(len(found["tensors"]), dtype=np.int64))
    return LossTable(
        tensors=tuple(str(name) for name in found["tensors"]),
        quant_types=tuple(str(name) for name in found["qtypes"]),
        weights=weights.astype(np.int64),
        sizes=sizes.astype(np.int64),
        losses=losses.astype(np.float64),
        source=f"losses of {path.name}",
    )
