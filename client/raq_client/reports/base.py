"""Memory, moves from the base, prices and agreement of constraints of a plan, as tables and as plain data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from raq_client.planning.memory_budget import MemoryBudget
from raq_client.planning.plan import Plan, Price
from raq_client.recipes.diff import Agreement, Exchange, Line, Stage
from raq_client.reports.plan import roles_text
from raq_client.reports.tables import Column, Field, Table, table_of
from raq_client.reports.words import dim, worded
from raq_solver.tensor_names import role_of


def around_dict(plan: "Plan") -> dict[str, Any]:
    """The same as plain data, as far as the plan has it. Sizes in bytes; unknown losses are null."""
    found: dict[str, Any] = {}
    spec = plan.spec
    if spec.memory is not None:
        found["memory"] = memory_dict(spec.memory) | {"on_host": _on_host(plan)}
    if plan.exchange is not None:
        found["base"] = {"name": _base_name(plan), "allocation": dict(spec.base.allocation.types if spec.base else {})}
        found["exchange"] = exchange_dict(plan.exchange) | {"base_loss": _base_loss(plan)}
    if plan.spec.ratios is not None:
        found["ratio"] = {"demote": list(plan.spec.ratios.demote), "promote": list(plan.spec.ratios.promote)}
    if plan.agreements:
        found["convergence"] = [
            asdict(one) | {"converges": one.converges, "conflicts": one.conflicts} for one in plan.agreements
        ]
    if plan.prices:
        found["prices"] = [asdict(price) for price in plan.prices]
    return found


def around_tables(plan: "Plan") -> list[RenderableType]:
    """The tables of memory, moves, prices and agreement, as far as the plan has them."""
    found: list[RenderableType] = []
    if plan.spec.memory is not None:
        found += ["", memory_table(plan.spec.memory, _on_host(plan))]
    if plan.exchange is not None:
        found += ["", *exchange_tables(plan.exchange, _base_name(plan), _base_loss(plan))]
    if plan.prices:
        found += ["", prices_table(plan.prices)]
    if plan.agreements:
        found += ["", *_convergence_lines(plan.agreements)]
    return found


def _on_host(plan: "Plan") -> dict[str, int]:
    """Bytes of each tensor kept on the host; 0 without an allocation."""
    return dict.fromkeys(plan.spec.on_host, 0) | dict(plan.on_host)


def _base_name(plan: "Plan") -> str:
    return "" if plan.spec.base is None else plan.spec.base.name


def memory_dict(memory: MemoryBudget) -> dict[str, Any]:
    """Terms of the memory, in bytes."""
    return {
        "memory_bytes": memory.memory,
        "weights_bytes": memory.weights,
        "terms": [asdict(term) for term in memory.terms],
    }


def memory_table(memory: MemoryBudget, on_host: Mapping[str, int], left: str = "left for weights") -> Table:
    """The terms of a device's memory, and what is left of it."""
    columns = (
        Column("memory of the device"),
        Column("bytes", figures=True),
        Column("MiB", figures=True, spare=2),
        Column("from", spare=1),
    )
    rows = [(term.name, term.size, term.formula) for term in memory.terms]
    rows.append((left, memory.weights, f"of {memory.memory:,} bytes"))
    rows += [(f"on the host: {name}", size, "takes nothing of the device") for name, size in on_host.items()]
    return Table(columns, [(name, f"{size:,}", f"{size / 2**20:,.1f}", dim(formula)) for name, size, formula in rows])


def exchange_dict(exchange: Exchange) -> dict[str, Any]:
    """Every move in order."""
    return {
        "opening_bytes": exchange.opening,
        "freed_bytes": exchange.freed,
        "spent_bytes": exchange.spent,
        "sink_bytes": exchange.sink,
        "loss": _known(exchange.loss),
        "moves": [
            asdict(line) | {"stage": line.stage.name.lower(), "loss": _known(line.loss)} for line in exchange.lines
        ],
    }


def exchange_tables(exchange: Exchange, base: str, base_loss: float | None) -> list[RenderableType]:
    """The moves from the base in order, those of one stage, role and pair of types in one line."""
    until_then = "" if base_loss is None else f", {base_loss:.4g} before"
    if not exchange.lines:
        return [worded(dim(f"from the base {base}"), ": nothing moves")]
    columns = (
        Column("move"),
        Column("types"),
        Column("bytes", figures=True),
        Column("loss", figures=True),
        Column("sink", figures=True, spare=1),
        Column("which"),
    )
    rows: list[Sequence[str | Text]] = [(dim(f"base {base}"), "", "", "", f"{exchange.opening:,}", "")]
    sink = exchange.opening
    for (stage, _, before, after), lines in _alike(exchange.lines).items():
        size, loss = sum(line.size for line in lines), math.fsum(line.loss for line in lines)
        sink -= size
        which = roles_text(line.tensor for line in lines)
        name = stage.name.lower().replace("_", " ")
        rows.append((name, f"{before} → {after}", f"{size:+,}", _loss_text(loss), f"{sink:,}", which))
    total = f"freed {exchange.freed:,} bytes, spent {exchange.spent:,}, left {exchange.sink:,}"
    return [Table(columns, rows), worded(dim("in all"), f"  {total}; loss {_loss_text(exchange.loss)}{until_then}")]


def _base_loss(plan: "Plan") -> float | None:
    """The predicted loss of the base, None where a type of it is not in the table."""
    assert plan.exchange is not None, "there is a base and an allocation"
    return _known(plan.outcome.unwrap()[1].loss - plan.exchange.loss)


def prices_table(found: tuple[Price, ...]) -> Table:
    """What the constraints of each source cost."""
    fields = (
        Field("knowledge", read=lambda price: price.group),
        Field("tensors", figures=True, spare=2, read=lambda price: str(price.tensors)),
        Field("bytes taken", figures=True, spare=1, read=lambda price: f"{price.taken:+,}"),
        Field("the rest pays", figures=True, spare=3, read=lambda price: f"{price.rest:+.6g}"),
        Field("price in loss", read=_price_text),
    )
    return table_of(found, fields)


def _price_text(price: Price) -> str:
    return "nothing fits without it" if price.loss is None else f"{price.loss:+.6g}"


def _convergence_lines(agreements: tuple[Agreement, ...]) -> list[RenderableType]:
    converging = [one.tensor for one in agreements if one.converges]
    conflicting = [one.tensor for one in agreements if one.conflicts]
    return [
        worded(dim("knowledge agrees on"), f" {_counted(converging)}"),
        worded(dim("and conflicts on"), f" {_counted(conflicting)}"),
    ]


def _counted(tensors: Sequence[str]) -> str:
    return f"{len(tensors)} tensors: {roles_text(tensors)}" if tensors else "no tensor"


def _alike(lines: tuple[Line, ...]) -> dict[tuple[Stage, str, str, str], list[Line]]:
    groups: dict[tuple[Stage, str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.stage, role_of(line.tensor), line.before, line.after), []).append(line)
    return groups


def _known(loss: float) -> float | None:
    return None if math.isnan(loss) else loss


def _loss_text(loss: float) -> str:
    return "not known" if math.isnan(loss) else f"{loss:+.4g}"
