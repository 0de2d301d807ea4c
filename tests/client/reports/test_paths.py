"""Heat maps fit their terminal, are plain without one, and show no data as what it is."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.paths import contrasts, path_map, path_maps
from raq_client.reports.paths import HeatMap, contrast_report, map_dict, map_report, pooled
from raq_client.reports.paths_plot import plot_contrast, plot_difference, plot_map
from raq_solver.errors import InvalidInput

EXPERTS = 128


def text(seed: int) -> Importance:
    """Importance of two blocks of experts; the first ten of block 0 were never reached."""
    random = np.random.default_rng(seed)
    entries = {}
    for block in range(2):
        counts = np.full(EXPERTS, 10, np.float32)
        counts[: 10 if block == 0 else 0] = 0
        sums = random.gamma(2, 1, (EXPERTS, 4)).astype(np.float32) * counts[:, None]
        entries[f"blk.{block}.ffn_up_exps.weight"] = Entry(sums.ravel(), counts)
    return Importance(entries, source=f"text {seed}")


def printed(shown: object, width: int, **options: object) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, **options).print(shown)  # type: ignore[arg-type]
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_heat_map_fits_its_width_and_has_no_colours_without_a_terminal(width: int) -> None:
    values = path_map(text(0)).heat
    lines = printed(HeatMap(values, ["0", "1"], ["a", "b"]), width)
    assert len(lines) == 2
    assert all(len(line) <= min(width, 120) for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert "·" in lines[0]
    assert "·" not in lines[1]
    assert "█" in "".join(lines)


def test_on_a_terminal_cells_have_colours() -> None:
    lines = printed(map_report(path_map(text(0)), 2), 80, force_terminal=True, color_system="256")
    assert any("\x1b[38;5;" in line for line in lines)


@given(st.integers(1, 130), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pooling_keeps_the_largest_and_shows_no_data_only_where_there_is_none(cells: int, most: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.where(random.random((2, cells)) < 0.5, np.nan, random.random((2, cells)))
    found = pooled(values, most)
    assert found.shape[1] <= most
    width = -(-cells // most)
    for row in range(2):
        for place in range(found.shape[1]):
            group = values[row, place * width : (place + 1) * width]
            known = group[np.isfinite(group)]
            assert found[row, place] == known.max() if known.size else np.isnan(found[row, place])


def test_cells_without_data_are_null() -> None:
    (first, second) = map_dict(path_map(text(0)), 1)["blocks"]
    assert first["heat"][:10] == [None] * 10
    assert first["with_data"] == EXPERTS - 10
    assert None not in second["heat"]


def test_the_most_distinctive_blocks_are_named_in_order() -> None:
    domain, general = text(0), text(1)
    found = contrasts([domain], [general])
    lines = printed(contrast_report(found, path_maps([domain], [general]), 2), 100)
    order = sorted(found, key=lambda one: -one.divergence)
    assert [int(line.split()[0]) for line in lines[-2:]] == [one.block for one in order]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_pictures_are_drawn(tmp_path: Path, suffix: str) -> None:
    domain, general = text(0), text(1)
    maps = path_maps([domain], [general])
    for number, draw in enumerate(
        (
            lambda path: plot_map(path, maps[0], "one"),
            lambda path: plot_contrast(path, contrasts([domain], [general]), maps[0], "two"),
            lambda path: plot_difference(path, maps, "three"),
        )
    ):
        path = tmp_path / f"{number}{suffix}"
        draw(path)
        assert path.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"ends in \.svg or \.png"):
        plot_map(tmp_path / "map.pdf", path_map(text(0)), "one")
