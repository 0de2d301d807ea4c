import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.models.gguf_header import TensorInfo, encode_header, stored
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import InvalidInput, UnknownTensor
from raq_solver.quant_types import CATALOGUE
from support.gguf_files import MODEL_4M, add_every_value, small_model, split_model, write


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return small_model(tmp_path / "model.gguf")


def _equals_gguf_py(model: ModelFile, path: Path) -> None:
    reader = gguf.GGUFReader(path)
    assert [t.name for t in model.tensors] == [t.name for t in reader.tensors]
    for tensor, other in zip(model.tensors, reader.tensors, strict=True):
        assert tensor.shape == tuple(other.shape)
        assert tensor.source_type.ggml_id == other.tensor_type
        assert model.stored(tensor).tobytes() == other.data.tobytes()
    for key, value in model.metadata.items():
        field = reader.get_field(key)
        assert field is not None
        assert value.decode() == field.contents(), key


def test_says_what_gguf_py_says(model_path: Path) -> None:
    _equals_gguf_py(open_model(model_path), model_path)
    _equals_gguf_py(open_model(MODEL_4M), MODEL_4M)


def test_knows_the_model() -> None:
    model = open_model(MODEL_4M)
    assert (model.name, model.architecture, model.architecture_value("block_count")) == ("wiki-math-4M", "llama", 4)
    assert model.value("no.such.key") is None
    assert model.tensor("blk.0.attn_k.weight").shape == (256, 128)
    with pytest.raises(UnknownTensor, match=r"did you mean blk\.0\.attn_k\.weight"):
        model.tensor("blk.0.attn_k")


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4"])
def test_weights_are_those_that_gguf_py_restores(tmp_path: Path, name: str) -> None:
    quant_type = gguf.GGMLQuantizationType[name]
    weights = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    blocks = gguf.quantize(weights, quant_type)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("t.weight", blocks, raw_dtype=quant_type)
    write(writer)
    model = open_model(path)
    (tensor,) = model.tensors
    assert tensor.shape == (64, 6)
    np.testing.assert_array_equal(model.weights(tensor), gguf.dequantize(blocks, quant_type))
    np.testing.assert_array_equal(model.weights(tensor, 2, 5), gguf.dequantize(blocks, quant_type)[2:5])


def test_whole_numbers_are_tensors_too(model_path: Path) -> None:
    model = open_model(model_path)
    table = model.tensor("blk.0.ffn_gate_tid2eid.weight")
    assert (table.source_type.name, table.size) == ("I32", 48)
    assert model.weights(table).ravel().tolist() == list(range(12))


