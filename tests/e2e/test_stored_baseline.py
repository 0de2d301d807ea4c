"""A baseline saved once, and checks against it without the original."""

import struct
from pathlib import Path

import pytest

from raq_client.engine.windows import Text
from raq_client.evaluation.kl_baseline import open_baseline, write_baseline
from raq_client.models.gguf_header import StoredValue, encode_header
from raq_client.models.model_file import open_model, read_header
from support.commands import client


@pytest.fixture(scope="module")
def quantized(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantized") / "q.gguf"
    assert client("run", model_path, "-b", "4.6", "-o", out, "--types", "Q8_0,Q4_0").code == 0
    return out


@pytest.fixture(scope="module")
def text(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


def test_a_saved_baseline_stands_for_model_and_text(
    model_path: Path, quantized: Path, text: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "base.kld"
    arguments = ("-m", model_path, "-t", text, "--context", "128")
    first = client("check", quantized, *arguments, "--save-baseline", saved, "--json")
    assert first.code == 0, first.err
    later = client("check", quantized, "--baseline", saved, "--json")
    assert later.code == 0, later.err
    assert later.json["overall"] == first.json["overall"]
    direct = client("check", quantized, *arguments, "--json").json["overall"]
    assert later.json["overall"]["windows"] == direct["windows"]
    assert later.json["overall"]["kl"]["value"] == pytest.approx(direct["kl"]["value"], abs=5e-5)
    assert later.json["overall"]["perplexity"]["value"] == pytest.approx(direct["perplexity"]["value"], rel=1e-9)
    failed = client("check", quantized, "--baseline", saved, "--windows", "2", "--max-kl", "0.0001")
    assert failed.code == 6
    assert "126 (2)" in failed.out  # of two windows of 128 tokens


def test_a_baseline_can_be_saved_alone(model_path: Path, text: Path, tmp_path: Path) -> None:
    saved, by_hand = tmp_path / "base.kld", tmp_path / "by_hand.kld"
    arguments = ("check", "-m", model_path, "-t", text, "--context", "128", "--windows", "3", "--save-baseline", saved)
    made = client(*arguments)
    assert (made.code, made.out) == (0, ""), made.err
    write_baseline(model_path, [Text("text", text.read_text(encoding="utf-8"))], by_hand, context=128, windows=3)
    assert saved.read_bytes() == by_hand.read_bytes()
    again = client(*arguments)
    assert (again.code, "exists" in again.err) == (2, True)
    assert client(*arguments, "--force").code == 0


def test_a_baseline_knows_its_model(model_path: Path, text: Path, tmp_path: Path) -> None:
    """Models with as many tokens, but others, are refused; a file of llama-perplexity names no model and is taken."""
    saved, other = tmp_path / "base.kld", tmp_path / "other.gguf"
    write_baseline(model_path, [Text("text", text.read_text(encoding="utf-8"))], saved, context=64, windows=2)
    content, header = model_path.read_bytes(), read_header(model_path)
    tokens = header.metadata["tokenizer.ggml.tokens"]
    changed = StoredValue(tokens.type_id, tokens.raw[:-1] + b"~")
    keys = dict(header.metadata) | {"tokenizer.ggml.tokens": changed}
    other.write_bytes(encode_header(keys, header.tensors, 32) + content[header.data_start :])
    origin = open_baseline(saved).origin
    assert origin is not None
    assert (origin.model, origin.model_sha256) == (open_model(model_path).name, open_model(model_path).fingerprint())
    result = client("check", model_path, "--baseline", saved)
    assert (result.code, f"the predictions of {origin.model}" in result.err) == (0, True), result.err
    refused = client("check", other, "--baseline", saved)
    assert (refused.code, "has other tokens than wiki-math-4M" in refused.err) == (2, True), refused.err
    saved.write_bytes(saved.read_bytes().rpartition(b"{")[0])
    assert open_baseline(saved).origin is None
    assert client("check", other, "--baseline", saved).code == 0


def test_bad_baselines_are_one_sentence_each(model_path: Path, quantized: Path, text: Path, tmp_path: Path) -> None:
    saved = tmp_path / "base.kld"
    windows, context, vocabulary = 2, 128, 4000  # of another model: this one's vocabulary has 4096 tokens
    rows = windows * (context - 1 - context // 2)
    head = b"_logits_" + struct.pack("<iii", context, vocabulary, windows)
    saved.write_bytes(head + bytes(4 * windows * context) + bytes(2 * rows * (vocabulary + 4)))
    cases: tuple[tuple[tuple[object, ...], str], ...] = (
        (("check", quantized, "--baseline", saved), "only models of one vocabulary can be compared"),
        (("check", quantized, "--baseline", text), "is not a file of log-probabilities"),
        (("check", quantized, "--baseline", tmp_path / "none"), "can't be read"),
        (("check", quantized, "--baseline", saved, "--context", "256"), "holds windows of 128 tokens, not of 256"),
        (("check",), "nothing to check"),
        (("check", quantized, "--baseline", saved, "-t", text), "leave --text out"),
    )
    for arguments, expected in cases:
        result = client(*arguments)
        assert result.code == 2, result.err
        assert expected in result.err
        assert len(result.err.splitlines()) == 1
    both = client("check", "--baseline", saved, "-m", model_path, "-t", text)
    assert [part in both.err for part in ("nothing to check", "--model", "--text")] == [True] * 3
