"""
The multiple-choice knapsack on arrays: its linear relaxation and its exact search.
"""

from collections.abc import Callable
from typing import Annotated

import numpy
from numpy.typing import NDArray


def merged_hulls(sizes: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu', writable=False)], excess: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')], Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C')], Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C')]]:
    """
    The lower hulls of all rows, merged by slope.

    `sizes` int64[rows, types] in bytes; `excess` float64[rows, types] is loss beyond the least of its
    row, infinite where there is no cell. Returns `start`, the column of each row's smallest cell;
    `rows` and `columns` of the steps, steepest first; and the relaxation over them: after k steps
    `spent[k]` bytes beyond the smallest choice are spent and `left[k]` of loss is left, both with one
    point more at the end, `slopes[k]` per byte for the next step, 0 after the last.

    Raises ValueError for arrays of different shapes, a negative or NaN excess and a row without cells.
    """

def search(sizes: Annotated[NDArray[numpy.int64], dict(shape=(None, None), order='C', device='cpu', writable=False)], excess: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)], kept: Annotated[NDArray[numpy.bool_], dict(shape=(None, None), order='C', device='cpu', writable=False)], *, capacity: int, best: float, tolerance: float, seconds: float, largest_layer: int, check: Callable[[], None] | None = None) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C')] | None, float | None]:
    """
    The choice of least excess loss within the capacity in bytes, if it is below `best`.

    Only cells that are `kept`, bool[rows, types], are used. What is better by less than `tolerance` is
    not looked for. `seconds` may be infinite. A layer of more states than `largest_layer` is split,
    which bounds the memory; results do not depend on it. Deterministic unless stopped by time.
    `check` is called about 50 times a second; what it raises ends the search.

    Returns the column of each row, or None where nothing is better, and None when that is proven, else
    a lower bound on the excess loss of every choice.

    Raises ValueError for arrays of different shapes, a kept cell whose excess is negative, NaN or
    infinite, and a row without kept cells; what `check` raises; what a signal handler raises, such as
    KeyboardInterrupt.
    """
