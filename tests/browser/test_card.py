"""The model card of a built file, shown before it is written."""

from pathlib import Path

import pytest

from support.browsers import Browser
from support.commands import client
from support.dashboards import model_folder, running


@pytest.mark.slow
def test_the_preview_is_the_card_that_is_written(page: Browser, browser_cache: Path, tmp_path: Path) -> None:
    root = model_folder(tmp_path / "card")
    manifest = root / "a.manifest.json"
    build = ("run", root / "wiki-math-4M-f16.gguf", "-b", "5.0", "--types", "Q8_0,Q4_0", "--no-trial")
    assert client(*build, "-o", root / "a.gguf", "--manifest", manifest, "--json").code == 0
    card = tmp_path / "README.md"
    assert client("card", manifest, "--base-model", "org/model", "-o", card).code == 0
    with running(root, browser_cache) as dashboard:
        page.open(dashboard.url)
        page.go("compare")
        page.until("return document.querySelector('[aria-label=\"Model card of a.gguf\"]')")
        page.element('[aria-label="Model card of a.gguf"]').click()
        page.set("#card-base", "org/model")
        page.element("#card button.primary").click()
        page.until("return document.getElementById('card-text').textContent.startsWith('---')")
        assert page.run("return document.getElementById('card-text').textContent") == card.read_text(encoding="utf-8")
        assert page.axe() == []
    assert not (root / "README.md").exists()
