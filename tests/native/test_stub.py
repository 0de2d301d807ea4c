from types import ModuleType

import pytest

from raq_native import _raq_native
from raq_solver.backends import _knapsack
from support.paths import ROOT


@pytest.mark.parametrize(
    ("module", "stub", "patterns"),
    [
        (_raq_native, "bindings_native/raq_native/_raq_native.pyi", "bindings_native/stub.patterns"),
        (_knapsack, "solver/raq_solver/backends/_knapsack.pyi", None),
    ],
    ids=["quantizer", "knapsack"],
)
def test_the_committed_stub_is_the_generated_one(module: ModuleType, stub: str, patterns: str | None) -> None:
    stubgen = pytest.importorskip("nanobind.stubgen")
    loaded = stubgen.load_pattern_file(str(ROOT / patterns)) if patterns else []
    generator = stubgen.StubGen(module, patterns=loaded, quiet=True)
    generator.put(module)
    command = f"python -m nanobind.stubgen -m {module.__name__} -o {stub}" + (f" -p {patterns}" if patterns else "")
    assert generator.get() == (ROOT / stub).read_text(encoding="utf-8"), f"regenerate it: {command}"
