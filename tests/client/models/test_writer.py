import errno
import hashlib
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.models.gguf_header import TensorInfo, Value, encode_header, parse_header, stored
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.writer import Blocks, write_model
from raq_solver.errors import InvalidInput, LedgerMismatch
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, small_model, split_model

Q8_0 = CATALOGUE["Q8_0"]


def _copy(source: ModelFile) -> Blocks:
    def blocks(tensor: Tensor, quant_type: QuantType) -> Iterator[np.ndarray]:
        for first in range(0, tensor.rows, 7):
            rows = range(tensor.rows)[first : first + 7]
            if quant_type == tensor.source_type:
                yield source.stored(tensor, rows.start, rows.stop)
            else:
                weights = source.weights(tensor, rows.start, rows.stop)
                yield gguf.quantize(weights, gguf.GGMLQuantizationType(quant_type.ggml_id))

    return blocks


def _partials(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.mark.parametrize("alignment", [32, 64])
def test_a_rewrite_without_change_is_the_same_file(tmp_path: Path, alignment: int) -> None:
    source = open_model(small_model(tmp_path / "in.gguf", alignment=alignment))
    written = write_model(tmp_path / "out.gguf", source, {}, _copy(source))
    assert written.path.read_bytes() == source.path.read_bytes()


def test_data_are_aligned_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "in.gguf", alignment=8))
    written = open_model(write_model(tmp_path / "out.gguf", source, {}, _copy(source)).path)
    assert written.metadata["general.alignment"] == stored(32)  # a u32; libllama ends the process over any other type
    again = gguf.GGUFReader(written.path)
    assert again.alignment == 32
    assert all(tensor.data_offset % 32 == 0 for tensor in again.tensors)
    for tensor in source.tensors:
        np.testing.assert_array_equal(written.stored(tensor), source.stored(tensor))


def test_the_4m_model_too(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)
    written = write_model(tmp_path / "out.gguf", source, {}, _copy(source))
    assert written.path.read_bytes() == MODEL_4M.read_bytes()
    assert written.sha256 == hashlib.sha256(MODEL_4M.read_bytes()).hexdigest()
    assert written.size == MODEL_4M.stat().st_size


def test_gguf_py_reads_back_what_was_meant(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)
    types = {tensor.name: Q8_0 for tensor in source.tensors if len(tensor.shape) > 1}
    heard: dict[str, int] = {}

    def progress(name: str, size: int) -> None:
        heard[name] = heard.get(name, 0) + size

    metadata: dict[str, Value] = {"general.file_type": 7, "raq.version": "0.1", "raq.flag": True}
    path = tmp_path / "out.gguf"
    written = write_model(path, source, types, _copy(source), metadata=metadata, progress=progress)
    reader = gguf.GGUFReader(path)
    for tensor, other in zip(source.tensors, reader.tensors, strict=True):
        quant_type = types.get(tensor.name, tensor.source_type)
        assert (other.name, other.tensor_type) == (tensor.name, quant_type.ggml_id)
        expected = gguf.quantize(source.weights(tensor), gguf.GGMLQuantizationType(quant_type.ggml_id))
        assert other.data.tobytes() == expected.tobytes()
        assert heard[tensor.name] == other.n_bytes
    assert written.tensor_bytes == sum(other.n_bytes for other in reader.tensors)
    assert written.size == path.stat().st_size
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    assert keys == [*source.metadata, "raq.version", "raq.flag"]
    for key in keys:
        field = reader.get_field(key)
        assert field is not None
        assert field.contents() == metadata.get(key, source.value(key))


