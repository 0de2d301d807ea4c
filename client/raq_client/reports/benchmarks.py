"""Comparisons of two models on benchmarks as tables and sentences."""

from collections.abc import Iterator, Mapping

from raq_client.benchmarks.paired import SIGNIFICANT, Paired
from raq_client.reports.tables import Field, Table, table_of


def paired_table(results: Mapping[str, Paired], one: str = "A", other: str = "B") -> Table:
    """Counts of both models by benchmark, and the probability of such a split by chance."""
    fields = (
        Field("benchmark", read=lambda pair: pair[0]),
        Field("items", read=lambda pair: str(pair[1].items)),
        Field(f"{one} right", read=lambda pair: _share(pair[1].right_a, pair[1])),
        Field(f"{other} right", read=lambda pair: _share(pair[1].right_b, pair[1])),
        Field(f"only {one}", read=lambda pair: str(pair[1].only_a)),
        Field(f"only {other}", read=lambda pair: str(pair[1].only_b)),
        Field("p", read=lambda pair: f"{pair[1].p_value():.3g}"),
    )
    return table_of(list(results.items()), fields)


def paired_notes(results: Mapping[str, Paired], one: str = "A", other: str = "B") -> Iterator[str]:
    """What each comparison shows, in a sentence."""
    for name, result in results.items():
        if result.p_value() < SIGNIFICANT:
            better = one if result.only_a > result.only_b else other
            yield f"{name}: {better} is better; p is below {SIGNIFICANT}"
        elif (needed := result.items_needed()) is None:
            yield f"{name}: no difference on these items"
        else:
            yield f"{name}: no difference is shown; one of this size would need about {needed:,} items"


def _share(count: int, result: Paired) -> str:
    return f"{count} ({100 * count / result.items:.1f} %)"