def test_fingerprints_tell_fine_tunes_apart(tmp_path: Path) -> None:
    one = open_model(small_model(tmp_path / "one.gguf", seed=1))
    same = open_model(small_model(tmp_path / "same.gguf", seed=1))
    other = open_model(small_model(tmp_path / "other.gguf", seed=2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_any_shard_opens_the_model(tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    models = [open_model(shard) for shard in shards]
    assert all(model.shards == tuple(shards) for model in models)
    assert all(model.name == "big" and len(model.tensors) == 6 for model in models)
    assert "split.count" not in models[0].metadata
    last = gguf.GGUFReader(shards[-1]).tensors[-1]
    assert models[0].stored(models[0].tensors[-1]).tobytes() == last.data.tobytes()


def test_all_missing_shards_are_named(tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    shards[1].unlink()
    shards[2].unlink()
    with pytest.raises(InvalidInput) as error:
        open_model(shards[0])
    assert [fault.where for fault in error.value.faults] == [str(shards[1]), str(shards[2])]


def test_a_renamed_shard_is_refused(tmp_path: Path) -> None:
    renamed = split_model(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(InvalidInput, match="one of 3 shards, but its name"):
        open_model(renamed)


def test_a_shard_that_repeats_another_is_refused(tmp_path: Path) -> None:
    shards = split_model(tmp_path)
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(InvalidInput, match="is in an earlier shard too"):
        open_model(shards[0])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"half of a file that was cut in two", "does not begin with the letters GGUF"),
        (b"PK\x03\x04" + bytes(100), "it is a zip archive"),
        (b"\x1f\x8b\x08" + bytes(100), "it is compressed by gzip; unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "it is a Git LFS pointer; .*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (struct.pack("<Q", 90) + b'{"__metadata__":{}}', "it is a safetensors file"),
        (struct.pack("<ii", 39, 19) + b"blk.0.attn_k.weight", "it is an importance file .*--imatrix"),
        (b"GGUF", "ends after the letters GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 5, 5), "cut off or damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60) + bytes(50), "cut off or damaged"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99) + bytes(50), "no metadata type has the number 99"),
    ],
)
def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=sentence) as error:
        open_model(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("imatrix", "an importance file, not a model; give it with --imatrix"),
        ("adapter", "a LoRA adapter, not a model; merge it"),
        ("model", "holds no tensors, a vocabulary at most"),
    ],
)
def test_other_gguf_files_than_models_are_named(tmp_path: Path, kind: str, sentence: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(encode_header({"general.type": stored(kind)}, (), 32))
    with pytest.raises(InvalidInput, match=sentence):
        open_model(path)


@pytest.mark.parametrize("second", [0, 64])
def test_tensors_that_lie_over_each_other_are_refused(tmp_path: Path, second: int) -> None:
    path = tmp_path / "over.gguf"
    infos = [TensorInfo("a.weight", (32,), 0, 0), TensorInfo("b.weight", (32,), 0, second)]
    path.write_bytes(encode_header({}, infos, 32) + bytes(256))
    with pytest.raises(InvalidInput, match=r"the data of a.weight and b.weight overlap"):
        open_model(path)


@pytest.mark.parametrize("share", [0.0001, 0.003, 0.3, 0.999])
def test_a_cut_off_model_is_refused(tmp_path: Path, share: float) -> None:
    whole = MODEL_4M.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InvalidInput, match="cut off"):
        open_model(path)


def test_says_how_many_bytes_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODEL_4M.read_bytes()[:-1000])
    with pytest.raises(InvalidInput, match=f"1,000 of {MODEL_4M.stat().st_size:,} bytes are missing"):
        open_model(path)
    assert len(open_model(path, header_only=True).tensors) == 39


def test_unknown_tensor_types_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("first.weight", "second.weight"):
        writer.add_tensor(name, np.zeros((2, 256), np.float32))
    write(writer)
    data = path.read_bytes()
    # The type number follows the two dimensions of each tensor.
    path.write_bytes(data.replace(struct.pack("<QQI", 256, 2, 0), struct.pack("<QQI", 256, 2, 15)))
    with pytest.raises(InvalidInput) as error:
        open_model(path)
    assert [fault.what for fault in error.value.faults] == [
        f"{name} is stored in a type raq does not know (ggml 15)" for name in ("first.weight", "second.weight")
    ]


def test_a_folder_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a folder"):
        open_model(tmp_path)
    with pytest.raises(InvalidInput, match="No such file"):
        open_model(tmp_path / "absent.gguf")


def test_a_file_that_shrinks_is_an_error_not_a_crash(model_path: Path) -> None:
    model = open_model(model_path)
    model_path.write_bytes(model_path.read_bytes()[:-2000])
    with pytest.raises(InvalidInput, match="shorter since it was opened"):
        model.stored(model.tensor("output.weight"))


def test_every_metadata_type_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.gguf"
    writer = gguf.GGUFWriter(path, "any")
    add_every_value(writer)
    writer.add_tensor("one.weight", np.zeros(4, np.float32))
    write(writer)
    model = open_model(path)
    assert model.value("test.u64") == 2**63
    assert model.value("test.text") == "grüße 🙂"
    assert model.value("test.texts") == ["", "a", "tokens"]
    _equals_gguf_py(model, path)


def test_plain_types_stay_out_of_the_catalogue(model_path: Path) -> None:
    table = open_model(model_path).tensor("blk.0.ffn_gate_tid2eid.weight")
    assert table.source_type.name not in CATALOGUE
