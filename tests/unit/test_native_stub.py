from pathlib import Path

import pytest

from raq_native import _raq_native

NATIVE = Path(__file__).resolve().parents[2] / "bindings_native"
COMMAND = (
    "python -m nanobind.stubgen -m raq_native._raq_native -p bindings_native/stub.patterns "
    "-o bindings_native/raq_native/_raq_native.pyi"
)


def test_the_committed_stub_is_the_generated_one() -> None:
    stubgen = pytest.importorskip("nanobind.stubgen")
    patterns = stubgen.load_pattern_file(str(NATIVE / "stub.patterns"))
    generator = stubgen.StubGen(_raq_native, patterns=patterns, quiet=True)
    generator.put(_raq_native)
    committed = (NATIVE / "raq_native" / "_raq_native.pyi").read_text(encoding="utf-8")
    assert generator.get() == committed, f"regenerate it: {COMMAND}"
