"""Every `>>>` example of the packages runs and prints what it says; every public name is in the reference."""

import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import raq
import raq_solver
from support.paths import ROOT

FOLDERS = ("solver", "proto", "server", "client", "bindings_native")


def _modules_with_examples() -> Iterator[str]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("raq*/**/*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                yield ".".join(path.relative_to(ROOT / folder).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(_modules_with_examples()))
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # examples open tests/data/…
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("package", [raq, raq_solver], ids=lambda package: package.__name__)
def test_the_reference_names_all_that_is_public(package: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / f"{package.__name__}.md").read_text(encoding="utf-8")
    assert set(package.__all__) <= set(re.findall(r"\w+", page))
