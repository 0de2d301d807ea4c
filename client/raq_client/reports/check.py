"""Measurements as tables: checks, comparisons, sensitivities."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.text import Text

from raq_client.evaluation.comparison import Comparison, Difference
from raq_client.evaluation.report import CheckReport, Summary
from raq_client.evaluation.speed import Speed
from raq_client.evaluation.statistics import Estimate
from raq_client.reports.tables import Cell, Column, Field, Table, table_of
from raq_client.reports.words import dim, worded

if TYPE_CHECKING:
    from raq_client.sensitivity.measure import Sensitivities

USUAL_CONTEXT: Final = 512
"""Tokens of a window in llama-perplexity; in longer ones the divergence may drift, and its course is shown."""


def check_table(report: CheckReport) -> RenderableType:
    """The figures of a check: a column for all texts, and if there are several, one for each domain and each text."""
    columns = {"all texts": report.overall} if len(report.texts) != 1 else {}
    columns |= {f"domain {name}": summary for name, summary in report.domains.items()}
    columns |= report.texts
    rows: list[list[Cell]]
    rows = [[dim(title), *(read(summary) for summary in columns.values())] for title, read in _CHECK_ROWS]
    for part, place in enumerate(report.overall.kl_by_position if report.context > USUAL_CONTEXT else ()):
        title = f"KL at positions {place.first}–{place.last}"
        found = (_with_error(summary.kl_by_position[part].kl, digits=6) for summary in columns.values())
        rows.append([dim(title), *found])
    return Table([Column(), *(Column(_short(name), figures=True) for name in columns)], rows)


def speed_table(speeds: Sequence[Speed]) -> RenderableType:
    """Tokens a second of some models: the median run, and the slowest and the fastest."""
    first = speeds[0]
    titles = (f"prompt of {first.prompt_tokens}", f"answer of {first.answer_tokens}")
    columns = [Column("tokens a second"), *(Column(title, figures=True) for title in titles)]
    rows = [
        (one.name, _with_spread(one.prompt, one.prompt_spread), _with_spread(one.answer, one.answer_spread))
        for one in speeds
    ]
    return Table(columns, rows)


def _with_spread(value: float, spread: tuple[float, float]) -> str:
    return f"{value:.1f} ({spread[0]:.1f} to {spread[1]:.1f})"


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


def comparison_report(levels: Sequence[tuple[str, Summary]], steps: Sequence[Comparison]) -> RenderableType:
    """Each candidate's own figures, then each against the one before it: differences, intervals, the verdict."""
    fields = (
        Field("file", read=lambda level: _short(level[0])),
        Field("KL divergence", figures=True, read=lambda level: _with_error(level[1].kl, digits=6)),
        Field("perplexity", figures=True, spare=1, read=lambda level: _with_error(level[1].perplexity, digits=3)),
        Field("same top, %", figures=True, read=lambda level: _with_error(level[1].top1_agreement, 100, 2)),
    )
    return Group(table_of(levels, fields), "", comparison_table(steps))


def comparison_table(steps: Sequence[Comparison]) -> Table:
    """Each candidate less the one before it, with confidence intervals, and what that says of it."""
    fields = (
        Field("difference", read=lambda step: f"{_short(step.second)} less {_short(step.first)}"),
        Field("KL divergence", figures=True, read=lambda step: _interval(step.kl, 1, 6)),
        Field("loss, nats/token", figures=True, spare=1, read=lambda step: _interval(step.loss, 1, 5)),
        Field("same top, %", figures=True, spare=2, read=lambda step: _interval(step.top1_agreement, 100, 2)),
        Field("the first named is", read=_verdict),
        Field("windows to settle", figures=True, spare=3, read=_settle),
    )
    return table_of(steps, fields)


def _verdict(step: Comparison) -> Text:
    return worded(Text(step.verdict.value, style="bold"), f" ({100 * step.confidence:.3g} %)")


def _settle(step: Comparison) -> str:
    return "-" if step.kl.windows_to_settle is None else f"{step.kl.windows_to_settle:,} (of {step.windows})"


def _interval(difference: Difference, scale: float, digits: int) -> str:
    low, high = difference.low * scale, difference.high * scale
    return f"{difference.value * scale:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def sensitivity_table(found: "Sensitivities") -> RenderableType:
    """Every tensor, the most sensitive first."""
    rows = zip(found.tensors, found.fit.values, found.fit.errors, found.fit.information, strict=True)
    fields = (
        Field("tensor", read=lambda row: row[0]),
        Field("nats per unit of relative error", figures=True, read=lambda row: f"{row[1]:.5f} ± {row[2]:.5f}"),
        Field("measured", figures=True, spare=1, read=lambda row: f"{100 * row[3]:.0f} %"),
    )
    return table_of(sorted(rows, key=lambda row: -row[1]), fields)
