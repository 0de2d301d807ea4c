"""Plans for the worst case over domains, as tables and as plain data."""

import math
from typing import Any

from rich.console import Group, RenderableType

from raq_client.planning.plan import Plan, WorstCaseDetails
from raq_client.reports.plan import size_rows, solved_text, types_table
from raq_client.reports.tables import Column, Table, facts_table
from raq_solver.questions.worst_case import DomainOutcome, WorstCase


def domains_dict(details: WorstCaseDetails) -> dict[str, Any]:
    """As plain data for --json. `worst`, `bound` as ratios or nats, as `measure` says; losses in nats per token.

    Where there is no allocation, only what each domain alone could have.
    """
    found = details.found
    rows = [
        {
            "name": each.name,
            "loss": None if each.ledger is None else each.ledger.loss,
            "own_best": None if each.best.ledger is None else each.best.ledger.loss,
            "ratio": _finite(each.ratio),
            "ratio_in_the_best_of_another": _finite(elsewhere),
            "reference": each.reference,
            "weight": each.weight,
        }
        for each, elsewhere in zip(found.domains, details.elsewhere, strict=True)
    ]
    measure = "ratio" if _in_ratios(found) else "nats"
    return {"measure": measure, "worst": found.worst, "bound": found.bound, "gap": found.gap, "domains": rows}


def domain_plan_report(plan: Plan) -> RenderableType:
    """The plan of a worst case that has an allocation."""
    details, ledger = plan.worst_case, plan.outcome.ledger
    assert details is not None
    assert ledger is not None
    found = details.found
    assert found.worst is not None
    worst = max(found.domains, key=_loss_in_unit)
    unit = " times the loss of a file of its own" if _in_ratios(found) else " nats"
    rows = [
        *size_rows(ledger, plan.budget_text),
        ("worst case", f"{found.worst:.6g}{unit}: {worst.name}"),
        ("proven bound", f"{found.bound:.6g}, gap {found.gap or 0:.2g}: {found.termination.value}"),
        ("price of a byte", f"{found.multiplier:.4g}, {solved_text(found.seconds)}"),
    ]
    return Group(facts_table(rows), "", domains_table(details), "", types_table(ledger))


def domains_table(details: WorstCaseDetails) -> Table:
    """One line for each domain: its loss, what it could have alone, and what it would have in a file of another."""
    columns = [
        Column("domain"),
        Column("predicted loss", figures=True),
        Column("its own best", figures=True, spare=2),
        Column("ratio", figures=True),
        Column("in the best of another", figures=True, spare=1),
        Column("weight in the proof", figures=True, spare=3),
    ]
    rows = []
    for each, elsewhere in zip(details.found.domains, details.elsewhere, strict=True):
        assert each.ledger is not None
        assert each.best.ledger is not None
        losses = f"{each.ledger.loss:.6g}", f"{each.best.ledger.loss:.6g}"
        rows.append((each.name, *losses, f"{each.ratio:.4f}", f"{elsewhere:.4f}", f"{each.weight:.3f}"))
    return Table(columns, rows)


def _loss_in_unit(domain: DomainOutcome) -> float:
    return 0.0 if domain.ledger is None else domain.ledger.loss / domain.reference


def _in_ratios(found: WorstCase) -> bool:
    return any(each.reference != 1.0 for each in found.domains)


def _finite(ratio: float | None) -> float | None:
    return ratio if ratio is not None and math.isfinite(ratio) else None
