"""Plain problem files: tables of bytes and losses that any tool can write, solved without a model.

`.npz`: `tensors` [T] and `qtypes` [Q] text, `bytes` [T, Q] integers, `losses` [T, Q] numbers, infinite where a tensor
can't have a type; optionally `weights` [T], needed for bits per weight. `.json`: the same keys as lists, with null for
infinite, and optionally `capacity_bytes` and `constraints`. docs/solver.md shows both.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, cast

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError, create_model

from raq_client.files.mistaken import LONGEST
from raq_client.files.reading import check_itself, check_readable, damage_named, parse_json, read_text
from raq_client.files.validation import faults_of
from raq_solver.constraints import CONSTRAINT_KINDS, Constraint, Source
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.problem import Problem

_WHAT: Final = "a plain problem"
_ARRAYS: Final = ("tensors", "qtypes", "bytes", "losses", "weights")
MOST_BYTES: Final = 2**30
"""Limit on the unpacked arrays of a .npz file: a million tensors by 64 types take this much."""


def _exact(value: object) -> object:
    """A number, or text such as "4.5" or "9/2", without passing through a float."""
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("write a number such as 4.5 or 9/2") from None


Exact = Annotated[Fraction, BeforeValidator(_exact)]


class _Entry(BaseModel):
    """The common keys of a constraint; each kind adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    kind: str
    tensors: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""


_FIELDS: Final[Mapping[str, Any]] = {
    "quant_type": str,
    "quant_types": tuple[str, ...],
    "bits": Exact,
    "count": StrictInt,
    "capacity_bytes": StrictInt,
    "shares": tuple[Exact, ...],
}
"""What each field of a constraint is in a file, by its name."""


def _entry_of(kind: str, made: type[Constraint]) -> type[_Entry]:
    """The keys of one kind: the fields of its class."""
    own: dict[str, Any] = {name: (_FIELDS[name], ...) for name in _names(made) if name not in _Entry.model_fields}
    tag: Any = Literal[kind]
    return create_model(f"_{made.__name__}", __base__=_Entry, kind=(tag, ...), **own)


def _names(made: type[Constraint]) -> list[str]:
    return [field.name for field in fields(cast("Any", made))]


if TYPE_CHECKING:
    _AnyEntry = _Entry
else:
    _AnyEntry = Annotated[
        Union[tuple(_entry_of(kind, made) for kind, made in CONSTRAINT_KINDS.items())],  # noqa: UP007
        Field(discriminator="kind"),
    ]


class _File(BaseModel):
    """The JSON form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensors: tuple[str, ...]
    qtypes: tuple[str, ...]
    bytes: tuple[tuple[StrictInt, ...], ...]
    losses: tuple[tuple[float | None, ...], ...]
    weights: tuple[StrictInt, ...] | None = None
    capacity_bytes: StrictInt | None = None
    constraints: tuple[_AnyEntry, ...] = ()


def read_plain_problem(path: Path, capacity_bytes: int | None = None) -> Problem:
    """The problem in a file. `capacity_bytes` overrides the file's value; one of the two is required.

    Raises InvalidInput with every fault of the file.
    """
    table, own, constraints = _read_arrays(path) if path.suffix == ".npz" else _read_json(path)
    capacity = own if capacity_bytes is None else capacity_bytes
    if capacity is None:
        raise InvalidInput(Fault(str(path), "names no capacity_bytes; give --capacity-bytes"))
    return Problem(table, capacity, constraints)


def _read_arrays(path: Path) -> tuple[LossTable, int | None, tuple[Constraint, ...]]:
    check_readable(path)
    with damage_named(path, _WHAT):
        with path.open("rb") as file:
            check_itself(file.read(LONGEST), path)
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files if name in _ARRAYS}
            return _table_of(arrays, path), None, ()


def _check_sizes(path: Path) -> None:
    """Raise InvalidInput if the arrays to be read are larger than any problem: a small archive can unpack to much."""
    with zipfile.ZipFile(path) as archive:
        size = sum(each.file_size for each in archive.infolist() if each.filename.removesuffix(".npy") in _ARRAYS)
    if size > MOST_BYTES:
        raise InvalidInput(Fault(str(path), f"its arrays unpack to {size:,} bytes; at most {MOST_BYTES:,} are read"))


def _table_of(arrays: Mapping[str, np.ndarray], path: Path) -> LossTable:
    missing = [name for name in ("tensors", "qtypes", "bytes", "losses") if name not in arrays]
    if missing:
        raise InvalidInput([Fault(str(path), f"has no array {name}") for name in missing])
    tensors = tuple(map(str, arrays["tensors"].ravel().tolist()))
    types = tuple(map(str, arrays["qtypes"].ravel().tolist()))
    weights = arrays.get("weights", np.zeros(len(tensors), dtype=np.int64))
    return LossTable(tensors, types, weights, arrays["bytes"], arrays["losses"], str(path))


def _read_json(path: Path) -> tuple[LossTable, int | None, tuple[Constraint, ...]]:
    content = parse_json(read_text(path, _WHAT), path, _WHAT)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), _WHAT)) from None
    faults = [
        Fault(f"{path}: {key}, tensor {row}", f"{len(cells)} numbers for {len(file.qtypes)} quant types")
        for key, rows in (("bytes", file.bytes), ("losses", file.losses))
        for row, cells in enumerate(rows, start=1)
        if len(cells) != len(file.qtypes)
    ]
    if faults:
        raise InvalidInput(faults)
    losses = [[np.inf if loss is None else loss for loss in row] for row in file.losses]
    table = LossTable(
        file.tensors,
        file.qtypes,
        np.array(file.weights or [0] * len(file.tensors), dtype=np.int64),
        np.array(file.bytes, dtype=np.int64).reshape(len(file.bytes), len(file.qtypes)),
        np.array(losses, dtype=np.float64).reshape(len(losses), len(file.qtypes)),
        str(path),
    )
    return table, file.capacity_bytes, tuple(map(_constraint, file.constraints))


def _constraint(entry: _Entry) -> Constraint:
    made = CONSTRAINT_KINDS[entry.kind]
    return made(**{name: getattr(entry, name) for name in _names(made)})
