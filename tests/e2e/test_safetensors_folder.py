"""Folders of safetensors as models: libllama loads what was converted, with the outputs of raq's own network."""

from pathlib import Path

import pytest

from support.commands import client
from support.paths import DATA


@pytest.mark.parametrize("name", ["qwen35", "qwen3moe", "gemma3"])
def test_a_folder_is_collected_quantized_and_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text((DATA / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:4000], encoding="utf-8")
    folder, imatrix = DATA / "conversion" / name, tmp_path / "imatrix.gguf"
    short = ("-t", text, "--windows", 3, "--context", 64)
    # Fisher information is refused where raq's logits are not libllama's.
    collected = client("imatrix", "collect", folder, *short, "--fisher", 2, "-o", imatrix)
    assert collected.code == 0, collected.err
    assert "Fisher information of 2" in collected.out + collected.err
    ran = client("run", folder, "-b", 9, "-i", imatrix, *short, "--no-trial", "-o", tmp_path / "out.gguf", "--json")
    assert ran.code in {0, 3}, ran.err
    assert 0 < ran.json["check"]["overall"]["kl"]["value"] < 0.01
