"""The one door for files from elsewhere."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.compensation.gram_file import read_gram
from raq_client.engine.texts import read_texts
from raq_client.evaluation.kl_baseline import open_baseline
from raq_client.files import problem_file
from raq_client.files.problem_file import read_plain_problem
from raq_client.files.profile_file import load_profile
from raq_client.files.reading import damage_named, parse_json, read_text
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.read_table import read_table
from raq_client.recipes.allocation_file import read_allocation
from raq_client.recipes.build_recipe import read_any_recipe
from raq_client.sensitivity.published import read_published
from raq_solver.errors import Fault, InvalidInput

READERS: dict[str, Callable[[Path], Any]] = {
    "model.gguf": open_model,
    "model": read_table,
    "shapes.csv": read_table,
    "imatrix.gguf": read_importance,
    "statistics.gram": read_gram,
    "profile.json": load_profile,
    "problem.npz": read_plain_problem,
    "problem.json": read_plain_problem,
    "plan.json": lambda path: read_allocation(path, ()),
    "recipe.toml": read_any_recipe,
    "text.txt": lambda path: read_texts([path]),
    "kld.csv": read_published,
    "base.kld": open_baseline,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_by_name_and_not_waited_for(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(InvalidInput) as refused:
        READERS[name](path)
    assert str(path) in str(refused.value)
    assert "is a pipe, not a file" in str(refused.value)


def test_what_a_shell_substitutes_for_a_process_is_a_pipe_too() -> None:
    read, written = os.pipe()
    try:
        with pytest.raises(InvalidInput, match=rf"/dev/fd/{read}: is a pipe"):
            read_text(Path(f"/dev/fd/{read}"))
    finally:
        os.close(read)
        os.close(written)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ("9" * 5_000, "it has a number of more than 4,300 digits"),
        ("{", "Expecting property name"),
    ],
)
def test_whatever_a_parser_raises_is_one_fault(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"x.json: can't be read as a plan: {reason}"):
        parse_json(text, "x.json", "a plan")


def test_reasons_are_short_and_faults_pass_unchanged() -> None:
    with pytest.raises(InvalidInput) as refused, damage_named("x"):
        raise ValueError("y" * 10_000)
    assert len(str(refused.value)) < 300
    own = InvalidInput(Fault("here", "this"))
    with pytest.raises(InvalidInput) as same, damage_named("x"):
        raise own
    assert same.value is own


def test_line_ends_are_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"a\r\nb\rc\n\xe2\x80\xa8")
    assert read_text(path) == "a\r\nb\rc\n\u2028"


def test_a_small_archive_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_file, "MOST_BYTES", 2**20)
    path = tmp_path / "problem.npz"
    np.savez(path, tensors=["a"], qtypes=["x"], bytes=[[1]], losses=[[0.5]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("unneeded.npy", "w") as file:
        file.write(bytes(2**22))
    assert read_plain_problem(path, 1).capacity_bytes == 1, "what is not needed is not unpacked"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("weights.npy", "w") as file:
        file.write(bytes(2**20))
    with pytest.raises(InvalidInput, match=r"its arrays unpack to 1,049,\d{3} bytes; at most 1,048,576 are read"):
        read_plain_problem(path, 1)
