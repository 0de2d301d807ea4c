"""Reasons, costs of constraints, ladders and audits, as tables and as plain data."""

from typing import Any

from rich.console import Group, RenderableType

from raq_client.reports.plan import bpw_text
from raq_client.reports.tables import Column, Field, Table, table_of
from raq_solver.budget import bits_per_weight
from raq_solver.losses import LossTable
from raq_solver.questions.audit import Audit
from raq_solver.questions.explain import Conflict, Costs, TensorReasons
from raq_solver.questions.ladder import Ladder

CHANGES_SHOWN = 40


def reasons_table(reasons: TensorReasons) -> RenderableType:
    """What every other type of a tensor would cost, the best of them first."""
    fields = (
        Field("instead", read=lambda other: other.quant_type),
        Field("loss of the whole", figures=True, read=lambda o: "does not fit" if o.loss is None else f"{o.loss:.6g}"),
        Field("rise", figures=True, read=lambda other: "" if other.rise is None else f"{other.rise:+.3g}"),
    )
    if not reasons.alternatives:
        why = "a constraint allows no other type, or the tensor is never quantized"
        return f"{reasons.tensor} is {reasons.chosen}: {why}"
    whole = next((o.loss - o.rise for o in reasons.alternatives if o.loss is not None and o.rise is not None), None)
    loss = "" if whole is None else f": loss of the whole {whole:.6g}"
    return Group(
        f"{reasons.tensor} is {reasons.chosen}{loss}",
        "",
        table_of(reasons.alternatives, fields),
        "",
        *_changes_of_type(reasons),
    )


def _changes_of_type(reasons: TensorReasons) -> list[RenderableType]:
    """The budgets at which the tensor has another type, or that there are none."""
    if not reasons.flips:
        return ["It has this type at every budget that was looked at."]
    fields = (
        Field("with larger budgets", read=lambda flip: f"{flip.before} → {flip.after}"),
        Field("by a budget of", figures=True, read=lambda flip: f"{flip.capacity_bytes:,} bytes"),
    )
    return [table_of(reasons.flips, fields)]


def costs_table(costs: Costs) -> RenderableType:
    """What the constraints cost, one by one and by their source."""
    rows = [
        (
            each.constraint.reason or f"constraint {each.number}",
            each.constraint.source.value,
            "?" if each.cost is None else f"{each.cost:.6g}",
        )
        for each in costs.constraints
    ]
    rows += [("all of this source", source.value, f"{cost:.6g}") for source, cost in costs.by_source.items()]
    rows.append(("all constraints", "", f"{costs.total:.6g}"))
    table = Table((Column("constraint"), Column("source"), Column("loss it costs", figures=True)), rows)
    return Group(table, f"the next byte is worth {costs.byte_price:.4g}")


def costs_dict(costs: Costs) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "constraints": [
            {"reason": c.constraint.reason, "source": c.constraint.source.value, "cost": c.cost}
            for c in costs.constraints
        ],
        "by_source": {source.value: cost for source, cost in costs.by_source.items()},
        "total": costs.total,
        "lambda": costs.byte_price,
    }


def conflict_text(conflict: Conflict) -> str:
    """Why nothing fits, in a sentence or two."""
    names = [constraint.reason or f"constraint {number}" for number, constraint in conflict.constraints]
    why = f"these can't be kept together: {'; '.join(names)}" if names else "the budget alone is too small"
    nearest = conflict.nearest_capacity_bytes
    way_out = "no budget is enough" if nearest is None else f"the least budget that is enough: {nearest:,} bytes"
    return f"{why}; {way_out}"


def ladder_table(found: Ladder, weights: int) -> RenderableType:
    """The steps of a nested ladder, and what nesting costs at each."""
    columns = (
        Column("bpw", figures=True),
        Column("bytes", figures=True),
        Column("loss", figures=True),
        Column("best without nesting", figures=True, spare=2),
        Column("price of nesting", figures=True, spare=1),
        Column("promoted", figures=True, spare=3),
    )
    rows = []
    before = None
    for rung in found.rungs:
        types = rung.allocation.types
        promoted = 0 if before is None else sum(types[name] != was for name, was in before.items())
        bits = bpw_text(bits_per_weight(rung.ledger.size, weights)) if weights else ""
        loss, free, price = (f"{value:.6g}" for value in (rung.ledger.loss, rung.free_loss, rung.price))
        rows.append((bits, f"{rung.ledger.size:,}", loss, free, price, str(promoted)))
        before = types
    return Group(Table(columns, rows), f"sum of losses {found.loss:.6g}: {found.termination.value}")


def ladder_dict(found: Ladder) -> dict[str, Any]:
    """The same as plain data, allocations included."""
    return {
        "termination": found.termination.name.lower(),
        "loss": found.loss,
        "bound": found.bound,
        "price": found.price,
        "rungs": [
            {
                "capacity_bytes": rung.capacity_bytes,
                "bytes": rung.ledger.size,
                "loss": rung.ledger.loss,
                "free_loss": rung.free_loss,
                "allocation": dict(rung.allocation.types),
            }
            for rung in found.rungs
        ],
    }


def audit_report(found: Audit, table: LossTable) -> RenderableType:
    """An allocation beside the best one of the same bytes, and the moves between them."""
    columns = (Column(), *(Column(title, figures=True) for title in ("bytes", "bpw", "predicted loss")))
    ledgers = [("audited", found.ledger)]
    if found.best.ledger is not None:
        ledgers.append(("best of the same bytes", found.best.ledger))
    rows = []
    for name, ledger in ledgers:
        bits = ledger.bits_per_weight
        rows.append((name, f"{ledger.size:,}", "" if bits is None else bpw_text(bits), f"{ledger.loss:.6g}"))
    verdict = "" if found.excess is None else f"{_excess_text(found.excess)} ({table.source})"
    broken = [f"breaks {fault}" for fault in found.broken]
    return Group(Table(columns, rows), verdict, *broken, *_changes(found))


def _excess_text(excess: float) -> str:
    """How far an allocation is from the best one of its size, as a share of that one's loss.

    >>> _excess_text(0.25), _excess_text(-0.5)
    ('25.00 % more loss than the best', '50.00 % less loss than the best that keeps the constraints')
    """
    if excess < 0:
        return f"{-100 * excess:.2f} % less loss than the best that keeps the constraints"
    return f"{100 * excess:.2f} % more loss than the best"


def _changes(found: Audit) -> list[RenderableType]:
    """The moves from the audited allocation to the best one; nothing where there are none."""
    if not found.changes:
        return []
    rows = [(change.tensor, change.before, change.after) for change in found.changes[:CHANGES_SHOWN]]
    moves = Table((Column("tensor"), Column("has"), Column("best")), rows)
    rest = len(found.changes) - CHANGES_SHOWN
    return ["", moves, *([f"and {rest} more"] if rest > 0 else [])]
