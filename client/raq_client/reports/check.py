"""What was measured, as tables for people: checks, comparisons, sensitivities."""

from collections.abc import Callable, Sequence
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from raq_client.evaluation.comparison import Comparison, Difference
from raq_client.evaluation.report import CheckReport, Summary
from raq_client.evaluation.statistics import Estimate
from raq_client.reports.words import dim, worded
from raq_client.sensitivity.measure import Sensitivities

USUAL_CONTEXT: Final = 512
"""Tokens of a window in llama-perplexity; in longer ones the divergence may drift, and its course is shown."""


def check_table(report: CheckReport) -> RenderableType:
    """The figures of a check, one column for all texts, for each domain, and for each text when there are several."""
    columns = {"all texts": report.overall} if len(report.texts) != 1 else {}
    columns |= {f"domain {name}": summary for name, summary in report.domains.items()}
    columns |= report.texts
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(_short(name), justify="right")
    for title, read in _CHECK_ROWS:
        table.add_row(dim(title), *(read(summary) for summary in columns.values()))
    for part, place in enumerate(report.overall.kl_by_position if report.context > USUAL_CONTEXT else ()):
        title = f"KL at positions {place.first}–{place.last}"
        found = (_with_error(summary.kl_by_position[part].kl, digits=6) for summary in columns.values())
        table.add_row(dim(title), *found)
    return table


def _with_error(estimate: Estimate, scale: float = 1, digits: int = 4) -> str:
    return f"{estimate.value * scale:.{digits}f} ± {estimate.error * scale:.{digits}f}"


_CHECK_ROWS: Final[tuple[tuple[str, Callable[[Summary], str]], ...]] = (
    ("tokens scored (windows)", lambda s: f"{s.tokens:,} ({s.windows})"),
    ("perplexity, original", lambda s: _with_error(s.baseline_perplexity, digits=3)),
    ("perplexity, quantized", lambda s: _with_error(s.perplexity, digits=3)),
    ("rise of the loss, nats/token", lambda s: _with_error(s.log_ratio, digits=5)),
    ("KL divergence, mean", lambda s: _with_error(s.kl, digits=6)),
    ("KL divergence, median", lambda s: f"{s.kl_quantiles[0.5]:.6f}"),
    ("KL divergence, 90 %", lambda s: f"{s.kl_quantiles[0.9]:.6f}"),
    ("KL divergence, 99 %", lambda s: f"{s.kl_quantiles[0.99]:.6f}"),
    ("KL divergence, 99.9 %", lambda s: f"{s.kl_quantiles[0.999]:.6f}"),
    ("KL divergence, largest", lambda s: f"{s.kl_quantiles[1.0]:.6f}"),
    ("same top token, %", lambda s: _with_error(s.top1_agreement, 100, 2)),
    ("RMS change of p, %", lambda s: _with_error(s.probability_change_rms, 100, 3)),
)


def comparison_table(steps: Sequence[Comparison]) -> RenderableType:
    """Each candidate against the one before it: the differences with their intervals, and the verdict in words."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("second less first")
    for title in ("KL divergence", "loss, nats/token", "same top, %"):
        table.add_column(title, justify="right")
    table.add_column("the second is")
    table.add_column("windows to settle", justify="right")
    for step in steps:
        settle = step.kl.windows_to_settle
        table.add_row(
            f"{_short(step.second)} less {_short(step.first)}",
            _interval(step.kl, 1, 6),
            _interval(step.loss, 1, 5),
            _interval(step.top1_agreement, 100, 2),
            worded(Text(step.verdict.value, style="bold"), f" ({100 * step.confidence:.3g} %)"),
            "-" if settle is None else f"{settle:,} (of {step.windows})",
        )
    return table


def _interval(difference: Difference, scale: float, digits: int) -> str:
    low, high = difference.low * scale, difference.high * scale
    return f"{difference.value * scale:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def sensitivity_table(found: Sensitivities) -> RenderableType:
    """Every tensor, the most sensitive first."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("tensor")
    table.add_column("nats per unit of relative error", justify="right")
    table.add_column("measured", justify="right")
    rows = zip(found.tensors, found.fit.values, found.fit.errors, found.fit.information, strict=True)
    for name, value, error, information in sorted(rows, key=lambda row: -row[1]):
        table.add_row(name, f"{value:.5f} ± {error:.5f}", f"{100 * information:.0f} %")
    return table
