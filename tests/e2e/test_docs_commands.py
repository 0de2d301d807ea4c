"""Every shell line of the documents runs as it stands, with a small model in place of the reader's, or is marked."""

import re
import shlex
import shutil
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from support.commands import client, server
from support.fake_hub import Repo, hub_in_use
from support.paths import ROOT
from support.range_server import range_server
from support.reader_files import gguf_reader_files, safetensors_reader_files
from support.shown import PAGES, Line, shown_lines

FROM_SAFETENSORS = {"docs/hub.md"}
"""Pages whose model is a folder of safetensors; all others have a GGUF file."""
WRITTEN = {"-o", "--output", "--manifest", "--plot"}
"""Options that name what a command writes."""
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def to_run(page: str) -> list[Line]:
    """The lines of a page that this file runs: commands of raq without a mark."""
    return [line for line in shown_lines(page) if not line.not_run and line.run_by is None and words_of(line)]


def words_of(line: Line) -> list[str]:
    """The words of a command of raq; none if it is another program's."""
    return shlex.split(line.text) if re.match(r"raq(-client|-server)? ", line.text) else []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_reader_files(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("page", PAGES)
def test_every_line_is_run_or_marked(page: str) -> None:
    for line in shown_lines(page):
        if line.not_run:
            continue
        if line.run_by is not None:
            assert (ROOT / line.run_by).is_file(), f"{page}: {line.run_by}: is not there"
        elif installed := re.fullmatch(r"pip install '(?:raq|\.)\[(.+)\]'", line.text):
            assert set(installed[1].split(",")) <= EXTRAS, line.text
        else:
            assert words_of(line), f"{page}: {line.text}: is neither a command of raq nor marked"


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
def test_the_lines_run(page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "reader"
    if page in FROM_SAFETENSORS:
        safetensors_reader_files(folder)
    else:
        shutil.copytree(prepared, folder)
    model = (folder / "MODEL.gguf").read_bytes()
    monkeypatch.setenv("OLLAMA_MODELS", str(folder / "ollama"))
    monkeypatch.chdir(folder)
    with hub_in_use(tmp_path, monkeypatch) as hub, range_server() as files:
        hub.repos |= dict.fromkeys(("org/repo", "org/model"), Repo({"m-BF16.gguf": model}))
        hub.repos["ORG/REPO"] = Repo({"FILE.gguf": model})
        files.data["MODEL.gguf"] = model
        for line in to_run(page):
            for words in alternatives(line):
                run([word.replace("https://HOST", files.address) for word in words])


def alternatives(line: Line) -> list[list[str]]:
    """The words of a line; of one for part 0 of several, also those for the others."""
    words = words_of(line)
    if "--index" not in words:
        return [words]
    at = words.index("--index") + 1
    return [[*words[:at], str(part), *words[at + 1 :]] for part in range(int(words[words.index("--of") + 1]))]


def run(words: list[str]) -> None:
    target = Path(words[-1]) if words[-2] == ">" else None
    words = words if target is None else words[:-2]
    options = WRITTEN | ({"--gram"} if "collect" in words else set())
    if "--merge" not in words and ("--index" not in words or "0" in words):
        for option, value in pairwise(words):
            if option in options:
                remove(Path(value))  # an earlier line's: a page shows alternatives under one name
    done = (server if words[0] == "raq-server" else client)(*words[1:])
    assert done.code == 0, f"{shlex.join(words)}\n{done.code}: {done.err[-2000:]}"
    if target is not None:
        target.write_text(done.out, encoding="utf-8")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.slow
def test_the_committed_recipe_is_built_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = shown_lines("docs/recipes.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    run(words_of(line))
    assert (tmp_path / "OUT.gguf").is_file()
