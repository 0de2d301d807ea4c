"""Pictures of the paths of texts through a model: blocks from top to bottom, experts or roles from left to right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.importance.path_cells import Cells
from raq_client.importance.paths import BlockContrast, PathMap
from raq_client.reports.plots import picture_figure, save_figure

_NO_DATA: Final = "#bbbbbb"


def plot_map(path: Path, found: PathMap, title: str) -> None:
    """Draw the heat of every cell. Raises InvalidInput as `picture_figure`."""
    _draw(path, found, found.heat, title, "heat", "magma", symmetric=False)


def plot_contrast(path: Path, contrasts: Sequence[BlockContrast], found: PathMap, title: str) -> None:
    """Draw δ of every cell: what a domain uses more (warm) and less (cold) than general text, in percent.

    Raises InvalidInput as `picture_figure`.
    """
    deltas = 100 * np.array([one.deltas for one in contrasts])
    _draw(path, found, deltas, title, "share of activation, domain less general, %", "RdBu_r", symmetric=True)


def plot_difference(path: Path, maps: tuple[PathMap, PathMap], title: str) -> None:
    """Draw the second map's heat less that of the first. Raises InvalidInput as `picture_figure`."""
    _draw(path, maps[0], maps[1].heat - maps[0].heat, title, "heat, second less first", "RdBu_r", symmetric=True)


def _draw(
    path: Path,
    found: PathMap,
    values: Float64[np.ndarray, "blocks cells"],
    title: str,
    label: str,
    colours: str,
    *,
    symmetric: bool,
) -> None:
    rows, columns = values.shape
    wide = min(24.0, max(7.0, 3 + (0.06 if found.cells is Cells.EXPERTS else 0.6) * columns))
    figure = picture_figure(path, (wide, min(24.0, max(3.5, 1.8 + 0.16 * rows))))
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    axes.set_facecolor(_NO_DATA)  # shows through where there is no data
    least = -most if symmetric else 0.0
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=colours, vmin=least, vmax=most or 1.0)
    step = max(1, rows // 32)
    axes.set_yticks(range(0, rows, step), [str(block) for block in found.blocks[::step].tolist()], fontsize=7)
    axes.set_ylabel("block")
    if found.cells is Cells.EXPERTS:
        axes.set_xlabel("expert (grey: no data)")
    else:
        axes.set_xticks(range(columns), found.columns, rotation=30, ha="right", fontsize=7)
    figure.colorbar(image, ax=axes, label=label)
    axes.set_title(title, fontsize=9)
    save_figure(figure, path)