def test_shards_become_one_file(tmp_path: Path) -> None:
    source = open_model(split_model(tmp_path)[0])
    written = open_model(write_model(tmp_path / "one.gguf", source, {}, _copy(source)).path)
    assert written.tensors == source.tensors
    assert all((written.stored(t) == source.stored(t)).all() for t in source.tensors)
    assert "split.count" not in written.metadata


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)
    path = tmp_path / "out.gguf"
    path.write_text("precious")
    with pytest.raises(InvalidInput, match="--force"):
        write_model(path, source, {}, _copy(source))
    assert path.read_text() == "precious"
    write_model(path, source, {}, _copy(source), force=True)
    assert open_model(path).tensors == source.tensors


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source = open_model(small_model(tmp_path / "m.gguf"))
    (tmp_path / "link.gguf").symlink_to(source.path)
    for path in (source.path, tmp_path / "link.gguf"):
        with pytest.raises(InvalidInput, match="is the model itself"):
            write_model(path, source, {}, _copy(source), force=True)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError, OSError(errno.ENOSPC, "full")])
def test_nothing_is_left_of_a_broken_write(tmp_path: Path, interrupt: BaseException) -> None:
    source = open_model(MODEL_4M)

    def blocks(tensor: Tensor, quant_type: QuantType) -> Iterator[np.ndarray]:
        yield source.stored(tensor, 0, 1)
        assert len(_partials(tmp_path)) == 1
        raise interrupt

    expected = InvalidInput if isinstance(interrupt, OSError) else interrupt
    with pytest.raises(expected):  # type: ignore[arg-type]
        write_model(tmp_path / "out.gguf", source, {}, blocks)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_model(MODEL_4M)
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 5, 5))
    needed = MODEL_4M.stat().st_size
    with pytest.raises(InvalidInput, match=f"{needed:,} bytes are needed, 5 are free"):
        write_model(tmp_path / "out.gguf", source, {}, _copy(source))
    assert list(tmp_path.iterdir()) == []


def test_impossible_targets_are_named(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)
    with pytest.raises(InvalidInput, match="no folder"):
        write_model(tmp_path / "absent" / "out.gguf", source, {}, _copy(source))
    with pytest.raises(InvalidInput, match="is a folder"):
        write_model(tmp_path, source, {}, _copy(source))
    types = {"nothing.weight": Q8_0, "blk.0.attn_q.weight": QuantType("X", 99, 300, 1)}
    with pytest.raises(InvalidInput) as error:
        write_model(tmp_path / "out.gguf", source, types, _copy(source))
    assert len(error.value.faults) == 2


def test_bytes_that_differ_from_the_account_are_a_bug(tmp_path: Path) -> None:
    source = open_model(MODEL_4M)

    def too_few(tensor: Tensor, quant_type: QuantType) -> Iterator[np.ndarray]:
        yield source.stored(tensor, 0, tensor.rows - 1)

    with pytest.raises(LedgerMismatch, match=r"expected \d+ bytes, got"):
        write_model(tmp_path / "out.gguf", source, {}, too_few)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(0,), (1, 0), (32, 0, 3)])
def test_tensors_without_elements_are_carried_through_in_their_place(tmp_path: Path, shape: tuple[int, ...]) -> None:
    held = np.ones((2, 32), np.float16)
    infos = [
        TensorInfo("none.0", shape, 0, 0),
        TensorInfo("blk.0.a.weight", (32, 2), 1, 0),
        TensorInfo("none.1", shape, 99, 128),
        TensorInfo("none.2", shape, 0, 128),
        TensorInfo("blk.0.b.weight", (32, 2), 1, 128),
        TensorInfo("none.3", shape, 0, 256),
    ]
    path = tmp_path / "in.gguf"
    path.write_bytes(encode_header({"general.architecture": stored("llama")}, infos, 32) + held.tobytes() * 2)
    source = open_model(path)
    assert [tensor.name for tensor in source.tensors] == ["blk.0.a.weight", "blk.0.b.weight"]
    same = write_model(tmp_path / "same.gguf", source, {}, _copy(source))
    assert same.path.read_bytes() == path.read_bytes()
    smaller = write_model(tmp_path / "out.gguf", source, {"blk.0.a.weight": Q8_0}, _copy(source))
    written = parse_header(smaller.path.read_bytes(), "out")
    assert [(info.name, info.offset) for info in written.tensors] == [
        ("none.0", 0),
        ("blk.0.a.weight", 0),
        ("none.1", 96),
        ("none.2", 96),
        ("blk.0.b.weight", 96),
        ("none.3", 224),
    ]
