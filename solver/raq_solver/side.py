"""Side constraints as rows beside the knapsack, and back: which multiplier belongs to which constraint."""

import numpy as np
from jaxtyping import Int64

from raq_solver.constraints import DistinctTypes
from raq_solver.demands import rows_of, sums
from raq_solver.knapsack import Distinct, Linear, SideRow
from raq_solver.problem import Problem


def side_rows(problem: Problem, row_of_tensor: Int64[np.ndarray, " tensors"]) -> tuple[tuple[SideRow, ...], list[int]]:
    """The side rows of a problem, and the index of the constraint that each comes from.

    Coefficients of tied tensors add up in their common row.
    """
    rows: list[SideRow] = []
    owners: list[int] = []
    for number, constraint in enumerate(problem.constraints):
        tensors = row_of_tensor[rows_of(constraint, problem.table)]
        distinct, where = np.unique(tensors, return_inverse=True)
        if isinstance(constraint, DistinctTypes):
            rows.append(Distinct(distinct, constraint.count))
            owners.append(number)
        for demand in sums(constraint, problem.table):
            coefficients = np.zeros((distinct.size, demand.coefficients.shape[1]), dtype=np.int64)
            np.add.at(coefficients, where, demand.coefficients)
            used = coefficients.any(axis=1)
            rows.append(Linear(distinct[used], coefficients[used], demand.capacity))
            owners.append(number)
    return tuple(rows), owners
