"""Budgets as users state them: bits per weight of tensor data, or the size of a file with everything in it."""

import re
from typing import Final

from raq_solver.budget import Budget, TotalBytes, parse_budget
from raq_solver.errors import Fault, InvalidInput

_EXACT: Final = re.compile(r"\s*\d+\s*[bB]\s*")


def parse_size_budget(text: str, overhead: int) -> Budget:
    """The budget for tensor data in a text as `parse_budget` reads it; a size is that of the whole file.

    The `overhead` of the file (`ModelTable.overhead`) is subtracted, so that the file is never larger than `text` says.
    Where it is 0, because it is unknown (a table of shapes, a plain problem), a size is that of tensor data; so is a
    number of single bytes (`2241536B`), in which raq prints capacities.
    Raises InvalidInput as `parse_budget` does, and if not even the metadata fit.

    >>> parse_size_budget("190MB", 6_500_000), parse_size_budget("190000000B", 6_500_000)
    (TotalBytes(count=183500000), TotalBytes(count=190000000))
    """
    budget = parse_budget(text)
    if not isinstance(budget, TotalBytes) or not is_of_file(text) or not overhead:
        return budget
    left = budget.count - overhead
    if left <= 0:
        what = f"the file needs up to {overhead:,} bytes for its metadata alone (vocabulary, names of tensors)"
        raise InvalidInput(Fault(text, f"{what}; give a larger budget"))
    return TotalBytes(left)


def is_of_file(text: str) -> bool:
    """Whether a budget that is a size is one of a whole file, not an exact number of bytes of tensor data."""
    return _EXACT.fullmatch(text) is None
