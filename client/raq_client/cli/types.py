"""`raq-client types`: the quant types to choose from."""

from typing import TYPE_CHECKING

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json

if TYPE_CHECKING:
    from raq_client.models.type_facts import TypeFacts


def types(as_json: options.Json = False) -> None:
    """List the quant types: bits, blocks, importance, speed.

    The speed class is that of inference on a processor, compared with types of the same size: fast is arithmetic on
    packed numbers, medium a table of 16 values, slow a look-up of groups of weights. GPUs hardly notice it.

    Example: raq-client types
    """
    from raq_client.models.type_facts import type_facts
    from raq_client.reports.tables import Column, Table

    found = type_facts()
    if as_json:
        print_json([_plain(each) for each in found])
        return
    columns = [
        Column("type"),
        Column("bits", figures=True),
        Column("block", figures=True),
        Column("importance"),
        Column("speed"),
        Column("offered by auto", spare=1),
        Column("families", spare=2),
    ]
    rows = [
        [
            each.quant_type.name,
            f"{float(each.quant_type.bits_per_weight):g}",
            str(each.quant_type.weights_per_block),
            "needed" if each.needs_importance else "",
            each.speed,
            each.auto,
            ", ".join(each.families),
        ]
        for each in found
    ]
    OUT.print(Table(columns, rows))


def _plain(each: "TypeFacts") -> dict[str, object]:
    """The facts of a type for JSON."""
    return {
        "name": each.quant_type.name,
        "bits_per_weight": float(each.quant_type.bits_per_weight),
        "weights_per_block": each.quant_type.weights_per_block,
        "bytes_per_block": each.quant_type.bytes_per_block,
        "needs_importance": each.needs_importance,
        "speed": each.speed,
        "decoding": each.decoding,
        "auto": each.auto,
        "families": list(each.families),
    }
