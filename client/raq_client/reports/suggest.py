"""Suggestions and presets as tables and plain data."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType

from raq_client.reports.plain import plain
from raq_client.reports.plan import bpw_text, roles_text
from raq_client.reports.tables import Column, Field, Table, facts_table, table_of
from raq_client.suggestions.fragment import title
from raq_client.suggestions.presets import Filled
from raq_client.suggestions.raises import Move
from raq_client.suggestions.scores import Rule, Score
from raq_client.suggestions.suggest import Ranked, Suggestion
from raq_solver.allocation import Ledger
from raq_solver.knapsack import Termination

_FURTHER: Final = 4
"""Units shown after those that are chosen."""


def suggestion_report(found: Suggestion) -> RenderableType:
    """The ranking, what the chosen raises come to, and the optimum of the same size beside it."""
    shown = found.ranking[: len(found.chosen) + _FURTHER]
    parts: list[RenderableType] = [title(found), "", table_of(shown, _columns(found.question.rule))]
    left = len(found.ranking) - len(shown)
    if left:
        parts.append(f"and {left} more of lower score")
    return Group(*parts, "", _comparison(found), "", _best_moves(found))


def suggestion_dict(found: Suggestion) -> dict[str, Any]:
    """A suggestion as plain data. Sizes of tensor data in bytes, losses in the unit of the loss table.

    `budget` is what to ask for to get that size; single bytes are those of tensor data.
    """
    question = found.question
    return {
        "by": question.rule.value,
        "unit": question.kind.value,
        "to": question.quant_type,
        "families": list(question.families),
        "budget": f"{found.after.size}B",
        "loss_source": found.problem.table.source,
        "start": _ledger_dict(found.start),
        "raised": _ledger_dict(found.after) | {"blocks": _blocks(found)},
        "best": None if found.best.ledger is None else _ledger_dict(found.best.ledger),
        "best_is_proven": found.best.termination is Termination.OPTIMAL,
        "ranking": [_ranked_dict(one) for one in found.ranking],
        "best_moves": plain(list(found.best_moves)),
        "allocation": {entry.tensor: entry.quant_type for entry in found.after.entries},
    }


def presets_table(presets: Sequence[Filled], context: int) -> RenderableType:
    """The presets of a model; memory is that of the device with this context, in tokens."""
    columns = (
        Field("preset", read=lambda one: one.preset.name),
        Field("allows", read=_allows),
        Field("bpw", figures=True, read=lambda one: _bits(one.ledger)),
        Field(
            "bytes", figures=True, read=lambda one: "can't be reached" if one.ledger is None else f"{one.ledger.size:,}"
        ),
        Field("predicted loss", figures=True, read=lambda one: "" if one.ledger is None else f"{one.ledger.loss:.3g}"),
        Field(
            "proven",
            spare=1,
            read=lambda one: "smallest" if one.by_loss and one.proven else "best" if one.proven else "",
        ),
        Field(
            f"memory at {context:,} tokens",
            figures=True,
            read=lambda one: "" if one.memory is None else f"{one.memory / 2**30:.3f} GiB",
        ),
    )
    return table_of(presets, columns)


def presets_dict(presets: Sequence[Filled], context: int) -> list[dict[str, Any]]:
    """The presets as plain data; sizes of tensor data in bytes, `budget` as for `suggestion_dict`."""
    return [
        {
            "preset": one.preset.name,
            "most_loss": one.preset.most_loss if one.by_loss else None,
            "most_bits_per_weight": None if one.by_loss else float(one.preset.bits),
            "proven": one.proven,
            "budget": None if one.ledger is None else f"{one.ledger.size}B",
            "context": context,
            "memory_bytes": one.memory,
        }
        | ({} if one.ledger is None else _ledger_dict(one.ledger))
        for one in presets
    ]


def _columns(rule: Rule) -> tuple[Field, ...]:
    own = (
        ()
        if rule is Rule.PRICE
        else (
            Field(rule.value, figures=True, read=lambda one: f"{one.score.value:.4g}"),
            Field("95 %", figures=True, spare=1, read=lambda one: _interval(one.score)),
        )
    )
    return (
        Field("", read=lambda one: "+" if one.chosen else ""),
        Field("raise", read=lambda one: one.raised.unit.name),
        *own,
        Field("bytes", figures=True, read=lambda one: f"{one.raised.size:+,}"),
        Field("loss", figures=True, read=lambda one: f"{one.raised.loss:+.3g}"),
        Field("per MiB", figures=True, spare=2, read=lambda one: f"{-one.raised.price * 2**20:+.3g}"),
        Field("types", spare=3, read=lambda one: _types(one.raised.moves)),
        Field("leading", spare=4, read=lambda one: ", ".join(one.score.leading[:5])),
    )


def _comparison(found: Suggestion) -> Table:
    rows = [("before", found.start), ("with these raised", found.after)]
    if found.best.ledger is not None:
        proven = found.best.termination is Termination.OPTIMAL
        rows.append(("best of that size" if proven else "found of that size", found.best.ledger))
    columns = [
        Column(),
        Column("bytes", figures=True),
        Column("bpw", figures=True),
        Column("predicted loss", figures=True),
    ]
    return Table(columns, [[name, f"{one.size:,}", _bits(one), f"{one.loss:.4g}"] for name, one in rows])


def _best_moves(found: Suggestion) -> RenderableType:
    """What the optimum raises and lowers instead."""
    moves = found.best_moves
    if not moves:
        return "the best of that size changes nothing"
    raised = [move.tensor for move in moves if move.size > 0]
    lowered = [move.tensor for move in moves if move.size <= 0]
    rows = [("the best raises", roles_text(raised) or "nothing"), ("and lowers", roles_text(lowered) or "nothing")]
    return facts_table(rows)


def _types(moves: Sequence[Move]) -> str:
    kinds: dict[str, int] = {}
    for move in moves:
        kind = f"{move.before}→{move.after}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items())


def _interval(score: Score) -> str:
    return "" if score.interval is None else f"{score.interval[0]:.3g}–{score.interval[1]:.3g}"


def _bits(ledger: Ledger | None) -> str:
    return "" if ledger is None or ledger.bits_per_weight is None else bpw_text(ledger.bits_per_weight)


def _allows(one: Filled) -> str:
    return f"a loss of {one.preset.most_loss:g}" if one.by_loss else f"{float(one.preset.bits):g} bpw"


def _blocks(found: Suggestion) -> list[int]:
    return sorted({one.raised.unit.block for one in found.chosen} - {-1})


def _ledger_dict(ledger: Ledger) -> dict[str, Any]:
    bits = ledger.bits_per_weight
    return {"bytes": ledger.size, "bits_per_weight": None if bits is None else float(bits), "loss": ledger.loss}


def _ranked_dict(one: Ranked) -> dict[str, Any]:
    return {
        "unit": one.raised.unit.name,
        "block": one.raised.unit.block,
        "chosen": one.chosen,
        "score": one.score.value,
        "interval": None if one.score.interval is None else list(one.score.interval),
        "leading": list(one.score.leading),
        "bytes": one.raised.size,
        "loss": one.raised.loss,
        "moves": plain(list(one.raised.moves)),
    }
