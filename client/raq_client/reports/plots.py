"""Plots of moves: a waterfall of bytes, and maps of the types of roles and blocks before and after."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raq_client.files.atomic_file import atomic_file
from raq_client.recipes.diff import Exchange
from raq_client.recipes.steps import RecipeStep
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType, quant_type
from raq_solver.tensor_names import block_of, role_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FREED, _SPENT, _SINK = "#3a7d44", "#c8553d", "#577590"
_KILO_UP_TO: Final = 2_000_000
"""Bytes up to which the sink is drawn in kB."""
_MOST_BARS: Final = 40
"""Bars that can still be read; the smallest beyond are drawn as one."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One kind of moves and the bytes it frees (negative) or spends."""

    label: str
    size: int


def exchange_bars(exchange: Exchange) -> tuple[Bar, ...]:
    """The moves of an exchange, those of one stage, role and pair of types in one bar."""
    moves = (
        (line.stage.name, line.tensor, f"{role_of(line.tensor)}\n{line.before}→{line.after}", line.size)
        for line in exchange.lines
    )
    return _bars(moves)


def step_bars(steps: Sequence[RecipeStep]) -> tuple[Bar, ...]:
    """The moves of a ladder's steps, those of one step, role and pair of types in one bar."""
    moves = (
        (step.name, move.tensor, f"{step.name}: {role_of(move.tensor)}\n{move.before}→{move.after}", move.size)
        for step in steps
        for move in step.moves
    )
    return _bars(moves)


