"""The map in CONTRIBUTING is true: every place that it names exists."""

import re

from support.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOPS = ("solver", "proto", "client", "server", "bindings_native", "tests")


def test_every_place_named_exists() -> None:
    places = {name for name in re.findall(r"`([\w./]+)`", TEXT) if name.startswith(tuple(f"{top}/" for top in TOPS))}
    assert len(places) > 15
    assert [name for name in sorted(places) if not (ROOT / name).exists()] == []


def test_every_package_named_exists() -> None:
    names = set(re.findall(r"`raq_client\.(\w+)`", TEXT))
    table = TEXT[TEXT.index("| `raq_client.` |") : TEXT.index("The server:")]
    names |= {
        name for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    client = ROOT / "client" / "raq_client"
    assert names >= {"cli", "planning", "pipeline"}
    assert [
        name for name in sorted(names) if not (client / name).is_dir() and not (client / f"{name}.py").is_file()
    ] == []
