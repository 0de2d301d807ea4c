"""The public surface of the solver."""

import ast
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


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, raq_solver; print([m for m in ('ortools', 'scipy', 'google', 'grpc') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
