"""Arrays and numbers as callers give them, converted to the types that the solver computes with.

Lists and arrays of other integer or float types are converted; what can't be is a fault that names the argument. The
caller's own arrays are never changed, nor made read-only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Final, TypeGuard

import numpy as np

from raq_solver.errors import Fault, InvalidInput, raise_faults

Kind = type[np.int64] | type[np.float64]
"""The type of an array's numbers: whole or floating-point."""
LARGEST: Final = 2**53
"""Largest size or count: beyond it sums leave the whole numbers that a double holds exactly."""


def as_array(value: object, kind: Kind, where: str) -> np.ndarray:
    """The value as an array of int64 or float64: itself where it is one already, else a copy.

    Raises InvalidInput, naming `where`, for ragged lists, for anything but numbers, and for fractions and numbers
    beyond 64 bits where whole ones are needed.

    >>> as_array([[1, 2]], np.int64, "sizes")
    array([[1, 2]])
    >>> as_array([1.5], np.int64, "sizes")
    Traceback (most recent call last):
    raq_solver.errors.InvalidInput: sizes: holds float64; must hold whole numbers
    """
    wanted = "whole numbers" if kind is np.int64 else "numbers"
    try:
        array = np.asarray(value)
    except ValueError:  # NumPy's word for lists of unequal length
        raise InvalidInput(Fault(where, f"has rows of unequal length; must be an array of {wanted}")) from None
    # An empty list has no numbers whose type could be wrong; NumPy calls it float64.
    if array.size and array.dtype.kind not in ("iu" if kind is np.int64 else "fiu"):
        what = f"is {array.item()!r}" if array.dtype == object and not array.ndim else f"holds {array.dtype}"
        raise InvalidInput(Fault(where, f"{what}; must hold {wanted}"))
    # Beyond int64 a conversion would wrap around silently.
    if kind is np.int64 and array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise InvalidInput(Fault(where, "holds a number above 2^63 - 1"))
    return array.astype(kind, copy=False)


def read_only_copies(values: Mapping[str, tuple[object, Kind]]) -> dict[str, np.ndarray]:
    """A read-only copy of each value, by name. Raises InvalidInput with the fault of every value."""
    copies: dict[str, np.ndarray] = {}
    faults: list[Fault] = []
    for name, (value, kind) in values.items():
        try:
            copies[name] = np.array(as_array(value, kind, name))
        except InvalidInput as error:
            faults += error.faults
    raise_faults(faults)
    for copy in copies.values():
        copy.setflags(write=False)
    return copies


def whole_number(value: object, where: str, unit: str, least: int = -LARGEST) -> int:
    """A size or count as an `int`. Raises InvalidInput as `whole_number_faults` says: no float carries a size."""
    raise_faults([Fault(where, what) for what in whole_number_faults(value, unit, least)])
    return int(value)  # type: ignore[call-overload,no-any-return]  # it is Integral


def whole_number_faults(value: object, unit: str, least: int) -> list[str]:
    """What is wrong with a size or count, which must be a whole number of `unit` from `least` to 2^53."""
    if not isinstance(value, Integral):
        return [f"{value!r} is no whole number of {unit}"]
    if int(value) < least:
        return [f"{value} {unit}; must be at least {least}"]
    return [f"more than 2^53 {unit}; at most 2^53 are supported"] if int(value) > LARGEST else []


def is_names(value: object) -> TypeGuard[Sequence[str]]:
    """Whether a value is a sequence of texts, and not a single text."""
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def names_of(value: object, where: str) -> tuple[str, ...]:
    """A sequence of names as a tuple. Raises InvalidInput for anything else."""
    if is_names(value):
        return tuple(value)
    raise InvalidInput(Fault(where, f"{value!r} is no sequence of names; write a tuple of texts"))


def repeated(kind: str, names: Iterable[str]) -> list[Fault]:
    """The faults of names that must differ and do not."""
    return [Fault(name, f"{kind} listed {count} times") for name, count in Counter(names).items() if count > 1]
