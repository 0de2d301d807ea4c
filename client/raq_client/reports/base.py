"""What surrounds a plan, for people and programs: memory, moves from the base, prices of knowledge, convergence."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from raq_client.planning.prices import Price
from raq_client.planning.vram import MemoryBudget
from raq_client.recipes.diff import Agreement, Exchange, Line, Stage
from raq_client.reports.plan import roles_text
from raq_client.reports.words import dim, worded
from raq_solver.tensor_names import role_of

if TYPE_CHECKING:
    from raq_client.planning.plan import Plan


def around_dict(plan: "Plan") -> dict[str, Any]:
    """The same as plain data, with only what the plan has. Sizes in bytes; losses that are not known are null."""
    found: dict[str, Any] = {}
    premises = plan.premises
    if premises.memory is not None:
        found["memory"] = memory_dict(premises.memory) | {"on_host": dict(premises.on_host)}
    if plan.exchange is not None:
        found["base"] = {"name": premises.base_name, "allocation": dict(premises.base.types if premises.base else {})}
        found["exchange"] = exchange_dict(plan.exchange) | {"base_loss": _base_loss(plan)}
    if premises.ratios is not None:
        found["ratio"] = {"demote": list(premises.ratios.demote), "promote": list(premises.ratios.promote)}
    if plan.agreements:
        found["convergence"] = [
            asdict(one) | {"converges": one.converges, "conflicts": one.conflicts} for one in plan.agreements
        ]
    if plan.prices:
        found["prices"] = [asdict(price) for price in plan.prices]
    return found


def around_tables(plan: "Plan") -> list[RenderableType]:
    """Tables for people, one after the other."""
    found: list[RenderableType] = []
    premises = plan.premises
    if premises.memory is not None:
        found += ["", memory_table(premises.memory, premises.on_host)]
    if plan.exchange is not None:
        found += ["", *exchange_tables(plan.exchange, premises.base_name, _base_loss(plan))]
    if plan.prices:
        found += ["", prices_table(plan.prices)]
    if plan.agreements:
        found += ["", *_convergence_lines(plan.agreements)]
    return found


def memory_dict(memory: MemoryBudget) -> dict[str, Any]:
    """Terms of the memory, in bytes."""
    return {
        "memory_bytes": memory.memory,
        "weights_bytes": memory.weights,
        "terms": [asdict(term) for term in memory.terms],
    }


def memory_table(memory: MemoryBudget, on_host: Mapping[str, int], left: str = "left for weights") -> Table:
    """What takes how much of the device, and what is left."""
    table = _table(("memory of the device", "left"), ("bytes", "right"), ("MiB", "right"), ("from", "left"))
    rows = [(term.name, term.size, term.formula) for term in memory.terms]
    rows.append((left, memory.weights, f"of {memory.memory:,} bytes"))
    rows += [(f"on the host: {name}", size, "takes nothing of the device") for name, size in on_host.items()]
    for name, size, formula in rows:
        table.add_row(name, f"{size:,}", f"{size / 2**20:,.1f}", dim(formula))
    return table


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
    """The moves from the base, those of one kind in one line, in the order a careful hand would make them."""
    until_then = "" if base_loss is None else f", {base_loss:.4g} before"
    if not exchange.lines:
        return [worded(dim(f"from the base {base}"), ": nothing moves")]
    columns = (("move", "left"), ("types", "left"), ("bytes", "right"), ("loss", "right"), ("sink", "right"))
    table = _table(*columns, ("which", "left"))
    table.add_row(dim(f"base {base}"), "", "", "", f"{exchange.opening:,}", "")
    sink = exchange.opening
    for (stage, _, before, after), lines in _alike(exchange.lines).items():
        size, loss = sum(line.size for line in lines), math.fsum(line.loss for line in lines)
        sink -= size
        which = roles_text(line.tensor for line in lines)
        name = stage.name.lower().replace("_", " ")
        table.add_row(name, f"{before} → {after}", f"{size:+,}", _loss_text(loss), f"{sink:,}", which)
    total = f"freed {exchange.freed:,} bytes, spent {exchange.spent:,}, left {exchange.sink:,}"
    return [table, worded(dim("in all"), f"  {total}; loss {_loss_text(exchange.loss)}{until_then}")]


def _base_loss(plan: "Plan") -> float | None:
    """The predicted loss of the base, None where a type of it is not in the table."""
    assert plan.exchange is not None, "there is a base and an allocation"
    return _known(plan.outcome.unwrap()[1].loss - plan.exchange.loss)


def prices_table(found: tuple[Price, ...]) -> Table:
    """What each kind of knowledge costs."""
    columns = (("knowledge", "left"), ("tensors", "right"), ("bytes taken", "right"), ("the rest pays", "right"))
    table = _table(*columns, ("price in loss", "right"))
    for price in found:
        loss = "nothing fits without it" if price.loss is None else f"{price.loss:+.6g}"
        table.add_row(price.group, str(price.tensors), f"{price.taken:+,}", f"{price.rest:+.6g}", loss)
    return table


def _convergence_lines(agreements: tuple[Agreement, ...]) -> list[RenderableType]:
    converging = [one.tensor for one in agreements if one.converges]
    conflicting = [one.tensor for one in agreements if one.conflicts]
    return [
        worded(dim("knowledge agrees on"), f" {len(converging)} tensors: {roles_text(converging) or 'none'}"),
        worded(dim("and conflicts on"), f" {len(conflicting)}: {roles_text(conflicting) or 'none'}"),
    ]


def _alike(lines: tuple[Line, ...]) -> dict[tuple[Stage, str, str, str], list[Line]]:
    groups: dict[tuple[Stage, str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.stage, role_of(line.tensor), line.before, line.after), []).append(line)
    return groups


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table


def _known(loss: float) -> float | None:
    return None if math.isnan(loss) else loss


def _loss_text(loss: float) -> str:
    return "not known" if math.isnan(loss) else f"{loss:+.4g}"
