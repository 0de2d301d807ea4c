"""Chats as calibration text: rendered, collected, and both in one go."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.engine.windows import Text
from raq_client.importance.imatrix_file import read_importance
from support.chat_models import QWEN, with_template
from support.checks import check
from support.commands import client
from support.engine_models import MODEL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_template(tmp_path_factory.mktemp("chat") / "model.gguf", QWEN)


def _chats(path: Path, data: Path) -> Path:
    rows = [json.loads(line) for line in (data / "gsm8k.train.head.jsonl").read_text().splitlines()]
    chats = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in rows
    ]
    path.write_text("\n".join(map(json.dumps, chats)))
    return path


def test_chats_given_directly_count_as_their_rendering_does(model: Path, data: Path, tmp_path: Path) -> None:
    chats, text = _chats(tmp_path / "chats.jsonl", data), tmp_path / "chats.txt"
    rendered = client("imatrix", "render", chats, "--model", model, "-o", text, "--json")
    assert rendered.code == 0, rendered.err
    assert rendered.json == {"output": str(text), "records": 12, "bytes": text.stat().st_size}
    assert text.read_text().count("<|im_start|>assistant\n") == 12
    options = ("--context", 64, "--windows", 4, "--fisher", 0, "--threads", 1)
    found = {}
    for name, source, more in (
        ("direct", chats, ()),
        ("rendered", text, ("--parse-special",)),
        ("as plain text", text, ()),
    ):
        output = tmp_path / f"{name}.gguf"
        result = client("imatrix", "collect", model, "--text", source, "-o", output, *options, *more)
        assert result.code == 0, result.err
        found[name] = read_importance(output)
    assert found["direct"].digest() == found["rendered"].digest() != found["as plain text"].digest()
    counts = [entry.counts.tolist() for entry in found["direct"].entries.values()]
    assert np.unique(counts).tolist() == [4 * 64]


def test_check_and_run_read_chats_by_the_models_template(model: Path, data: Path, tmp_path: Path) -> None:
    """The figures are those of the rendered chats with special tokens, computed by the library."""
    chats, text, out = _chats(tmp_path / "chats.jsonl", data), tmp_path / "chats.txt", tmp_path / "out.gguf"
    assert client("imatrix", "render", chats, "--model", model, "-o", text).code == 0
    options = ("--text", chats, "--context", 64, "--windows", 4, "--json")
    types = ("--types", "Q4_0", "-b", "4.7", "--no-trial")
    run = client("run", model, *types, "-o", out, *options, "--threads", 1)
    assert run.code == 0, run.err
    checked = client("check", out, "--model", model, *options, "--threads", 1)
    assert checked.code == 0, checked.err
    rendered = Text(str(chats), text.read_text(encoding="utf-8"), special=True)
    expected = check(model, out, [rendered], context=64, windows=4, threads=1).overall.kl.value
    plain = check(model, out, [replace(rendered, special=False)], context=64, windows=4, threads=1)
    for found in (run.json["check"], checked.json):
        assert found["overall"]["kl"]["value"] == expected != plain.overall.kl.value


def test_mistakes_are_one_sentence_before_anything_is_written(model: Path, data: Path, tmp_path: Path) -> None:
    chats, output = _chats(tmp_path / "chats.jsonl", data), tmp_path / "out.txt"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{"no": "chat"}')
    for arguments, said in (
        ((chats, "--model", MODEL), "has no chat template (tokenizer.chat_template)"),
        ((bad, "--model", model), "bad.jsonl, line 2: no known form of record"),
        ((tmp_path / "none.jsonl", "--model", model), "can't be read as text"),
        ((chats,), "which model?"),
    ):
        result = client("imatrix", "render", *arguments, "-o", output)
        assert (result.code, output.exists()) == (2, False)
        assert said in result.err


def test_a_date_fixes_what_templates_write(data: Path, tmp_path: Path) -> None:
    dated = with_template(tmp_path / "dated.gguf", "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}")
    chats, output = tmp_path / "chats.jsonl", tmp_path / "out.txt"
    chats.write_text('{"prompt": "Hi"}')
    result = client("imatrix", "render", chats, "--model", dated, "-o", output, "--date", "2024-07-26")
    assert result.code == 0, result.err
    assert output.read_text() == "26 Jul 2024: Hi"
