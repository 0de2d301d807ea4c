"""The frontier of size and loss: as a table, CSV and plain data, and as a plot with llama.cpp's mixtures."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType

from raq_client.planning.build_problem import ProblemSpec
from raq_client.planning.predicted_kl import predicted_kl
from raq_client.reports.plain import plain
from raq_client.reports.plan import bpw_text
from raq_client.reports.plots import save_figure
from raq_client.reports.predicted import predicted_dict
from raq_client.reports.tables import Column, Table
from raq_solver.budget import bits_per_weight
from raq_solver.errors import Fault, InvalidInput
from raq_solver.losses import LossTable
from raq_solver.profile import Profile
from raq_solver.questions.sweep import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("capacity_bytes", "bytes", "bits_per_weight", "loss", "bound", "gap", "lambda", "termination", "changes")


@dataclass(frozen=True, slots=True)
class Landmark:
    """A known allocation on the same axes: bytes, and loss in the table's unit."""

    name: str
    size: int
    loss: float


def point_to_dict(point: Point, weights: int) -> dict[str, Any]:
    """A point as plain data. Sizes in bytes; lambda in loss per byte."""
    return {
        "capacity_bytes": point.capacity_bytes,
        "bytes": point.size,
        "bits_per_weight": float(bits_per_weight(point.size, weights)) if point.size and weights else None,
        "loss": point.loss,
        "bound": point.bound,
        "gap": point.gap,
        "lambda": point.multiplier,
        "termination": point.termination.name.lower(),
        "changes": [f"{change.tensor}: {change.before} -> {change.after}" for change in point.changes],
    }


def frontier_dict(
    points: Sequence[Point], bend: Point | None, spec: ProblemSpec, *, with_table: bool = False
) -> dict[str, Any]:
    """A frontier as plain data for --json: with its `first` allocation the changes give that of every point.

    `landmarks` are llama.cpp's mixtures; `table`, if wanted, are bytes and losses by tensor and type, null where the
    type is not offered.
    """
    table = spec.problem.table
    first = next((point.allocation for point in points if point.allocation is not None), None)
    found: dict[str, Any] = {
        "loss_source": table.source,
        "loss_unit": table.unit.value,
        "knee_capacity_bytes": None if bend is None else bend.capacity_bytes,
        "first": None if first is None else dict(first.types),
        "points": [point_to_dict(point, table.total_weights) | _predicted(point, spec) for point in points],
        "landmarks": [] if spec.profile is None else [plain(mark) for mark in mixture_landmarks(spec.profile, table)],
    }
    return found | {"table": table_dict(table)} if with_table else found


def _predicted(point: Point, spec: ProblemSpec) -> dict[str, Any]:
    """The interval of a point's loss and its value on each text, where these are known."""
    found = None if point.allocation is None else predicted_kl(spec, point.allocation.types)
    return {} if found is None else {"predicted": predicted_dict(found)}


def table_dict(table: LossTable) -> dict[str, Any]:
    """A table of losses as plain data; null where a tensor can't have a type."""
    losses = plain(table.losses.tolist())
    sizes = [
        [size if loss is not None else None for size, loss in zip(*row, strict=True)]
        for row in zip(table.sizes.tolist(), losses, strict=True)
    ]
    return {
        "tensors": list(table.tensors),
        "quant_types": list(table.quant_types),
        "weights": table.weights.tolist(),
        "bytes": sizes,
        "losses": losses,
    }


