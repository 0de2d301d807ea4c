"""The public surface of the solver."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import raq_solver


def test_all_lists_every_name_once() -> None:
    tree = ast.parse(Path(raq_solver.__file__).read_text())
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(raq_solver.__all__)
    assert len(set(imported)) == len(imported)
    assert all(hasattr(raq_solver, name) for name in raq_solver.__all__)


def test_every_function_and_class_has_an_example() -> None:
    """`just test` runs them; a class or function without one is not documented well enough for the API's pages."""
    public = {name: getattr(raq_solver, name) for name in raq_solver.__all__}
    documented = {name: each for name, each in public.items() if inspect.isclass(each) or inspect.isfunction(each)}
    assert len(documented) > 70
    assert not [name for name, each in documented.items() if ">>>" not in (each.__doc__ or "")]


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, raq_solver; print([m for m in ('ortools', 'scipy', 'google', 'grpc') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