def plot_moves(
    path: Path, title: str, bars: Sequence[Bar], opening: int, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """Draw the waterfall from `opening` bytes in the sink, and the maps of types before and after.

    Raises InvalidInput as `picture_figure`.
    """
    rows = _rows(after)
    blocks = 1 + max((block_of(name) for name in after), default=-1)
    width = min(24.0, max(10.0, 4 + 0.30 * blocks))
    height = 4.2 + 2 * (0.8 + 0.24 * len(rows))
    figure = picture_figure(path, (width, height))
    top, *maps = figure.subplots(3, 1, height_ratios=[4.2, 0.8 + 0.24 * len(rows), 0.8 + 0.24 * len(rows)])
    figure.suptitle(title)
    _waterfall(top, _fewer(bars), opening)
    types = _types([*before.values(), *after.values()])
    for axes, name, shown in zip(maps, ("before", "after"), (before, after), strict=True):
        _map(axes, name, rows, blocks, shown, types)
        _outline(axes, rows, before, after)
    _legend(figure, types)
    save_figure(figure, path)


def picture_figure(path: Path, size: tuple[float, float]) -> "Figure":
    """An empty figure of this size in inches, for a picture at `path`.

    Raises InvalidInput when matplotlib is not installed or the name does not end in .svg or .png.
    """
    if path.suffix not in (".svg", ".png"):
        raise InvalidInput(Fault(str(path), "a picture's name ends in .svg or .png"))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidInput(Fault("--plot", "needs matplotlib: pip install 'raq[plot]'")) from None
    return Figure(figsize=size, layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture, in place of an older one."""
    with atomic_file(path, force=True) as file:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(file, format=path.suffix.removeprefix("."), metadata=metadata)


def _bars(moves: Iterable[tuple[str, str, str, int]]) -> tuple[Bar, ...]:
    sizes: dict[tuple[str, str], int] = {}
    counts: dict[tuple[str, str], int] = {}
    for stage, _, label, size in moves:
        sizes[stage, label] = sizes.get((stage, label), 0) + size
        counts[stage, label] = counts.get((stage, label), 0) + 1
    return tuple(Bar(f"{counts[key]} {key[1]}", size) for key, size in sizes.items())


def _fewer(bars: Sequence[Bar]) -> list[Bar]:
    if len(bars) <= _MOST_BARS:
        return list(bars)
    kept = set(sorted(range(len(bars)), key=lambda index: -abs(bars[index].size))[: _MOST_BARS - 1])
    rest = sum(bar.size for index, bar in enumerate(bars) if index not in kept)
    others = Bar(f"{len(bars) - len(kept)} smaller\nkinds of moves", rest)
    return [*(bar for index, bar in enumerate(bars) if index in kept), others]


def _waterfall(axes: "Axes", bars: Sequence[Bar], opening: int) -> None:
    levels = [opening]
    for bar in bars:
        levels.append(levels[-1] - bar.size)
    least, most = min(0, *levels), max(0, *levels)
    unit, name = (1e6, "MB") if max(most, -least) >= _KILO_UP_TO else (1e3, "kB")
    axes.bar(0, opening / unit, color=_SINK)
    for position, (bar, start, end) in enumerate(zip(bars, levels, levels[1:], strict=False), start=1):
        axes.bar(position, (end - start) / unit, bottom=start / unit, color=_FREED if bar.size < 0 else _SPENT)
        place = (position, max(start, end) / unit)
        text = _figure(-bar.size / unit)
        axes.annotate(text, place, textcoords="offset points", xytext=(0, 2), ha="center", fontsize=7)
    axes.bar(len(levels), levels[-1] / unit, color=_SINK)
    axes.axhline(0, color="black", linewidth=0.6)
    labels = ["at hand", *(bar.label for bar in bars), "left"]
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    room = 0.08 * max(most - least, 1)
    axes.set_ylim((least - room) / unit, (most + room) / unit)
    axes.set_ylabel(f"sink, {name}")


def _figure(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.3g}"


def _rows(types: Mapping[str, str]) -> list[str]:
    """Roles with a type that quantizes in some block, most common first; rows of the maps."""
    counts: dict[str, int] = {}
    for name, chosen in types.items():
        if chosen != "F32":
            counts[role_of(name)] = counts.get(role_of(name), 0) + 1
    return sorted(counts, key=lambda role: (-counts[role], role))


def _types(names: Iterable[str]) -> list[QuantType]:
    """The types of the catalogue among these, fewest bits first; F32 is drawn as nothing."""
    known = {quant_type(name) for name in names if name in CATALOGUE and name != "F32"}
    return sorted(known, key=lambda one: (one.bits_per_weight, one.name))


def _map(
    axes: "Axes", title: str, rows: Sequence[str], blocks: int, types: Mapping[str, str], shown: Sequence[QuantType]
) -> None:
    import numpy as np
    from matplotlib.colors import ListedColormap

    index = {one.name: number for number, one in enumerate(shown)}
    cells = np.full((len(rows), blocks + 1), np.nan)
    for name, chosen in types.items():
        if role_of(name) in rows and chosen in index:
            cells[rows.index(role_of(name)), 1 + block_of(name)] = index[chosen]
    axes.imshow(cells, aspect="auto", cmap=ListedColormap(_colors(shown)), vmin=-0.5, vmax=max(len(shown), 1) - 0.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    step = max(1, blocks // 16)
    axes.set_xticks([0, *range(1, blocks + 1, step)], ["–", *map(str, range(0, blocks, step))], fontsize=8)
    axes.set_xlabel(f"{title}: type by block (–: outside of blocks)", fontsize=9)


def _outline(axes: "Axes", rows: Sequence[str], before: Mapping[str, str], after: Mapping[str, str]) -> None:
    from matplotlib.patches import Rectangle

    for name, chosen in after.items():
        if before.get(name, chosen) != chosen and role_of(name) in rows:
            corner = (block_of(name) + 0.5, rows.index(role_of(name)) - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=0.9))


def _colors(types: Sequence[QuantType]) -> list[Any]:
    """Colours along one scale by bits per weight, evenly spaced so that neighbours can be told apart."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](number / max(len(types) - 1, 1)) for number in range(len(types))]


def _legend(figure: Any, types: Sequence[QuantType]) -> None:
    from matplotlib.patches import Patch

    patches: list[Any] = [
        Patch(color=color, label=f"{one.name} ({float(one.bits_per_weight):.4g})")
        for one, color in zip(types, _colors(types), strict=True)
    ]
    patches.append(Patch(fill=False, edgecolor="black", label="moves"))
    patches += [Patch(color=_FREED, label="frees"), Patch(color=_SPENT, label="spends")]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
