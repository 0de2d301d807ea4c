"""Paths: where a text lights a model up, block by block, by experts or by roles; differences between two texts.

Definitions, with v the mean squared input of a column
- A cell is one expert of a block, or one distinct input of a block (roles that read the same input share a cell).
  The level of a tensor's expert is the mean of v over its columns.
- Heat of an expert: the sum over the block's expert tensors of its level over the largest level of the block.
  Heat of a role: its level over the largest of all blocks. (Inputs of different roles have different scales.)
- Energy of a block: the sum of its levels; with roles, each level is first divided by its sum over all blocks. The
  share of a block is its energy over that of all blocks.
- Contrast of two texts: with D = heat / (sum of the block's heats) × share for each text, δ = D(domain) - D(general);
  the divergence of a block is the sum of its positive δ, its net the sum of all.
- A cell that no token reached has no data: NaN, which enters no sum. Contrasts and similarities are over the cells
  that both texts reached; those that only one of them reached are listed.

For experts these are the formulas of forgequant (forge_imatrix.py at 751c264), less its treatment of experts that no
token reached: it takes them for cold, while their values in files of ds4 and of llama.cpp's older format are ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_client.importance.imatrix import Importance
from raq_client.importance.path_cells import Cells, Levels, Shape, laid_out, usual_cells

_DRAWS: Final = 1000
_SEED: Final = 20260701


@dataclass(frozen=True, eq=False)
class PathMap:
    """How strongly a text drives each cell of each block.

    `blocks` are block numbers, `columns` the cells' names. `heat` and `levels` are NaN where there is no data; `levels`
    are sums over the expert tensors of a block. `energies` are sums over a block, of levels or of shares of them (see
    the module).
    """

    cells: Cells
    blocks: Int64[np.ndarray, " blocks"]
    columns: tuple[str, ...]
    levels: Float64[np.ndarray, "blocks cells"]
    heat: Float64[np.ndarray, "blocks cells"]
    energies: Float64[np.ndarray, " blocks"]

    @property
    def shares(self) -> Float64[np.ndarray, " blocks"]:
        """The share of each block in the energy of all."""
        total = self.energies.sum()
        shares: Float64[np.ndarray, " blocks"] = self.energies / total if total > 0 else np.zeros_like(self.energies)
        return shares

    @property
    def hottest(self) -> tuple[int, ...]:
        """Block numbers by energy, the highest first; of equal ones the lower number."""
        return tuple(self.blocks[np.argsort(-self.energies, kind="stable")].tolist())

    @property
    def reached(self) -> Int64[np.ndarray, " blocks"]:
        """Cells with data, of each block."""
        counts: Int64[np.ndarray, " blocks"] = np.isfinite(self.heat).sum(axis=1)
        return counts

    def leading(self, block: int, most: int = 8) -> tuple[str, ...]:
        """Names of the cells of a block with the most heat, at most `most`; cells without data are not among them."""
        return _largest(self.heat[np.flatnonzero(self.blocks == block)[0]], self.columns, most)


@dataclass(frozen=True, slots=True)
class BlockDifference:
    """How two texts differ in one block.

    `cosine` of the heats (NaN without common data); `share_change`: second minus first; `only_first` and
    `only_second`: cells that only this text reached.
    """

    block: int
    cosine: float
    share_change: float
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BlockContrast:
    """How much more a domain uses cells of one block than general text does; shares of the whole model's activation.

    `interval` is the 95 % interval of the divergence, None without several files of each text. `leading`: the cells
    with the largest positive δ. `deltas` are δ by cell, NaN without data in both texts.
    """

    block: int
    divergence: float
    net: float
    interval: tuple[float, float] | None
    leading: tuple[str, ...]
    deltas: tuple[float, ...]


def path_map(importance: Importance, cells: Cells | None = None, *, experts: int = 0) -> PathMap:
    """The map of one text. Without `cells`: experts where the file has figures for them, else roles.

    `experts` is the number of experts, for the older format, which does not state it. Raises InvalidInput if the file
    has no cells of the kind, or its entries do not divide into so many experts.
    """
    return _mapped(*laid_out([importance], cells or usual_cells(importance, experts), experts))


def path_maps(
    first: Sequence[Importance], second: Sequence[Importance], cells: Cells | None = None, *, experts: int = 0
) -> tuple[PathMap, PathMap]:
    """The maps of two texts of one model with the same blocks and columns, each from one or more files.

    Raises InvalidInput as `path_map`, and if the files are not of one model.
    """
    shape, sums, tokens = laid_out([*first, *second], cells or usual_cells(first[0], experts), experts)
    one, other = slice(None, len(first)), slice(len(first), None)
    return _mapped(shape, sums[one], tokens[one]), _mapped(shape, sums[other], tokens[other])


def differences(first: PathMap, second: PathMap) -> tuple[BlockDifference, ...]:
    """The differences of two maps with equal blocks and columns, block by block."""
    changes = second.shares - first.shares
    found = []
    for row, block in enumerate(first.blocks.tolist()):
        one, other = first.heat[row], second.heat[row]
        both = np.isfinite(one) & np.isfinite(other)
        length = float(np.linalg.norm(one[both]) * np.linalg.norm(other[both]))
        cosine = float(one[both] @ other[both]) / length if length > 0 else np.nan
        missing = [
            tuple(name for name, gone in zip(first.columns, np.isfinite(a) & ~np.isfinite(b), strict=True) if gone)
            for a, b in ((one, other), (other, one))
        ]
        found.append(BlockDifference(block, cosine, float(changes[row]), missing[0], missing[1]))
    return tuple(found)


def contrasts(
    domain: Sequence[Importance],
    general: Sequence[Importance],
    cells: Cells | None = None,
    *,
    experts: int = 0,
) -> tuple[BlockContrast, ...]:
    """The contrast of a domain with general text in every block; intervals from several files of each.

    The interval is the middle 95 % of the contrasts of files drawn with replacement. Raises InvalidInput as
    `path_maps`.
    """
    shape, sums, tokens = laid_out([*domain, *general], cells or usual_cells(domain[0], experts), experts)
    one, other = slice(None, len(domain)), slice(len(domain), None)
    maps = _mapped(shape, sums[one], tokens[one]), _mapped(shape, sums[other], tokens[other])
    deltas = _deltas(*maps)
    divergence, net = _divergence(deltas), np.nansum(deltas, axis=1)
    intervals = _intervals(shape, [(sums[part], tokens[part]) for part in (one, other)])
    return tuple(
        BlockContrast(
            block=int(block),
            divergence=float(divergence[row]),
            net=float(net[row]),
            interval=None if intervals is None else (float(intervals[0, row]), float(intervals[1, row])),
            leading=_largest(np.where(deltas[row] > 0, deltas[row], np.nan), shape.columns, 8),
            deltas=tuple(deltas[row].tolist()),
        )
        for row, block in enumerate(shape.blocks.tolist())
    )


def most_distinctive(found: Sequence[BlockContrast], most: int) -> tuple[int, ...]:
    """The numbers of the `most` blocks of highest divergence, the highest first."""
    return tuple(one.block for one in sorted(found, key=lambda one: (-one.divergence, one.block))[:most])


def _mapped(shape: Shape, sums: Levels, tokens: Levels) -> PathMap:
    """The map of one text, the sum of these files."""
    return _map_of(shape, sums.sum(axis=0), tokens.sum(axis=0))


def _map_of(
    shape: Shape,
    sums: Float64[np.ndarray, "families blocks cells"],
    tokens: Float64[np.ndarray, "families blocks cells"],
) -> PathMap:
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(tokens > 0, sums / tokens, np.nan)
    known = np.isfinite(levels).any(axis=0)
    if shape.cells is Cells.EXPERTS:
        largest = np.max(levels, axis=2, keepdims=True, initial=0, where=np.isfinite(levels))
        energies = np.nansum(levels, axis=(0, 2))
    else:
        largest = np.max(levels, axis=1, keepdims=True, initial=0, where=np.isfinite(levels))
        totals = np.nansum(levels, axis=1, keepdims=True)
        energies = np.nansum(levels / np.where(totals > 0, totals, 1), axis=(0, 2))
    heat = np.nansum(levels / np.where(largest > 0, largest, 1), axis=0)
    return PathMap(
        shape.cells,
        shape.blocks,
        shape.columns,
        np.where(known, np.nansum(levels, axis=0), np.nan),
        np.where(known, heat, np.nan),
        energies,
    )


def _deltas(domain: PathMap, general: PathMap) -> Float64[np.ndarray, "blocks cells"]:
    """δ of every cell that both texts reached, NaN elsewhere."""
    both = np.isfinite(domain.heat) & np.isfinite(general.heat)
    spread = []
    for one in (domain, general):
        heat = np.where(both, one.heat, 0.0)
        total = heat.sum(axis=1, keepdims=True)
        spread.append(heat / np.where(total > 0, total, 1) * one.shares[:, None])
    return np.where(both, spread[0] - spread[1], np.nan)


def _divergence(deltas: Float64[np.ndarray, "blocks cells"]) -> Float64[np.ndarray, " blocks"]:
    positive: Float64[np.ndarray, " blocks"] = np.where(deltas > 0, deltas, 0.0).sum(axis=1)
    return positive


def _intervals(shape: Shape, texts: Sequence[tuple[Levels, Levels]]) -> Float64[np.ndarray, "2 blocks"] | None:
    """The middle 95 % of the divergences of files drawn with replacement; None if one text has only one file."""
    counts = [sums.shape[0] for sums, _ in texts]
    if min(counts) < 2:
        return None
    random = np.random.default_rng(_SEED)
    # Drawing files with replacement is the same as drawing how often each one occurs.
    times = [random.multinomial(count, np.full(count, 1 / count), size=_DRAWS) for count in counts]
    drawn = np.empty((_DRAWS, shape.blocks.size))
    for draw in range(_DRAWS):
        maps = [
            _map_of(shape, np.tensordot(often[draw], sums, 1), np.tensordot(often[draw], tokens, 1))
            for often, (sums, tokens) in zip(times, texts, strict=True)
        ]
        drawn[draw] = _divergence(_deltas(maps[0], maps[1]))
    interval: Float64[np.ndarray, "2 blocks"] = np.quantile(drawn, [0.025, 0.975], axis=0)
    return interval


def _largest(values: Float64[np.ndarray, " cells"], names: Sequence[str], most: int) -> tuple[str, ...]:
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
    return tuple(names[place] for place in order[:most] if np.isfinite(values[place]))


def cell_energies(found: PathMap) -> Mapping[tuple[int, str], float]:
    """The energy of each cell with data, by block and name; over a block they sum up to its energy."""
    levels = found.levels
    if found.cells is Cells.ROLES:
        totals = np.nansum(levels, axis=0, keepdims=True)
        levels = levels / np.where(totals > 0, totals, 1)
    return {
        (int(found.blocks[row]), found.columns[column]): float(levels[row, column])
        for row, column in zip(*np.nonzero(np.isfinite(levels)), strict=True)
    }
