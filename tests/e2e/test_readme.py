"""What README and the guide show runs as it stands."""

import json
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.cli.completion import FLAGS
from raq_client.files.profile_file import save_profile
from support.commands import client
from support.paths import ROOT
from support.services import profile

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMANDS = json.loads((ROOT / "client" / "raq_client" / "cli" / "reference.json").read_text(encoding="utf-8"))
EVERYWHERE = {"--help", "--help-all", "-h", *FLAGS}
README, GUIDE, SOLVER = PAGES["README.md"], PAGES["docs/guide.md"], PAGES["docs/solver.md"]


def test_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(3)
    sizes, losses = np.cumsum(random.integers(10, 90, (30, 4)), axis=1), random.random((30, 4))
    names, types = np.array([f"t{i}" for i in range(30)]), np.array(["a", "b", "c", "d"])
    np.savez(tmp_path / "table.npz", tensors=names, qtypes=types, bytes=sizes, losses=np.sort(losses)[:, ::-1])
    monkeypatch.chdir(tmp_path)
    plan = client("solve", "--problem", "table.npz", "--capacity-bytes", 3000, "--json")
    (tmp_path / "plan.json").write_text(plan.out, encoding="utf-8")
    (block,) = re.findall(r"<!-- certificate -->\n```python\n(.*?)```", SOLVER, re.DOTALL)
    exec(compile(block, "docs/solver.md", "exec"), {})
    loss, bound = map(float, re.findall(r"(?:loss|below) ([\d.e-]+)", capsys.readouterr().out))
    assert bound <= loss * (1 + 1e-9)
    assert bound >= 0.95 * loss


def test_the_service_from_python(server_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(profile(seed=7), tmp_path / "model.profile.json")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(from pathlib import Path\n\nimport raq_client\n.*?)```", GUIDE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(block.replace("127.0.0.1:8433", server_address), "docs/guide.md", "exec"), found)
    assert found["ledger"].size <= found["ledger"].capacity
    assert set(found["allocation"].types) == {tensor.name for tensor in profile(seed=7).tensors}


def test_the_road_from_python(
    server_address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_path: Path,
    fisher_path: Path,
    data: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-f16.gguf").symlink_to(model_path)
    (tmp_path / "imatrix.gguf").symlink_to(fisher_path)
    (tmp_path / "held-out.txt").write_text((data / "gsm8k.evaluation.txt").read_text()[:6000])
    (block,) = re.findall(r"<!-- python -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(block.replace("solver.example:8433", server_address), "docs/guide.md", "exec"), found)
    assert found["plan"].proven
    assert len(found["frontier"]) == 100
    assert (tmp_path / "out.gguf").stat().st_size > found["plan"].size


def _shown(page: str) -> Iterator[tuple[str, list[str]]]:
    """The commands in a page's shell blocks: name and further words, up to a pipe or redirection."""
    for block in re.findall(r"```sh\n(.*?)```", PAGES[page], re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\S*/)?raq(?:-client)? (.*)", line)
            words = shlex.split(found[1], comments=True) if found else []
            words = list(takewhile(lambda word: word not in {">", "|", "&&", "&", ";"}, words))
            if words:
                count = 2 if " ".join(words[:2]) in COMMANDS else 1
                yield " ".join(words[:count]), words[count:]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_shown_exists(page: str) -> None:
    for name, words in _shown(page):
        assert name in COMMANDS, name
        rows = [row for rows in COMMANDS[name]["panels"].values() for row in rows]
        known = {option for row in rows for option in (*row[3], *(row[4] or ()))} | EVERYWHERE
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert used <= known, (name, used - known)


def test_the_commands_of_the_guide_are_seen() -> None:
    assert len(list(_shown("docs/guide.md"))) > 20


@pytest.mark.parametrize("page", PAGES)
def test_every_document_named_is_there(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target


def test_readme_is_a_page() -> None:
    assert len(README.partition("## Not yet")[0].splitlines()) <= 100
    assert len(re.findall(r"!\[", README)) == 1
