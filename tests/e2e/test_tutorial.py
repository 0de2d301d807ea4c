"""The tutorial's commands, as they stand there, with the small model in place of the real one."""

import os
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


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_on_the_real_model_it_takes_ten_minutes_of_two_processors(tmp_path: Path) -> None:
    """Prints times; RAQ_TUTORIAL_MODEL=SmolLM2-F16.gguf pytest -m slow -s tests/e2e/test_tutorial.py."""
    model = os.environ.get("RAQ_TUTORIAL_MODEL")
    if model is None:
        pytest.skip("set RAQ_TUTORIAL_MODEL to SmolLM2-135M-Instruct in F16 to run it")
    spent = 0.0
    for ran in run_tutorial(Path(model), tmp_path):
        print(f"| {' '.join(ran.words[1:3])} | {ran.processor:.1f} | {ran.seconds:.1f} |", flush=True)
        assert ran.code in {0, 3}, ran.out
        spent += ran.processor
    assert spent < 1_000, "processor seconds; on the clock it depends on what else the machine does"
