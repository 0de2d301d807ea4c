"""Frontiers: the best allocation of every budget of a range, as arrays, a data frame or a plot."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq._html import table
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.questions.sweep import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_SHOWN = 12
"""Points in a notebook's table; of more, evenly spread ones."""


class Frontier:
    """The points of a sweep that have an allocation, in order of their budgets. Made by `Plan.sweep`."""

    def __init__(self, points: tuple[Point, ...], losses: LossTable, knee: Point | None) -> None:
        self.points = tuple(point for point in points if point.size is not None)
        self.knee = knee
        self._losses = losses

    @property
    def capacities(self) -> Int64[np.ndarray, " points"]:
        """Budget of each point, bytes."""
        return np.array([point.capacity_bytes for point in self.points], np.int64)

    @property
    def sizes(self) -> Int64[np.ndarray, " points"]:
        """Bytes of tensor data at each point."""
        return np.array([point.size for point in self.points], np.int64)

    @property
    def bits_per_weight(self) -> Float64[np.ndarray, " points"]:
        """Bits per weight of each point's budget; NaN if the numbers of weights are not known."""
        weights = self._losses.total_weights
        return 8 * self.capacities / weights if weights else np.full(len(self.points), np.nan)

    @property
    def losses(self) -> Float64[np.ndarray, " points"]:
        """Predicted loss at each point."""
        return np.array([point.loss for point in self.points], np.float64)

    @property
    def proven(self) -> Bool[np.ndarray, " points"]:
        """Whether each point is proven optimal."""
        return np.array([point.gap == 0 for point in self.points], np.bool_)

    def to_pandas(self) -> Any:
        """A data frame with a row for each point. Raises InvalidInput if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError:
            raise InvalidInput(Fault("to_pandas", "needs pandas: pip install pandas")) from None

        from raq_client.reports.frontier import point_to_dict

        return pd.DataFrame([point_to_dict(point, self._losses.total_weights) for point in self.points])

    def plot(self, path: str | PathLike[str] | None = None) -> "Figure":
        """Loss over bits per weight as a matplotlib figure, written to `path` (.svg or .png) if one is given.

        Raises InvalidInput if matplotlib is not installed.
        """
        from raq_client.reports.frontier import frontier_figure
        from raq_client.reports.plots import save_figure

        figure = frontier_figure(self.points, self.knee, (), self._losses)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        if not self.points:
            return "<raq.Frontier of no points>"
        ends = self.points[0].size, self.points[-1].size
        return f"<raq.Frontier of {len(self)} points, {ends[0]:,} to {ends[1]:,} bytes>"

    def _repr_html_(self) -> str:
        step = max(1, -(-len(self.points) // ROWS_SHOWN))
        bits = self.bits_per_weight
        rows = [
            (f"{bits[i]:.4f}", f"{point.size:,}", f"{point.loss:.5g}", "knee" if point is self.knee else "")
            for i, point in enumerate(self.points)
            if i % step == 0 or point is self.knee or i == len(self.points) - 1
        ]
        return table(("bpw", "bytes", "loss", ""), rows)
