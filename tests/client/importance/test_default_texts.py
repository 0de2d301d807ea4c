from importlib.resources import files
from pathlib import Path

from raq_client.importance.default_texts import KINDS, default_texts
from raq_client.importance.imatrix_file import read_importance
from support.chat_models import CHATML, with_template
from support.commands import client


def test_each_kind_is_there_with_its_source_and_licence(model_path: Path) -> None:
    texts = default_texts(model_path)
    assert [text.name for text in texts] == list(KINDS)
    assert all(50_000 < len(text.content) <= 64_000 for text in texts)
    assert len({text.digest() for text in texts}) == len(KINDS)
    sources = (files("raq_client.importance") / "texts" / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"`{kind}.txt`" in sources or f"`{kind}.jsonl`" in sources for kind in KINDS)


def test_chats_are_as_the_model_reads_them(model_path: Path, tmp_path: Path) -> None:
    plain = next(text for text in default_texts(model_path) if text.name == "chat")
    assert not plain.special
    assert plain.content.startswith("user: How to protect my eyes")
    templated = with_template(tmp_path / "chat.gguf", CHATML)
    found = {text.name: text for text in default_texts(templated)}
    assert found["chat"].special
    assert found["chat"].content.startswith("<|im_start|>user\nHow to protect my eyes")
    assert found["chat"].content.count("<|im_start|>assistant") == 49
    assert not found["prose"].special


def test_importance_is_collected_from_them_without_a_text(model_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "own.imatrix.gguf"
    given = ("--windows", 2, "--context", 64, "--fisher", 0, "--threads", 1)
    result = client("imatrix", "collect", model_path, "-o", output, *given)
    assert result.code == 0, result.err
    assert "no --text was given" in result.err
    assert read_importance(output).datasets == KINDS
