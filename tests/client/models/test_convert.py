"""Conversion of safetensors: byte for byte the files of llama.cpp's converter, or a sentence that names it."""

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from raq_client.models.convert import convert_folder, converted
from raq_client.models.model_file import open_model
from raq_client.models.read_table import read_table
from raq_client.models.vocabulary import pre_tokenizer, read_vocabulary
from raq_solver.errors import InvalidInput
from support.commands import client
from support.gguf_files import MODEL_4M
from support.paths import DATA

FOLDERS = DATA / "conversion"
DIGESTS = json.loads((FOLDERS / "digests.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a folder that is converted, to be spoilt."""
    shutil.copytree(FOLDERS / "llama-bpe", tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("to", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_the_file_is_that_of_llama_cpps_converter(name: str, to: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    written = convert_folder(FOLDERS / name, out, to.upper())
    assert hashlib.sha256(out.read_bytes()).hexdigest() == DIGESTS[name][to] == written.sha256


def test_the_stored_type_is_kept_unless_another_is_named(tmp_path: Path) -> None:
    found = client("convert", FOLDERS / "llama-bpe", tmp_path / "a.gguf", "--json")
    assert found.code == 0, found.err
    assert found.json["sha256"] == DIGESTS["llama-bpe"]["bf16"]
    assert (
        client("convert", FOLDERS / "smollm", tmp_path / "b.gguf", "--json").json["sha256"] == DIGESTS["smollm"]["f32"]
    )


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_the_table_is_that_of_the_converted_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table, model = read_table(FOLDERS / name), open_model(FOLDERS / name)
    assert {each.name: each for each in table.tensors} == {each.name: each for each in model.tensors}
    assert table.architecture == model.architecture


def test_a_folder_is_quantized_as_its_conversion_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    converted_file = tmp_path / "bf16.gguf"
    convert_folder(FOLDERS / "qwen3", converted_file)
    for model, out in ((FOLDERS / "qwen3", "folder.gguf"), (converted_file, "file.gguf")):
        found = client("run", model, "-b", "7", "-o", tmp_path / out)
        assert found.code in {0, 3}, found.err
    assert (tmp_path / "folder.gguf").read_bytes() == (tmp_path / "file.gguf").read_bytes()


def test_a_changed_folder_is_converted_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = converted(folder)
    assert converted(folder) == first
    changed(folder / "config.json", max_position_embeddings=64)
    second = converted(folder)
    assert second != first
    assert open_model(second).architecture_value("context_length") == 64


def test_a_quantized_file_is_decoded_as_gguf_py_decodes_it(tmp_path: Path) -> None:
    small, plain = tmp_path / "q.gguf", tmp_path / "f32.gguf"
    assert client("run", MODEL_4M, "-b", "4.5", "-o", small).code in {0, 3}
    assert client("convert", small, plain, "--to", "f32").code == 0
    expected = {
        each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in gguf.GGUFReader(small).tensors
    }
    found = {each.name: each.data for each in gguf.GGUFReader(plain).tensors}
    assert found.keys() == expected.keys()
    for name, weights in found.items():
        assert weights.dtype == np.float32
        assert np.array_equal(weights, expected[name]), name
    assert client("convert", small, tmp_path / "x.gguf").code == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "convert_hf_to_gguf.py"),
        ({"model_type": "mamba2"}, "convert_hf_to_gguf.py"),
        ({"quantization_config": {"quant_method": "fp8"}}, "convert_hf_to_gguf.py"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "convert_hf_to_gguf.py"),
        ({"vocab_size": 100}, "vocab_size"),
        ({"num_attention_heads": 3}, "config.json is wrong"),
        ({"hidden_size": "wide"}, "not a number above 0"),
    ],
)
def test_what_is_not_converted_is_said_and_nothing_written(
    folder: Path, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    changed(folder / "config.json", **values)
    found = client("convert", folder, tmp_path / "out.gguf", "--to", "f16")
    assert found.code == 2
    assert said in found.err
    assert "Traceback" not in found.err
    assert not list(tmp_path.glob("*.gguf*"))


def test_weights_beyond_f16_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    at = 8 + length + header["lm_head.weight"]["data_offsets"][0]
    data[at : at + 2] = struct.pack("<H", 0x4780)  # 65536 in BF16
    weights.write_bytes(data)
    found = client("convert", folder, tmp_path / "out.gguf", "--to", "f16")
    assert found.code == 2
    assert "output.weight: holds weights too large for F16" in found.err
    assert client("convert", folder, tmp_path / "out.gguf").code == 0


def test_damaged_folders_are_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(InvalidInput, match="is cut off"):
        convert_folder(folder, tmp_path / "out.gguf")
    weights.write_bytes(whole)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json: can't be read"):
        convert_folder(folder, tmp_path / "out.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match="neither tokenizer"):
        convert_folder(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize("cut", [1, 7, 100, 1000])
def test_a_cut_sentencepiece_model_is_named(cut: int, tmp_path: Path) -> None:
    data = (FOLDERS / "llama-spm" / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[:cut] + b"\xff" * 12)
    with pytest.raises(InvalidInput, match=r"tokenizer\.model"):
        read_vocabulary(tmp_path, None)


def test_unknown_pre_tokenizers_are_not_guessed() -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"}
    rules = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
    assert pre_tokenizer({"pre_tokenizer": rules}) is None
    assert pre_tokenizer({"pre_tokenizer": None}) is None
