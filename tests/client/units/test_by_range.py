"""Parts of a model on a server: the bytes that one process makes of the file, and no tensor is read twice."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.models.table import FINGERPRINT
from raq_client.units.journal import work_folder
from support.builds import small_importance
from support.commands import client
from support.gguf_files import small_model
from support.range_server import Files, range_server

HEADER = 2**20
"""What is read of a file at first."""


@pytest.fixture
def files() -> Iterator[Files]:
    with range_server() as running:
        yield running


@pytest.fixture
def model(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = small_model(tmp_path / "small.gguf")
    small_importance(path, tmp_path / "imatrix.gguf")
    (tmp_path / "types.txt").write_text("^blk\\.\\d+\\.attn_q.weight$=Q4_K\n^output.weight$=Q6_K\n")
    files.data[path.name] = path.read_bytes()
    return path


def test_a_file_by_parts_that_read_what_they_need(model: Path, files: Files, tmp_path: Path) -> None:
    url, whole, output = f"{files.address}/{model.name}", tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    options = ["-a", tmp_path / "types.txt", "-i", tmp_path / "imatrix.gguf"]
    assert client("quantize", model, *options, "-o", whole).code == 0
    opened = []
    for index in range(4):
        files.asked.clear()
        found = client("quantize", url, *options, "-o", output, "--index", index, "--of", 4)
        assert found.code == 0, found.err
        header, *tensors = files.asked
        assert header == (0, min(HEADER, len(files.data[model.name])))
        opened += tensors
    merged = client("quantize", url, *options, "-o", output, "--merge")
    assert merged.code == 0, merged.err
    assert output.read_bytes() == whole.read_bytes()
    read = [byte for first, size in sorted(opened) for byte in (first, first + size)]
    assert read == sorted(read), "no range overlaps another"
    assert sum(size for _, size in opened) == sum(each.size for each in open_model(model).tensors)


def test_a_profile_by_parts_or_in_one_is_that_of_the_file(model: Path, files: Files, tmp_path: Path) -> None:
    url = f"{files.address}/{model.name}"
    options = ["--types", "Q4_K,Q8_0", "-i", tmp_path / "imatrix.gguf"]
    local, one, parts = (tmp_path / f"{name}.json" for name in ("local", "one", "parts"))
    assert client("profile", model, *options, "-o", local).code == 0
    assert client("profile", url, *options, "-o", one).code == 0
    for index in range(2):
        assert client("profile", url, *options, "-o", parts, "--index", index, "--of", 2).code == 0
    assert client("profile", url, *options, "-o", parts, "--merge").code == 0
    assert parts.read_bytes() == one.read_bytes()
    of_file, of_url = json.loads(local.read_text()), json.loads(one.read_text())
    assert of_file["provenance"].pop(FINGERPRINT)
    assert FINGERPRINT not in of_url["provenance"]
    assert of_url == of_file


def test_a_file_that_changes_between_parts_is_another_job(model: Path, files: Files, tmp_path: Path) -> None:
    url, output = f"{files.address}/{model.name}", tmp_path / "out.gguf"
    options = ["-a", tmp_path / "types.txt", "-o", output]
    assert client("quantize", url, *options, "--index", 0, "--of", 2).code == 0
    files.version = '"two"'
    assert client("quantize", url, *options, "--index", 1, "--of", 2).code == 0
    missing = client("quantize", url, *options, "--merge")
    assert missing.code == 2
    assert "run part 0 of 2 again" in " ".join(missing.err.split())
    assert len(list(work_folder(output).iterdir())) == 2
    assert not output.exists()


def test_faults_of_the_server_are_one_sentence(model: Path, files: Files, tmp_path: Path) -> None:
    url, output = f"{files.address}/{model.name}", tmp_path / "out.gguf"
    command = ["quantize", url, "-a", tmp_path / "types.txt", "-o", output]
    files.ranges = False
    refused = client(*command, "--index", 0, "--of", 2)
    assert refused.code == 2
    assert "download the whole file" in " ".join(refused.err.split())
    files.ranges = True
    feedback = client(*command, "--gram", tmp_path / "gram.gguf")
    assert feedback.code == 2
    assert "--gram: is checked against all bytes of its model" in " ".join(feedback.err.split())
    text = tmp_path / "types.txt"
    for other in (["check", model, "-m", url, "-t", text], ["imatrix", "collect", url, "-t", text, "-o", output]):
        found = client(*other)
        assert found.code == 2
        assert "Traceback" not in found.err
        assert "only profile and quantize read a model from a server" in " ".join(found.err.split())
