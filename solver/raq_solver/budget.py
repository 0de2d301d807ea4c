"""Budgets: the size that a user asks for, in the user's unit, and its conversion to whole bytes.

Only this module converts text to exact numbers and exact numbers to bytes. No float ever carries a size.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from raq_solver.arrays import LARGEST
from raq_solver.errors import Fault, InvalidInput


@dataclass(frozen=True, slots=True)
class BitsPerWeight:
    """Bits of tensor data per weight, over all weights of the file, as llama.cpp prints it.

    >>> print(BitsPerWeight(Fraction("4.5")))
    4.5 bpw
    """

    bits: Fraction

    def __str__(self) -> str:
        return f"{float(self.bits):.6g} bpw"


@dataclass(frozen=True, slots=True)
class TotalBytes:
    """Bytes of tensor data of the whole file.

    >>> print(TotalBytes(17 * 10**9))
    17,000,000,000 bytes
    """

    count: int

    def __str__(self) -> str:
        return f"{self.count:,} bytes"


Budget = BitsPerWeight | TotalBytes
"""A size in the user's unit."""

_BYTES: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
}
_PATTERN: Final = re.compile(r"\s*(\d{1,20}(?:\.\d{0,99})?|\.\d{1,99})\s*([A-Za-z]*)\s*", re.ASCII)


def parse_budget(text: str) -> Budget:
    """Read `5.7`, `5.7bpw`, `4.2GiB`, `17GB`, `900MB`, `24G` or `123456B`.

    A number without a unit is bits per weight. GB is 10^9 bytes; GiB is 2^30, and so is G alone, as for `ls -h` and
    Slurm. Fractions of a byte are cut off.
    Raises InvalidInput for anything else, for zero, and for more than 2^53 bytes.

    >>> parse_budget("5.7"), parse_budget("17GB")
    (BitsPerWeight(bits=Fraction(57, 10)), TotalBytes(count=17000000000))
    """
    found = _PATTERN.fullmatch(text)
    unit = found[2].casefold() if found else ""
    if not found or (unit not in _BYTES and unit not in ("", "bpw")):
        raise InvalidInput(Fault(text, "not a budget; write bits per weight (5.7) or a size (4.2GiB, 17GB)"))
    number = Fraction(found[1])
    if number == 0:
        raise InvalidInput(Fault(text, "a budget must be more than zero"))
    if unit in ("", "bpw"):
        if number > 64:
            raise InvalidInput(Fault(text, "more than 64 bits per weight; for a size write its unit, as in 17GB"))
        return BitsPerWeight(number)
    size = int(number * _BYTES[unit])
    if size > LARGEST:
        raise InvalidInput(Fault(text, "more than 2^53 bytes, the largest size; 8192TiB leaves every tensor its best"))
    return TotalBytes(size)


def capacity_bytes(budget: Budget, weights: int) -> int:
    """The most bytes of tensor data that the budget allows for a file of `weights` weights.

    >>> capacity_bytes(parse_budget("4.5"), 1000)
    562
    """
    match budget:
        case BitsPerWeight(bits):
            return int(bits * weights / 8)
        case TotalBytes(count):
            return count


def bits_per_weight(size: int, weights: int) -> Fraction:
    """Bits per weight of `size` bytes over `weights` weights, exactly.

    >>> bits_per_weight(144, 256)
    Fraction(9, 2)
    """
    return Fraction(8 * size, weights)