def to_csv(points: Sequence[Point], weights: int) -> str:
    """The frontier as CSV, one line a point; changes as their number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for point in points:
        row = point_to_dict(point, weights)
        writer.writerow(row | {"changes": len(row["changes"])})
    return text.getvalue()


def mixture_landmarks(profile: Profile, table: LossTable) -> Iterator[Landmark]:
    """llama.cpp's mixtures whose types all are in the table."""
    from raq_client.models.file_types import FILE_TYPES
    from raq_client.models.table import ModelTable
    from raq_client.recipes.mixtures import mixture

    model = ModelTable(
        profile.provenance.get("model", ""), profile.provenance.get("architecture", ""), profile.tensors, {}
    )
    rows = np.arange(len(table.tensors))
    for name, file_type in FILE_TYPES.items():
        types = mixture(model, file_type, has_importance=profile.has_importance)
        by_name = {tensor.name: table.column_of.get(chosen.name) for tensor, chosen in types.items()}
        found = [by_name.get(tensor) for tensor in table.tensors]
        if None in found or len(found) != len(by_name):
            continue  # it uses a type that was not measured
        columns = np.array(found, np.int64)
        losses = table.losses[rows, columns]
        if np.isfinite(losses).all():  # else a tensor can't have its type
            yield Landmark(name, int(table.sizes[rows, columns].sum()), math.fsum(losses))


def frontier_table(points: Sequence[Point], bend: Point | None, table: LossTable, most: int) -> RenderableType:
    """The frontier as a table: at most about `most` evenly spread points, the knee and the last one always."""
    columns = (
        Column("bpw", figures=True),
        Column("bytes", figures=True),
        Column("loss", figures=True),
        Column("gap", figures=True, spare=3),
        Column("price of a byte", figures=True, spare=2),
        Column("changes", figures=True, spare=1),
        Column(),
    )
    rows = []
    step = max(1, -(-len(points) // most))
    for index, point in enumerate(points):
        if index % step and point is not bend and index != len(points) - 1:
            continue
        if point.size is None or point.loss is None:
            rows.append(("", f"{point.capacity_bytes:,}", "", "", "", "", point.termination.value))
            continue
        bits = bpw_text(bits_per_weight(point.size, table.total_weights)) if table.total_weights else ""
        figures = f"{point.loss:.5g}", f"{point.gap or 0:.1g}", f"{point.multiplier:.3g}", str(len(point.changes))
        rows.append((bits, f"{point.size:,}", *figures, "knee" if point is bend else ""))
    return Table(columns, rows)


def plot_frontier(
    path: Path, points: Sequence[Point], bend: Point | None, landmarks: Sequence[Landmark], table: LossTable
) -> None:
    """Draw the frontier into an SVG or PNG file.

    Raises InvalidInput when matplotlib is not installed or the name ends otherwise.
    """
    if path.suffix not in (".svg", ".png"):
        raise InvalidInput(Fault(str(path), "a plot's name ends in .svg or .png"))
    save_figure(frontier_figure(points, bend, landmarks, table), path)


def frontier_figure(
    points: Sequence[Point], bend: Point | None, landmarks: Sequence[Landmark], table: LossTable
) -> "Figure":
    """Loss over bits per weight (bytes when weights are not known), the knee marked.

    Raises InvalidInput when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        what = "needs matplotlib: pip install 'raq[plot]'"
        raise InvalidInput(Fault("--plot", what)) from None
    scale = 8 / table.total_weights if table.total_weights else 1.0
    known = [(p.size * scale, p.loss) for p in points if p.size is not None and p.loss]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*known, strict=True), marker=".", label="proven optimum")
    shown = [mark for mark in landmarks if known[0][0] <= mark.size * scale <= known[-1][0] and mark.loss > 0]
    axes.plot([mark.size * scale for mark in shown], [mark.loss for mark in shown], "x", label="llama.cpp's mixtures")
    for mark in shown:
        axes.annotate(mark.name, (mark.size * scale, mark.loss), textcoords="offset points", xytext=(4, 4), fontsize=8)
    if bend is not None and bend.size is not None and bend.loss:
        axes.plot([bend.size * scale], [bend.loss], "o", fillstyle="none", label="knee")
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight" if table.total_weights else "bytes")
    axes.set_ylabel(f"predicted loss ({table.source})")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    return figure
