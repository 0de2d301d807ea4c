"""Split models: what goes into which file, and that libllama and gguf-py read the files."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.engine.loading import loaded
from raq_client.models.gguf_header import TensorInfo, encode_header
from raq_client.models.model_file import ModelFile, open_model, read_header
from raq_client.models.split import Split, parse_split_size, split_by_size, split_paths
from raq_client.models.writer import Blocks, planned_files, write_model
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, Reader, small_model, split_model

SMALL = 140_000
"""Bytes for each file that the small model needs several of."""


def stored_blocks(source: ModelFile) -> Blocks:
    def blocks(tensor: Tensor, _: QuantType) -> Iterator[np.ndarray]:
        yield source.stored(tensor)

    return blocks


def copied(source: ModelFile, out: Path, split: Split | None) -> tuple[Path, ...]:
    return write_model(out, source, {}, stored_blocks(source), split=split).paths


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 60), st.integers(0, 20), st.integers(0, 5))
def test_parts_are_full_in_order_and_within_the_limit(sizes: list[int], most: int, first: int, later: int) -> None:
    if max([first, *(later + size for size in sizes)]) > most:
        with pytest.raises(InvalidInput, match="are too small: the largest tensor or the metadata take"):
            split_by_size(sizes, most, first=first, later=later)
        return
    parts = split_by_size(sizes, most, first=first, later=later)
    taken = [first, *[later] * (len(parts) - 1)]
    used = [before + sum(sizes[at] for at in part) for before, part in zip(taken, parts, strict=True)]
    assert [at for part in parts for at in part] == list(range(len(sizes)))
    assert all(size <= most for size in used)
    assert all(size + sizes[after.start] > most for size, (_, after) in zip(used, pairwise(parts), strict=False))
    assert all(parts[1:])


@pytest.mark.parametrize("text", ["", "4", "0G", "-1G", "4T", "G", "1e9M", "4 GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidInput, match="write it as 500M or 4G"):
        parse_split_size(text)


def test_names_are_those_of_llama_gguf_split() -> None:
    names = ["a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf"]
    assert [str(path) for path in split_paths(Path("a/m.gguf"), 3)] == names
    assert [str(path) for path in split_paths(Path("a/m"), 3)] == names
    assert [str(path) for path in split_paths(Path("a/m-00001-of-00009.gguf"), 3)] == names


def test_gguf_py_reads_the_files(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "in.gguf"))
    paths = copied(source, tmp_path / "out.gguf", Split(SMALL))
    planned = planned_files(tmp_path / "out.gguf", source, {}, split=Split(SMALL))
    assert [(each.path, each.size) for each in planned] == [(path, path.stat().st_size) for path in paths]
    assert len(paths) > 2
    assert all(path.stat().st_size <= SMALL for path in paths)
    names = []
    for number, path in enumerate(paths):
        reader = Reader(path)
        keys = {key: field.contents() for key, field in reader.fields.items() if key.startswith("split.")}
        expected = {"split.no": number, "split.count": len(paths), "split.tensors.count": len(source.tensors)}
        assert keys == expected
        kinds = [reader.fields[key].types for key in expected]
        assert kinds == [[gguf.GGUFValueType.UINT16]] * 2 + [[gguf.GGUFValueType.INT32]]
        for tensor in reader.tensors:
            assert tensor.data.tobytes() == source.stored(source.tensor(tensor.name)).tobytes()
            names.append(tensor.name)
    assert names == [tensor.name for tensor in source.tensors]
    again = open_model(paths[1])
    assert again.metadata == source.metadata
    assert again.fingerprint() == source.fingerprint()


def test_one_file_gives_the_same_file_again(tmp_path: Path) -> None:
    """Split, split as it is, and joined."""
    source = open_model(small_model(tmp_path / "in.gguf", alignment=64))
    paths = copied(source, tmp_path / "a.gguf", Split(SMALL))
    kept = copied(open_model(paths[-1]), tmp_path / "b.gguf", Split())
    assert [path.read_bytes() for path in kept] == [path.read_bytes() for path in paths]
    (joined,) = copied(open_model(kept[0]), tmp_path / "joined.gguf", None)
    assert joined.read_bytes() == source.path.read_bytes()
    assert copied(source, tmp_path / "whole.gguf", Split()) == (tmp_path / "whole.gguf",)


def test_shards_of_others_are_kept(tmp_path: Path) -> None:
    there = split_model(tmp_path)
    kept = copied(open_model(there[1]), tmp_path / "out.gguf", Split())
    assert [path.name for path in kept] == [path.name.replace("big", "out") for path in there]
    for path, other in zip(kept, there, strict=True):
        assert [each.name for each in Reader(path).tensors] == [each.name for each in Reader(other).tensors]


def test_the_digests_are_those_of_the_files(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "in.gguf"))
    written = write_model(tmp_path / "o.gguf", source, {}, stored_blocks(source), split=Split(SMALL))
    assert [shard.sha256 for shard in written.shards] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in written.paths
    ]
    assert written.size == sum(path.stat().st_size for path in written.paths)
    assert written.path == written.paths[0]


def test_empty_tensors_come_along(tmp_path: Path) -> None:
    whole = open_model(small_model(tmp_path / "in.gguf"))
    infos = read_header(whole.path).tensors
    offset = infos[-1].offset + whole.tensors[-1].size
    placed = [TensorInfo("first", (0,), 0, 0), *infos[:4], TensorInfo("amid", (1, 0), 0, 0), *infos[4:]]
    placed.append(TensorInfo("last", (0, 4), 0, offset))
    data = whole.path.read_bytes()[read_header(whole.path).data_start :]
    path = tmp_path / "with.gguf"
    path.write_bytes(encode_header(whole.metadata, placed, 32) + data)
    source = open_model(path)
    assert len(source.empty) == 3
    paths = copied(source, tmp_path / "out.gguf", Split(SMALL))
    assert _names(open_model(paths[0])) == _names(source) == [(0, "first"), (4, "amid"), (8, "last")]
    (joined,) = copied(open_model(paths[0]), tmp_path / "joined.gguf", None)
    assert (
        joined.read_bytes()
        == (write_model(tmp_path / "same.gguf", source, {}, stored_blocks(source))).path.read_bytes()
    )


def _names(model: ModelFile) -> list[tuple[int, str]]:
    return [(at, info.name) for at, info in model.empty]


def test_all_files_appear_or_none(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "in.gguf"))
    calls = iter(range(100))

    def failing(tensor: Tensor, quant_type: QuantType) -> Iterator[np.ndarray]:
        if next(calls) == 6:
            raise KeyboardInterrupt
        yield from stored_blocks(source)(tensor, quant_type)

    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "o.gguf", source, {}, failing, split=Split(SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


def test_no_file_of_the_source_or_of_others_is_replaced(tmp_path: Path) -> None:
    source = open_model(split_model(tmp_path)[0])
    with pytest.raises(InvalidInput, match="is the model itself") as refused:
        write_model(tmp_path / "big.gguf", source, {}, stored_blocks(source), split=Split(), force=True)
    assert len(refused.value.faults) == 3
    other = tmp_path / "out-00002-of-00003.gguf"
    other.write_text("precious")
    with pytest.raises(InvalidInput, match="--force"):
        write_model(tmp_path / "out.gguf", source, {}, stored_blocks(source), split=Split())
    assert other.read_text() == "precious"
    assert not list(tmp_path.glob("out-00001*"))


def test_too_many_files_and_too_small_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_model(small_model(tmp_path / "in.gguf"))
    with pytest.raises(InvalidInput, match=r"files of 1,000 bytes are too small: .* take 131,"):
        planned_files(tmp_path / "o.gguf", source, {}, split=Split(1000))
    monkeypatch.setattr("raq_client.models.writer.MOST_FILES", 2)
    with pytest.raises(InvalidInput, match="that makes 3 files, at most 2 are possible"):
        planned_files(tmp_path / "o.gguf", source, {}, split=Split(SMALL))


def test_libllama_loads_the_files_and_predicts_the_same(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)
    paths = copied(source, tmp_path / "out.gguf", Split(3_000_000))
    tokens = np.arange(1, 33, dtype=np.int32)[None]
    found = []
    for path in (MODEL_4M, paths[2]):
        with loaded(path, context=32, threads=1) as model:
            found.append(next(iter(model.score_windows(tokens))).copy())
    np.testing.assert_array_equal(found[0], found[1])


def test_metadata_that_fill_the_first_file_leave_it_without_tensors(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "in.gguf"))
    largest = max(tensor.size for tensor in source.tensors)
    long = "x" * (largest - 3000)
    written = write_model(
        tmp_path / "o.gguf",
        source,
        {},
        stored_blocks(source),
        metadata={"test.long": long},
        split=Split(largest + 1000),
    )
    assert not Reader(written.path).tensors
    assert [each.name for each in open_model(written.path).tensors] == [each.name for each in source.tensors]
