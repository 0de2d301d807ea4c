"""Reports of measurements: every file with its own level, once."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from raq_client.evaluation.comparison import compare_all
from raq_client.evaluation.perplexity import Measurement, TextScores
from raq_client.evaluation.scores import TokenScores
from raq_client.reports.check import check_table, comparison_report

NAMES = ("out/first.gguf", "out/second.gguf", "third.gguf")


def measured(name: str, kl: float) -> Measurement:
    """A measurement of 12 windows with a mean KL divergence about `kl`."""
    random = np.random.default_rng(7)
    values = {key: random.random((12, 8)).astype(np.float32) for key in ("baseline_nll", "candidate_nll", "change")}
    divergence = (kl * (1 + 0.1 * random.standard_normal((12, 8)))).astype(np.float32)
    scores = TokenScores(
        values["baseline_nll"], values["candidate_nll"], divergence, values["change"], random.random((12, 8)) < 0.9
    )
    text = TextScores("text", "", np.zeros((12, 16), np.int32), scores)
    return Measurement("original.gguf", name, 16, (text,), ())


def shown(renderable: object, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, highlight=False).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_comparison_says_how_good_each_file_is_once(width: int) -> None:
    found = [measured(name, kl) for name, kl in zip(NAMES, (0.03, 0.02, 0.01), strict=True)]
    levels = [(each.candidate, each.report().overall) for each in found]
    text = shown(comparison_report(levels, compare_all(found)), width)
    for name, summary in levels:
        level = f"{summary.kl.value:.6f} ± {summary.kl.error:.6f}"
        assert text.count(level) == 1
        assert re.search(rf"^{name.removeprefix('out/')} .*{re.escape(level)}", text, re.MULTILINE)
    assert text.count("better (97.5 %)") == 2
    assert "first.gguf" in text.partition("second.gguf less ")[2]
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_check_shows_all_its_figures_whole(width: int) -> None:
    report = measured("q.gguf", 0.02).report()
    words = shown(check_table(report), width).split()
    for value in (report.overall.kl.value, *(report.overall.kl_quantiles[part] for part in (0.5, 0.9, 0.99, 1.0))):
        assert f"{value:.6f}" in words
