"""Paths of texts through a model, as heat maps for terminals, tables and plain data."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float64
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from raq_client.importance.path_cells import Cells
from raq_client.importance.paths import BlockContrast, BlockDifference, PathMap, most_distinctive
from raq_client.reports.plain import plain
from raq_client.reports.tables import Column, Field, Table, table_of

_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_NO_DATA: Final = "·"
_NARROWEST, _WIDEST = 60, 120
"""Characters of a heat map."""
_HOT: Final = (53, 54, 91, 127, 163, 199, 208, 220, 226)
"""Colours of the levels on a terminal (of 256): dark purple to yellow."""


class HeatMap:
    """A heat map as a renderable of Rich: a line for each row, cells side by side, of wide maps the largest of several.

    Values are from 0 to `most`; NaN is shown as no data. On a terminal with colours a cell is a coloured bar, elsewhere
    the bar alone.
    """

    def __init__(self, values: Float64[np.ndarray, "rows cells"], before: Sequence[str], after: Sequence[str]) -> None:
        self._values, self._before, self._after = values, before, after
        self._most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the map out between 60 and 120 characters of the width at hand."""
        before, after = (max(map(len, texts), default=0) for texts in (self._before, self._after))
        width = max(_NARROWEST, min(_WIDEST, options.max_width)) - before - after - 2
        cells = pooled(self._values, width)
        wide = max(1, min(6, width // cells.shape[1]))
        coloured = console.is_terminal and console.color_system is not None
        for row, values in enumerate(cells):
            line = Text(f"{self._before[row]:>{before}} ", no_wrap=True, overflow="ignore")
            for value in values:
                line.append_text(self._cell(float(value), wide, coloured=coloured))
            yield line.append(f" {self._after[row]:>{after}}")

    def _cell(self, value: float, wide: int, *, coloured: bool) -> Text:
        if not math.isfinite(value):
            return Text(_NO_DATA * wide, style="dim")
        level = round(value / self._most * (len(_LEVELS) - 1)) if self._most > 0 else 0
        style = f"color({_HOT[level]})" if coloured else ""
        return Text(_LEVELS[level] * wide, style=style)


def pooled(values: Float64[np.ndarray, "rows cells"], most: int) -> Float64[np.ndarray, "rows pools"]:
    """At most `most` columns: each the largest of as many neighbours as needed; NaN only where all are NaN.

    >>> pooled(np.array([[1.0, 3.0, np.nan, 2.0, np.nan]]), 3)
    array([[ 3.,  2., nan]])
    """
    count = -(-values.shape[1] // max(1, most))
    width = -(-values.shape[1] // count) * count
    padded = np.full((values.shape[0], width), np.nan)
    padded[:, : values.shape[1]] = values
    groups = padded.reshape(values.shape[0], -1, count)
    largest = np.max(groups, axis=2, initial=-np.inf, where=np.isfinite(groups))
    found: Float64[np.ndarray, "rows pools"] = np.where(np.isfinite(groups).any(axis=2), largest, np.nan)
    return found


def map_report(found: PathMap, top: int) -> RenderableType:
    """The heat map of one text, and its hottest blocks."""
    before = [str(block) for block in found.blocks.tolist()]
    counts = [f"{count}/{len(found.columns)}" for count in found.reached.tolist()]
    after = [f"{100 * share:.2f} % {count}" for share, count in zip(found.shares.tolist(), counts, strict=True)]
    hottest = ", ".join(str(block) for block in found.hottest[:top])
    return Group(
        f"{_named(found)}; at the right the share of each block in the energy, and its cells with data",
        HeatMap(found.heat, before, after),
        f"{_NO_DATA} no data: no token reached it",
        f"blocks of most energy: {hottest}",
    )


def map_table(found: PathMap) -> Table:
    """One line for each block."""
    rows = list(
        zip(found.blocks.tolist(), found.energies.tolist(), found.shares.tolist(), found.reached.tolist(), strict=True)
    )
    columns = [Column("block", figures=True), Column("energy", figures=True), Column("share, %", figures=True)]
    columns += [Column("with data", figures=True), Column("most heat", spare=1)]
    cells = [
        [
            str(block),
            f"{energy:.4g}",
            f"{100 * share:.2f}",
            f"{reached} of {len(found.columns)}",
            "; ".join(found.leading(block, 5)),
        ]
        for block, energy, share, reached in rows
    ]
    return Table(columns, cells)


def map_dict(found: PathMap, top: int) -> dict[str, Any]:
    """A map as plain data; cells without data are null."""
    return {
        "cells": found.cells.value,
        "columns": list(found.columns),
        "hottest": list(found.hottest[:top]),
        "blocks": [
            {
                "block": int(block),
                "energy": float(found.energies[row]),
                "share": float(found.shares[row]),
                "with_data": int(found.reached[row]),
                "heat": plain(found.heat[row].tolist()),
                "level": plain(found.levels[row].tolist()),
                "leading": list(found.leading(int(block))),
            }
            for row, block in enumerate(found.blocks.tolist())
        ],
    }


def contrast_report(found: Sequence[BlockContrast], maps: tuple[PathMap, PathMap], top: int) -> RenderableType:
    """A heat map of what the domain uses more, and the most distinctive blocks."""
    deltas = np.array([one.deltas for one in found])
    more = np.where(deltas > 0, deltas, np.where(np.isfinite(deltas), 0.0, np.nan))
    before = [str(one.block) for one in found]
    after = [f"{100 * one.divergence:.2f} %" for one in found]
    chosen = set(most_distinctive(found, top))
    rows = sorted((one for one in found if one.block in chosen), key=lambda one: (-one.divergence, one.block))
    return Group(
        f"{_named(maps[0])}; what the domain uses more than general text, at the right the divergence of each block",
        HeatMap(more, before, after),
        f"{_NO_DATA} no data: no token of one of the texts reached it",
        "",
        "most distinctive blocks",
        contrast_table(rows),
    )


def contrast_table(found: Sequence[BlockContrast]) -> Table:
    """One line for each block; shares of the activation of the whole model, in percent."""
    return table_of(
        found,
        (
            Field("block", figures=True, read=lambda one: str(one.block)),
            Field("divergence, %", figures=True, read=lambda one: f"{100 * one.divergence:.3f}"),
            Field("95 %", figures=True, spare=1, read=_interval),
            Field("net, %", figures=True, read=lambda one: f"{100 * one.net:+.3f}"),
            Field("the domain's", spare=2, read=lambda one: "; ".join(one.leading[:5])),
        ),
    )


def contrast_dict(found: Sequence[BlockContrast], maps: tuple[PathMap, PathMap], top: int) -> dict[str, Any]:
    """A contrast as plain data; cells without data in both texts are null."""
    return {
        "cells": maps[0].cells.value,
        "columns": list(maps[0].columns),
        "most_distinctive": list(most_distinctive(found, top)),
        "blocks": [plain(one) for one in found],
    }


def diff_table(found: Sequence[BlockDifference], maps: tuple[PathMap, PathMap]) -> RenderableType:
    """One line for each block, the least similar first."""
    rows = sorted(found, key=lambda one: (math.isnan(one.cosine), one.cosine, one.block))
    table = table_of(
        rows,
        (
            Field("block", figures=True, read=lambda one: str(one.block)),
            Field(
                "cosine", figures=True, read=lambda one: "no data" if math.isnan(one.cosine) else f"{one.cosine:.4f}"
            ),
            Field("share, %", figures=True, read=lambda one: f"{100 * one.share_change:+.3f}"),
            Field("only in the first", spare=2, read=lambda one: _few(one.only_first)),
            Field("only in the second", spare=1, read=lambda one: _few(one.only_second)),
        ),
    )
    alike = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(_arrays(maps[0]), _arrays(maps[1]), strict=True))
    return Group("the two texts are alike in every cell", table) if alike else table


def diff_dict(found: Sequence[BlockDifference], maps: tuple[PathMap, PathMap]) -> dict[str, Any]:
    """A difference as plain data."""
    return {"cells": maps[0].cells.value, "columns": list(maps[0].columns), "blocks": [plain(one) for one in found]}


def _arrays(found: PathMap) -> tuple[np.ndarray, ...]:
    return found.heat, found.energies


def _named(found: PathMap) -> str:
    if found.cells is Cells.EXPERTS:
        return f"{len(found.columns)} experts from left to right"
    return "from left to right: " + "; ".join(found.columns)


def _interval(one: BlockContrast) -> str:
    return "" if one.interval is None else f"{100 * one.interval[0]:.3f}–{100 * one.interval[1]:.3f}"


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
