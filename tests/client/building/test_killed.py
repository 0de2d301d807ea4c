"""Builds killed at any point, without a chance to clean up: started again, they end with the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raq_client.files.manifest import file_digest
from raq_client.recipes.build_recipe import read_build_recipe
from support.builds import built, project, recipe
from support.tiny_models import CASES, write_tiny

BUILD = """
import os, signal, sys
from pathlib import Path
from raq_client.building.build import HowToBuild, build
from raq_client.building.workshop import Workshop
from raq_client.recipes.build_recipe import read_build_recipe
from raq_client.solver_client.local import LocalSolver

count, last = 0, int(sys.argv[3])
def progress(step):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)

how = HowToBuild(Workshop(Path(sys.argv[2])), threads=1)
build(read_build_recipe(sys.argv[1]), how, LocalSolver(), progress=progress)
print(count)
"""


def _build(path: Path, store: Path, last: int = 0) -> subprocess.CompletedProcess[str]:
    """A build in a process of its own, killed at its step `last`."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(store / "xdg")}
    command = [sys.executable, "-c", BUILD, str(path), str(store), str(last)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def _steps(path: Path, store: Path) -> int:
    """The steps of a whole build."""
    done = _build(path, store)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_build_killed_while_it_writes_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    path = recipe(folder)
    whole = built(read_build_recipe(recipe(folder, "whole", name="small")), tmp_path / "whole")
    steps = 1 + len(whole.quantized)  # steps of measuring come first
    killed = _build(path, tmp_path / "store", 8 + steps)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "small.out.gguf").exists()
    assert [file for file in (tmp_path / "store" / "tensors").rglob("*") if file.is_file()]
    again = built(read_build_recipe(path), tmp_path / "store")
    assert again.reused
    assert again.written.sha256 == whole.written.sha256
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = sys.argv[2:]
from raq_client.cli.app import main
main()
"""


def test_a_file_that_cannot_be_written_to_its_end_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """The system refuses bytes while the file is written, as a disk does that others have filled meanwhile."""
    folder = project(tmp_path / "project")
    path, store = recipe(folder), tmp_path / "store"
    whole = built(read_build_recipe(recipe(folder, "whole", name="small")), tmp_path / "whole")
    before = sorted(folder.iterdir())
    command = [sys.executable, "-c", LIMITED, str(whole.written.size - 1000), "recipe", "build", str(path)]
    refused = subprocess.run([*command, "--store", str(store)], check=False, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert "small.out.gguf: can't be written" in refused.stderr
    assert sorted(folder.iterdir()) == before
    again = built(read_build_recipe(path), store)
    assert again.reused, "what was quantized before is kept"
    assert again.written.sha256 == whole.written.sha256


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, object]:
    """A recipe with every stage: 60 windows of text, of which the first 50 are saved, and Fisher information of two."""
    model = write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf", CASES["llama, experts"])
    text = str(data / "gsm8k.calibration.txt")
    collecting = {"texts": [text], "context": 16, "windows": 60, "fisher": 2}
    return {"model": str(model), "imatrix": None, "importance": collecting, "types": ["Q4_0", "Q8_0"], "budget": "6.0"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, object]) -> tuple[int, str]:
    """The steps of a build that is not killed, and the SHA-256 of its file."""
    folder = tmp_path_factory.mktemp("whole")
    return _steps(recipe(folder, **keys), folder / "store"), file_digest(folder / "small.out.gguf")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", [0, 30, 55, 60, 0.5, 0.7, 0.85, 0.95, 1.0])
def test_a_build_killed_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, keys: dict[str, object], whole: tuple[int, str], part: float
) -> None:
    """Killed at a step, or at that part of all steps."""
    total, expected = whole
    last = 1 + part if isinstance(part, int) else round(part * total)
    path, store = recipe(tmp_path, **keys), tmp_path / "store"
    assert _build(path, store, int(last)).returncode == -signal.SIGKILL
    assert not (tmp_path / "small.out.gguf").exists()
    left = _steps(path, store)
    assert file_digest(tmp_path / "small.out.gguf") == expected
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    if last > 55:
        assert left < total, "what was done before is not done again"


@pytest.mark.slow
def test_two_builds_of_one_output_at_once_end_with_one_file(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    path = recipe(folder)
    command = [sys.executable, "-c", BUILD, str(path), str(tmp_path / "store"), "0"]
    running = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(4)
    ]
    errors = [(process.communicate()[1], process.returncode) for process in running]
    assert any(code == 0 for _, code in errors)
    for text, code in errors:
        assert code == 0 or "is being written by" in text
    whole = built(read_build_recipe(recipe(folder, "whole", name="small")), tmp_path / "whole")
    assert file_digest(folder / "small.out.gguf") == whole.written.sha256
