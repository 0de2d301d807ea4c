from importlib.resources import files
from pathlib import Path

from raq_client.importance.default_texts import KINDS, default_texts
from raq_client.importance.imatrix_file import read_importance
from support.commands import client


def test_each_kind_is_there_with_its_source_and_licence() -> None:
    texts = default_texts()
    assert [text.name for text in texts] == list(KINDS)
    assert all(50_000 < len(text.content) <= 64_000 for text in texts)
    assert len({text.digest() for text in texts}) == len(KINDS)
    sources = (files("raq_client.importance") / "texts" / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"`{kind}.txt`" in sources for kind in KINDS)


def test_importance_is_collected_from_them_without_a_text(model_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.imatrix.gguf"
    given = ("--windows", 2, "--context", 64, "--fisher", 0, "--threads", 1)
    result = client("imatrix", "collect", model_path, "-o", output, *given)
    assert result.code == 0, result.err
    assert "no --text was given" in result.err
    assert read_importance(output).datasets == KINDS
