"""Plans as tables and plain data. Nothing is computed here but sums and ratios for reading."""

import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final

from rich.console import Group, RenderableType

from raq_client.planning.predicted_kl import PredictedKl
from raq_client.reports.predicted import predicted_rows
from raq_client.reports.tables import Column, Table, facts_table
from raq_solver.allocation import Ledger
from raq_solver.budget import bits_per_weight
from raq_solver.knapsack import Termination
from raq_solver.outcome import Outcome
from raq_solver.questions.smallest_size import Smallest

RUNS_SHOWN: Final = 8
"""Most runs of block numbers that are written out."""


def outcome_to_dict(outcome: Outcome, source: str) -> dict[str, Any]:
    """An outcome as plain data for `--json`. Sizes in bytes, losses and the bound in the unit of `source`."""
    ledger = outcome.ledger
    found: dict[str, Any] = {
        "termination": outcome.termination.name.lower(),
        "least_bytes": outcome.least_bytes,
        "most_bytes": outcome.most_bytes,
        "seconds": outcome.seconds,
        "loss_source": source,
    }
    if ledger is None:
        return found
    return found | {
        "capacity_bytes": ledger.capacity,
        "bytes": ledger.size,
        "slack_bytes": ledger.slack,
        "bits_per_weight": None if ledger.bits_per_weight is None else float(ledger.bits_per_weight),
        "loss": ledger.loss,
        "bound": outcome.bound,
        "gap": outcome.gap,
        "lambda": outcome.multiplier,
        "allocation": {entry.tensor: entry.quant_type for entry in ledger.entries},
    }


def infeasible_text(outcome: Outcome, budget: str, weights: int, capacity: int, *, importance: bool = True) -> str:
    """One sentence on why nothing fits, with the least budget that does; without `importance` what that would allow."""
    if outcome.termination is Termination.NO_SOLUTION_FOUND:
        return f"budget {budget}: {outcome.termination.value}; allow more --seconds"
    least = f"{outcome.least_bytes:,} bytes"
    if capacity >= outcome.least_bytes:
        return "the constraints on several tensors can't be kept together; raq-client explain says which"
    if weights:
        least = f"{bpw_text(bits_per_weight(outcome.least_bytes, weights))} bpw ({least})"
    more = "" if importance else "; smaller types (IQ3_XXS and below) need importance: give it with -i IMATRIX"
    return f"even the smallest types need {least}; the budget is {budget}{more}"


def generous_text(outcome: Outcome, weights: int) -> str | None:
    """One sentence if the budget is larger than the model can use, else None."""
    ledger = outcome.ledger
    if ledger is None or ledger.capacity <= outcome.most_bytes:
        return None
    most = f"{outcome.most_bytes:,} bytes"
    if weights:
        most = f"{bpw_text(bits_per_weight(outcome.most_bytes, weights))} bpw ({most})"
    return f"the budget is over the largest that makes a difference, {most}"


def bpw_text(bits: Fraction) -> str:
    """Bits per weight for reading, rounded up: a size is never understated."""
    return f"{math.ceil(bits * 10_000) / 10_000:.4f}"


def plan_report(
    outcome: Outcome,
    source: str,
    budget: str,
    smallest: Smallest | None = None,
    predicted: PredictedKl | None = None,
) -> RenderableType:
    """The plan of an outcome that has an allocation; with `smallest` that of the smallest size within a loss.

    `predicted` is its loss with an interval, where it is known.
    """
    ledger = outcome.ledger
    assert ledger is not None
    assert outcome.bound is not None
    bound = f"{outcome.bound:.6g}, gap {outcome.gap or 0:.2g}: {outcome.termination.value}"
    rows = (
        *(size_rows(ledger, budget) if smallest is None else _smallest_rows(ledger, smallest)),
        *_loss_rows(ledger, source, predicted),
        *((("proven bound", bound),) if smallest is None else ()),
        ("price of a byte", f"{outcome.multiplier:.4g}, {solved_text(outcome.seconds)}"),
    )
    return Group(facts_table(rows), "", types_table(ledger))


def _loss_rows(ledger: Ledger, source: str, predicted: PredictedKl | None) -> tuple[tuple[str, str], ...]:
    """The predicted loss and its source; with an interval and by text where it is known by window."""
    if predicted is None:
        return (("predicted loss", f"{ledger.loss:.6g} ({source})"),)
    return (*predicted_rows(predicted), ("losses from", source))


def _smallest_rows(ledger: Ledger, smallest: Smallest) -> tuple[tuple[str, str], ...]:
    """The limit on the loss, the size that keeps it, and the proof. There is no budget, so nothing is left of one."""
    proof = "no smaller size keeps it"
    if smallest.termination is not Termination.OPTIMAL:
        proof = f"a smaller size may keep it, down to {smallest.bound_bytes:,} bytes; allow more --seconds"
    return (("limit", f"a loss of at most {smallest.most_loss:g}"), ("size", _size_text(ledger)), ("proven", proof))


def _size_text(ledger: Ledger) -> str:
    bits = ledger.bits_per_weight
    return f"{ledger.size:,} bytes" + ("" if bits is None else f", {bpw_text(bits)} bpw")


def size_rows(ledger: Ledger, budget: str) -> tuple[tuple[str, str], ...]:
    """The budget, the size that was reached, and what is left of the budget."""
    capacity = f"{ledger.capacity:,} bytes"
    return (
        ("budget", capacity if budget == capacity else f"{budget} = {capacity}"),
        ("size", _size_text(ledger)),
        ("slack", f"{ledger.slack:,} bytes"),
    )


def solved_text(seconds: float) -> str:
    """How long a search took.

    >>> solved_text(0.00123), solved_text(28.17)
    ('solved in 1.2 ms', 'solved in 28.2 s')
    """
    return f"solved in {seconds * 1000:.1f} ms" if seconds < 1 else f"solved in {seconds:.1f} s"


def types_table(ledger: Ledger) -> RenderableType:
    """One line for each quant type of an allocation: how many tensors, how many bytes, which roles and blocks."""
    columns = (
        Column("type"),
        Column("tensors", figures=True, spare=1),
        Column("bytes", figures=True),
        Column("share", figures=True, spare=2),
        Column("which"),
    )
    by_type: dict[str, list[str]] = {}
    sizes: Counter[str] = Counter()
    for entry in ledger.entries:
        by_type.setdefault(entry.quant_type, []).append(entry.tensor)
        sizes[entry.quant_type] += entry.size
    rows = [
        (
            name,
            str(len(by_type[name])),
            f"{size:,}",
            f"{100 * size / ledger.size:.1f} %",
            roles_text(by_type[name]),
        )
        for name, size in sizes.most_common()
    ]
    return Table(columns, rows)


def roles_text(tensors: Iterable[str]) -> str:
    """Tensor names grouped by role: `attn_v 0-3, output`."""
    blocks: dict[str, list[int]] = {}
    for name in tensors:
        parts = name.removesuffix(".weight").split(".")
        if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit():
            blocks.setdefault(".".join(parts[2:]), []).append(int(parts[1]))
        else:
            blocks.setdefault(".".join(parts), [])
    return ", ".join(f"{role} {ranges_text(numbers)}".rstrip() for role, numbers in blocks.items())


def ranges_text(numbers: Iterable[int]) -> str:
    """Whole numbers with runs joined, `0-3,7`; of more runs than one line holds only their extent, `48 of 0-62`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) > RUNS_SHOWN:
        return f"{sum(b - a + 1 for a, b in runs)} of {runs[0][0]}-{runs[-1][1]}"
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
