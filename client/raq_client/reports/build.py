"""Builds of recipes as tables and as plain data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType

from raq_client.building.build import Built, rules_data
from raq_client.building.replay import Comparison
from raq_client.building.resolve import Resolved, ResolvedRule
from raq_client.building.splice import Spliced
from raq_client.building.verify import Finding
from raq_client.engine.model import usable_cores
from raq_client.progress import duration
from raq_client.quantizing.effort import writing_cost
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.reports.benchmarks import paired_table
from raq_client.reports.check import check_table
from raq_client.reports.plain import plain
from raq_client.reports.plan import bpw_text, roles_text, types_table
from raq_client.reports.tables import Column, Field, Table, facts_table, table_of

Change = tuple[str, Any, Any]
"""A key or tensor, and what it is in one recipe and in the other; None where it is missing."""
_DIGEST: Final = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")
"""A SHA-256; tables show 16 of its digits, JSON and manifests all."""


def resolved_report(resolved: Resolved, *, tensors: bool = False, built: bool = False) -> RenderableType:
    """What a recipe comes to: sizes, rules and types; with `tensors` one line for each tensor.

    What a build takes is left out where it is `built`.
    """
    ledger, recipe = resolved.ledger, resolved.recipe
    bits = ledger.bits_per_weight
    rows = [
        ("recipe", recipe.name + (f": {recipe.description}" if recipe.description else "")),
        ("model", str(recipe.model)),
        ("wrote" if built else "writes", f"{recipe.output.file}, {resolved.file_bytes:,} bytes"),
        ("and", str(recipe.output.manifest_path) + (f", {recipe.card.file}" if recipe.card is not None else "")),
        *(() if built else (("takes", _taken(resolved)),)),
        ("tensor data", f"{ledger.size:,} bytes" + ("" if bits is None else f", {bpw_text(bits)} bpw")),
        ("predicted loss", f"{ledger.loss:.6g} ({resolved.loss_source})"),
    ]
    parts: list[RenderableType] = [facts_table(rows)]
    for number, rule in enumerate(resolved.rules, start=1):
        parts += ["", _rule_title(number, rule), _rule_table(rule)]
    table = _tensors_table(resolved) if tensors else types_table(ledger)
    return Group(*parts, "", table)


def _taken(resolved: Resolved) -> str:
    """Time and disk of a build."""
    seconds, recipe = quantizing_seconds(resolved), resolved.recipe
    disk = "twice its size of disk" if recipe.sequential else "its size of disk"
    return f"{disk}, about {duration(seconds)} to quantize on {usable_cores()} cores{_feedback(recipe)}"


def _feedback(recipe: BuildRecipe) -> str:
    """What rounding does beside plain rounding, whose time is not in `quantizing_seconds`."""
    if recipe.gram is None:
        return ""
    in_turn = ", one block after the other," if recipe.sequential else ""
    return f"; error feedback by {recipe.gram.name}{in_turn} takes more"


def quantizing_seconds(resolved: Resolved) -> float:
    """About how long quantizing takes on all cores of this machine, in seconds: weights by the speed of their types.

    Tensors that are kept from earlier builds take less.
    """
    cost = sum(tensor.weights * writing_cost(tensor.source_type, chosen) for tensor, chosen in resolved.types.items())
    return cost / 1e6 / usable_cores()


def keys_table(recipe: BuildRecipe) -> RenderableType:
    """What a recipe states, as written."""
    return facts_table([(name, _shown(value)) for name, value in _flat(recipe.as_data()).items()])


def resolved_dict(resolved: Resolved) -> dict[str, Any]:
    """What a recipe comes to as plain data; its `allocation` can be given to quantize."""
    ledger, recipe = resolved.ledger, resolved.recipe
    bits = ledger.bits_per_weight
    return {
        "recipe": recipe.as_data(),
        "inputs": {str(path): digest for path, digest in resolved.prepared.digests.items()},
        "outputs": [str(path) for path in recipe.outputs],
        "file_bytes": resolved.file_bytes,
        "quantizing_seconds": round(quantizing_seconds(resolved), 3),
        "bytes": ledger.size,
        "capacity_bytes": ledger.capacity,
        "bits_per_weight": None if bits is None else float(bits),
        "loss": ledger.loss,
        "loss_source": resolved.loss_source,
        "auto": plain(rules_data(resolved)),
        "allocation": dict(resolved.allocation.types),
    }


def built_report(built: Built) -> RenderableType:
    """A finished build: what its recipe came to, the check, and the benchmarks."""
    parts: list[RenderableType] = [resolved_report(built.resolved, built=True)]
    if built.check is not None:
        parts += ["", check_table(built.check)]
    if built.benchmarks:
        parts += ["", paired_table(built.benchmarks, "original", "file")]
    return Group(*parts)


def built_dict(built: Built) -> dict[str, Any]:
    """A finished build as plain data."""
    return resolved_dict(built.resolved) | {
        "sha256": built.written.sha256,
        "quantized": len(built.quantized),
        "reused": len(built.reused),
        "seconds": dict(built.seconds),
        "check": plain(built.check),
        "benchmarks": {name: result.as_data() for name, result in built.benchmarks.items()},
    }


def findings_table(findings: Sequence[Finding]) -> Table:
    """What a verification found."""
    columns = (
        Field("", read=lambda one: one.level.value),
        Field("of", read=lambda one: one.what),
        Field("finding", read=lambda one: _short_digests(one.text)),
    )
    return table_of(findings, columns)


def changes_table(changes: Sequence[Change], one: str, other: str) -> Table:
    """Keys or tensors that differ, and their values in both recipes."""
    rows = [(name, _shown(before), _shown(after)) for name, before, after in changes]
    return Table((Column(""), Column(one), Column(other)), rows)


def replay_table(compared: Sequence[Comparison]) -> Table:
    """What a replay compared."""
    columns = (
        Field("", read=lambda one: "same" if one.equal else "unknown" if one.depends else "DIFFERS"),
        Field("of", read=lambda one: one.what),
        Field("recorded", read=lambda one: _short_digests(one.recorded)),
        Field("found", read=lambda one: "" if one.equal else _short_digests(one.found)),
    )
    return table_of(compared, columns)


def _short_digests(text: str) -> str:
    """The text with 16 digits of each SHA-256, so that a line of it fits a terminal.

    >>> _short_digests("9 bytes, SHA-256 " + "0123456789abcdef" * 4)
    '9 bytes, SHA-256 0123456789abcdef…'
    """
    return _DIGEST.sub("\\1…", text)


def spliced_dict(spliced: Spliced) -> dict[str, Any]:
    """A spliced file as plain data."""
    return {
        "file": plain(spliced.written),
        "taken": {str(path): list(names) for path, names in spliced.taken.items()},
        "lossy": list(spliced.lossy),
        "in_turn": [str(path) for path in spliced.in_turn],
    }


def changed_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Change]:
    """The keys of two recipes, as plain data, whose values differ.

    >>> changed_keys({"budget": "5", "check": {"windows": 4}}, {"budget": "4", "check": {"windows": 4}})
    [('budget', '5', '4')]
    """
    before, after = _flat(one), _flat(other)
    names = dict.fromkeys((*before, *after))
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _rule_title(number: int, rule: ResolvedRule) -> str:
    target = "" if rule.rule.type is None else f" to {rule.rule.type}"
    return f"auto rule {number}: {len(rule.units)} by {rule.rule.rule} raised{target}"


def _rule_table(rule: ResolvedRule) -> Table:
    columns = (
        Field("raised", read=lambda one: one.unit),
        Field("score", figures=True, read=lambda one: f"{one.score:.4g}"),
        Field("tensors", read=lambda one: roles_text((*one.types, *one.kept))),
        Field("types", spare=1, read=lambda one: ", ".join(sorted({*one.types.values(), *one.kept.values()}))),
    )
    return table_of(rule.units, columns)


def _tensors_table(resolved: Resolved) -> Table:
    columns = (
        Field("tensor", read=lambda one: one.tensor),
        Field("type", read=lambda one: one.quant_type),
        Field("bytes", figures=True, read=lambda one: f"{one.size:,}"),
        Field("loss", figures=True, spare=1, read=lambda one: f"{one.loss:.3g}"),
    )
    return table_of(resolved.ledger.entries, columns)
