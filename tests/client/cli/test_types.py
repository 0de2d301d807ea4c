"""`raq-client types`: the catalogue, and the same facts as the documentation states."""

from itertools import takewhile

from raq_client.models.type_facts import type_facts
from support.commands import client
from support.paths import ROOT


def test_every_type_of_the_documentation_has_the_facts_stated_there() -> None:
    lines = (ROOT / "docs" / "native.md").read_text(encoding="utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("| type | bits per weight | block |"))
    table = takewhile(lambda line: line.startswith("|"), lines[begin + 2 :])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    documented = {row[0]: row[1:] for row in rows}
    assert len(documented) >= 20
    for facts in type_facts():
        if facts.quant_type.name not in documented:
            continue
        bits, block, needs, decoding, auto, families = documented[facts.quant_type.name][:6]
        known = facts.quant_type
        assert (float(bits), int(block)) == (float(known.bits_per_weight), known.weights_per_block)
        assert (needs == "yes") == facts.needs_importance
        assert (decoding, auto.replace("–", "")) == (facts.decoding, facts.auto)
        assert families.replace("–", "") == ", ".join(facts.families)


def test_the_command_lists_them() -> None:
    found = client("types", "--json")
    assert found.code == 0
    by_name = {each["name"]: each for each in found.json}
    assert by_name["IQ2_XXS"]["needs_importance"]
    assert by_name["Q4_K"]["speed"] == "fast"
    shown = client("types").out
    assert all(name in shown for name in by_name)
