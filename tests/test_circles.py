"""No module imports itself by way of others, imports inside functions counted too."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from support.paths import ROOT

PACKAGES = {
    "raq": "client",
    "raq_client": "client",
    "raq_server": "server",
    "raq_proto": "proto",
    "raq_solver": "solver",
}


def modules() -> dict[str, Path]:
    found = {}
    for package, top in PACKAGES.items():
        for path in (ROOT / top / package).rglob("*.py"):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What is imported at run time, as (module, name)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module and child.level == 0:
            yield from ((child.module, alias.name) for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        yield from imported(child)


def test_modules_do_not_import_in_circles() -> None:
    known = modules()
    assert len(known) > 200
    graph = {
        name: {
            target
            for module, part in imported(ast.parse(path.read_text(encoding="utf-8")))
            if (target := f"{module}.{part}" if f"{module}.{part}" in known else module) in known and target != name
        }
        for name, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None
