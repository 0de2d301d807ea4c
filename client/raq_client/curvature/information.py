"""Fisher information as stored in an importance file: how much the model's output changes with a tensor's weights.

Rules
- The unit is KL divergence: Σ_ij r_i c_j ΔW_ij² / Σ r is the cost of a change ΔW of the tensor's weights in nats per
  token, to second order. It is computed in `curvature.fisher`, which also has the theory.
- A matrix without inputs (an expert that no token reached) has zeros: it had no effect on that text.
- The level of a tensor in a window is Σ_ij of its Fisher information in that window alone. Levels of all windows, with
  the text of each, give predicted losses an interval and a value for each text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import INPUT_BLOCKS


@dataclass(frozen=True, slots=True)
class InformedWindow:
    """A window of which Fisher information was collected: the name of its text, and how much it counts.

    A window of a plain collection counts 1; in a blend of domains the weights say how much each window is worth, and
    their mean is 1.
    """

    text: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Fisher:
    """Row and column sums for every matrix of one tensor, in nats per token and squared weight.

    `levels` are the sums over the whole tensor in each window alone, in the same unit; None if they were not kept.
    `inputs` is what rounding the inputs of all its matrices costs, in nats per token, for each of `INPUT_BLOCKS`; None
    if it was not kept.
    """

    rows: Float32[np.ndarray, "matrices rows"]
    columns: Float32[np.ndarray, "matrices columns"]
    levels: Float32[np.ndarray, " windows"] | None = None
    inputs: Float32[np.ndarray, " blocks"] | None = None

    def __post_init__(self) -> None:
        for array in (*self.deciding, self.levels):
            if array is not None:
                array.setflags(write=False)

    @property
    def deciding(self) -> tuple[Float32[np.ndarray, "..."], ...]:
        """The numbers that plans are made by: all but the levels."""
        return (self.rows, self.columns) if self.inputs is None else (self.rows, self.columns, self.inputs)

    def faults(self, name: str) -> list[Fault]:
        """The faults of these numbers; `name` is the tensor's."""
        if self.rows.ndim != 2 or self.columns.ndim != 2 or len(self.rows) != len(self.columns):
            shapes = f"{self.rows.shape} rows and {self.columns.shape} columns"
            return [Fault(name, f"Fisher information of {shapes} does not fit together")]
        if self.inputs is not None and self.inputs.shape != (len(INPUT_BLOCKS),):
            return [Fault(name, f"has {self.inputs.size} costs of rounded inputs, not {len(INPUT_BLOCKS)}")]
        known = self.deciding if self.levels is None else (*self.deciding, self.levels)
        if any(not np.isfinite(each).all() or (each < 0).any() for each in known):
            return [Fault(name, "Fisher information is negative or not finite; collect the importance again")]
        return []

    def row_costs(
        self, matrix: int, rows: Sequence[int] | slice, squares: Float32[np.ndarray, "rows columns"]
    ) -> Float64[np.ndarray, " rows"]:
        """The cost in nats per token of the squared changes `squares` of these rows of one matrix, by row."""
        weights = self.rows[matrix].astype(np.float64)
        total = float(weights.sum())
        if total <= 0:
            return np.zeros(len(squares))
        # A float32 matrix product is fast, and sums of squares in it have a relative error of only 1e-6.
        found: Float64[np.ndarray, " rows"] = (weights[rows] / total) * (squares @ self.columns[matrix])
        return found


def joined(one: Mapping[str, Fisher], windows: int, other: Mapping[str, Fisher], further: int) -> dict[str, Fisher]:
    """The means over `windows` and `further` windows together; at least one of the numbers is above 0.

    A tensor that is not in one of them had no gradient there. Raises InvalidInput if the shapes of a tensor differ.
    """
    found = {}
    for name in sorted({*one, *other}):
        present = one.get(name) or other[name]
        inputs = None if present.inputs is None else np.zeros_like(present.inputs)
        nothing = Fisher(np.zeros_like(present.rows), np.zeros_like(present.columns), inputs=inputs)
        parts = [
            (side.get(name) or replace(nothing, levels=np.zeros(count, np.float32)), count)
            for side, count in ((one, windows), (other, further))
        ]
        found[name] = averaged(parts)
    return found


def averaged(parts: Sequence[tuple[Fisher, float]]) -> Fisher:
    """The weighted mean of several, with the levels of all windows. Raises InvalidInput if their shapes differ."""
    first = parts[0][0]
    if any(p.rows.shape != first.rows.shape or p.columns.shape != first.columns.shape for p, _ in parts):
        raise InvalidInput(Fault("Fisher information", "is of tensors of different shapes: of different models?"))
    total = sum(weight for _, weight in parts)

    def mean(values: Sequence[Float32[np.ndarray, "..."]]) -> Float32[np.ndarray, "..."]:
        added: Float64[np.ndarray, ...] = sum(
            (weight * value.astype(np.float64) for value, (_, weight) in zip(values, parts, strict=True)),
            start=np.zeros(values[0].shape),
        )
        return (added / total).astype(np.float32)

    levels = [part.levels for part, _ in parts if part.levels is not None]
    inputs = [part.inputs for part, _ in parts if part.inputs is not None]
    return Fisher(
        mean([part.rows for part, _ in parts]),
        mean([part.columns for part, _ in parts]),
        np.concatenate(levels) if len(levels) == len(parts) else None,
        mean(inputs) if len(inputs) == len(parts) else None,
    )


def weighted_windows(parts: Sequence[tuple[Sequence[InformedWindow], float]]) -> tuple[InformedWindow, ...]:
    """The windows of all parts, each part counting by its weight; empty if a part has none."""
    if not all(windows for windows, _ in parts):
        return ()
    total, count = sum(weight for _, weight in parts), sum(len(windows) for windows, _ in parts)
    found: list[InformedWindow] = []
    for windows, weight in parts:
        scale = weight * count / (total * sum(window.weight for window in windows))
        found += [replace(window, weight=window.weight * scale) for window in windows]
    return tuple(found)


def window_faults(
    where: str, fisher: Mapping[str, Fisher], windows: Sequence[InformedWindow], counted: int
) -> list[Fault]:
    """A fault if the levels are not of the windows that are named, as many as were counted."""
    sizes = {0 if each.levels is None else each.levels.size for each in fisher.values()}
    if sizes and (sizes != {len(windows)} or len(windows) not in {0, counted}):
        held = " or ".join(map(str, sorted(sizes)))
        what = f"has levels of Fisher information in {held} windows, names {len(windows)} and counted {counted}"
        return [Fault(where, f"{what}; collect it again")]
    weights = [window.weight for window in windows]
    if windows and not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
        return [Fault(where, "has windows of Fisher information with impossible weights; collect it again")]
    return []
