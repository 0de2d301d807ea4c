"""The tutorial's commands, as they stand there, with the small model in place of the real one."""

from pathlib import Path

import pytest
import yaml

from support.gguf_files import MODEL_4M
from support.tutorial import REPOSITORY, run_tutorial, shown_commands


def test_the_tutorial_leads_to_a_folder_to_be_published(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    codes = {}
    for ran in run_tutorial(MODEL_4M, tmp_path, text_bytes=6000):  # a few windows
        codes[ran.words[1]] = ran.code
        assert ran.code in {0, 3}, ran.out
    assert list(codes) == ["base", "imatrix", "run", "publish"]
    (folder,) = tmp_path.glob("publish/me/*")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["base_model"] == REPOSITORY
    assert "| llama.cpp's Q4_K_M |" in card
    assert str(tmp_path) not in card
    published = {path.name for path in folder.iterdir()}
    named = {word for words in shown_commands() for word in words if word.endswith((".gguf", ".manifest.json"))}
    assert named <= published
