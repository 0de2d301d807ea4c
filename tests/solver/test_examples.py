"""The examples in the solver's docstrings run and give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import raq_solver

MODULES = [found.name for found in pkgutil.walk_packages(raq_solver.__path__, "raq_solver.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("._knapsack")])
def test_examples_of(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    modules = [importlib.import_module(name) for name in MODULES if not name.endswith("._knapsack")]
    assert sum(bool(test.examples) for module in modules for test in doctest.DocTestFinder().find(module)) >= 80
