"""Files read by ranges: faults of servers are tried again, a changed file is refused, no byte is read for nothing."""

import random
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from time import time

import numpy as np
import pytest

from raq_client.models import ranges
from raq_client.models.model_file import open_model
from raq_client.models.ranges import TRIES, KeptFile, RangeFile
from raq_client.models.remote import open_by_range
from raq_solver.errors import InvalidInput
from support.gguf_files import small_model, split_model
from support.range_server import Files, range_server

DATA = random.Random(1).randbytes(300_000)


@pytest.fixture
def files() -> Iterator[Files]:
    with range_server() as running:
        running.data["f"] = DATA
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited."""
    found: list[float] = []
    monkeypatch.setattr(ranges, "_sleep", found.append)
    return found


def _file(files: Files) -> RangeFile:
    return RangeFile(f"{files.address}/f", lambda: (f"{files.address}/f", {}))


def test_any_range_is_that_of_the_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    for file in (_file(files), KeptFile(tmp_path / "f")):
        assert file.size == len(DATA)
        assert file.first(10) == DATA[:10]
        assert file.first(10**6) == DATA
        assert file.read(0, 1) == DATA[:1]
        assert file.read(123, 45_678) == DATA[123 : 123 + 45_678]
        assert file.read(len(DATA) - 7, 7) == DATA[-7:]
    with pytest.raises(InvalidInput, match="has become shorter"):
        KeptFile(tmp_path / "f").read(len(DATA) - 7, 8)


def test_faults_of_a_server_are_tried_again_after_the_time_that_it_asks_for(files: Files, waits: list[float]) -> None:
    files.faults += [(503, None), (429, "7"), (500, formatdate(time() + 20, usegmt=True)), (502, "100000")]
    assert _file(files).read(5, 100) == DATA[5:105]
    assert (waits[0], waits[1], waits[3]) == (0.5, 7.0, 120.0)
    assert 18 < waits[2] <= 20


def test_a_cut_connection_goes_on_where_it_was_cut(files: Files, waits: list[float]) -> None:
    file = _file(files)
    assert file.size == len(DATA)
    files.faults += [100_000, 50_000]
    assert file.read(0, 200_000) == DATA[:200_000]
    assert files.asked[1:] == [(150_000, 50_000)]
    assert len(waits) == 2


@pytest.mark.parametrize("fault", [(503, None), 0])
def test_tries_are_bounded(files: Files, waits: list[float], fault: tuple[int, None] | int) -> None:
    files.faults += [fault] * 50
    with pytest.raises(InvalidInput, match=rf"/f: can't be read: .*{TRIES} times; try again later"):
        _file(files).read(0, 1000)
    assert len(waits) == TRIES - 1
    assert len(files.faults) == 50 - TRIES


def test_what_no_try_mends_is_not_tried_again(files: Files, waits: list[float]) -> None:
    for status in (401, 403, 404, 410):
        files.faults.append((status, None))
        with pytest.raises(InvalidInput, match=f"the server answers {status}"):
            _file(files).read(0, 10)
    assert not waits
    files.ranges = False
    with pytest.raises(InvalidInput, match="sends no ranges of files; download the whole file"):
        _file(files).read(0, 10)
    assert not waits


def test_an_address_that_has_ended_is_asked_for_again(files: Files) -> None:
    asked: list[int] = []

    def find() -> tuple[str, dict[str, str]]:
        asked.append(1)
        return f"{files.address}/f", {}

    file = RangeFile("f", find)
    assert file.read(0, 9) == DATA[:9]
    files.faults.append((403, None))
    assert file.read(9, 9) == DATA[9:18]
    assert len(asked) == 2
    files.faults += [(403, None)] * 2
    with pytest.raises(InvalidInput, match="answers 403"):
        file.read(0, 9)


@pytest.mark.parametrize("how", ["version", "longer", "shorter"])
def test_a_file_that_changes_meanwhile_is_refused(files: Files, how: str) -> None:
    file = _file(files)
    assert file.read(0, 100) == DATA[:100]
    if how == "version":
        files.version = '"two"'
    else:
        files.data["f"] = DATA + b"x" if how == "longer" else DATA[:150]
    with pytest.raises(InvalidInput, match="/f: the file has changed on the server"):
        file.read(200, 100)


def test_the_tensors_of_a_remote_model_are_those_of_the_file(files: Files, tmp_path: Path) -> None:
    local = open_model(small_model(tmp_path / "m.gguf"))
    files.data["m.gguf"] = local.path.read_bytes()
    remote = open_by_range(Path(f"{files.address}/m.gguf"))
    assert (remote.tensors, remote.metadata, remote.alignment) == (local.tensors, local.metadata, local.alignment)
    for tensor in local.tensors:
        rows = tensor.rows // 2
        np.testing.assert_array_equal(remote.stored(tensor, rows), local.stored(tensor, rows))
        np.testing.assert_array_equal(remote.weights(tensor), local.weights(tensor))
    renamed = remote.renamed({"output.weight": "other.weight"}, remote.metadata)
    np.testing.assert_array_equal(renamed.stored(renamed.tensors[0]), local.stored(local.tensor("output.weight")))
    assert open_by_range(local.path).fingerprint() == local.fingerprint()


def test_any_shard_leads_to_all(files: Files, tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    files.data |= {path.name: path.read_bytes() for path in shards}
    local = open_model(shards[0])
    for shard in shards:
        remote = open_by_range(Path(f"{files.address}/{shard.name}"))
        for tensor in local.tensors:
            np.testing.assert_array_equal(remote.stored(tensor), local.stored(tensor))
    del files.data[shards[1].name]
    with pytest.raises(InvalidInput, match=r"00002-of-00003.*404"):
        open_by_range(Path(f"{files.address}/{shards[0].name}"))


def test_what_is_known_of_a_remote_model_changes_with_it(files: Files, tmp_path: Path) -> None:
    files.data["m.gguf"] = small_model(tmp_path / "m.gguf").read_bytes()
    path = Path(f"{files.address}/m.gguf")
    before = open_by_range(path).fingerprint()
    assert open_by_range(path).fingerprint() == before
    files.version = '"two"'
    assert open_by_range(path).fingerprint() != before
    files.data["m.gguf"] = files.data["m.gguf"][:-1000]
    with pytest.raises(InvalidInput, match="cut off"):
        open_by_range(path)
