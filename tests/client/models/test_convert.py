"""Conversion of safetensors: byte for byte the files of llama.cpp's converter, or a sentence that names it."""

import hashlib
import json
import shutil
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from raq_client.models import conversion_weights
from raq_client.models.convert import convert_folder, converted
from raq_client.models.model_file import open_model, row_chunks
from raq_client.models.read_table import read_table
from raq_client.models.stored_tensors import read_rows, read_shard
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


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_chunks_of_a_few_rows_give_the_same_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Large models are converted in chunks, which begin within experts and within blocks of scales.
    monkeypatch.setattr(conversion_weights, "row_chunks", partial(row_chunks, chunk_weights=150))
    convert_folder(FOLDERS / name, tmp_path / "out.gguf", "BF16")
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == DIGESTS[name]["bf16"]


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
        ({"quantization_config": {"quant_method": "gptq"}}, "convert_hf_to_gguf.py"),
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


def _without(source: str, target: Path, *dropped: str) -> Path:
    """A copy of a folder whose weights lack the tensors with these words in their names."""
    shutil.copytree(FOLDERS / source, target)
    for shard in target.glob("*.safetensors"):
        data = shard.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = {
            name: entry
            for name, entry in json.loads(data[8 : 8 + length]).items()
            if not any(each in name for each in dropped)
        }
        text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
        shard.write_bytes(data[:8] + text + data[8 + length :])
    return target


@pytest.mark.parametrize(
    ("source", "dropped", "said"),
    [
        ("qwen3moe", "layers.1.mlp.experts.2.up_proj", "experts are missing"),
        ("qwen3moe", "layers.1.mlp.experts.3.", "some are missing"),
        ("qwen3-fp8", "mlp.up_proj.weight_scale_inv", "is stored in FP8 without its scales"),
    ],
)
def test_missing_parts_of_a_tensor_are_named(source: str, dropped: str, said: str, tmp_path: Path) -> None:
    folder = _without(source, tmp_path / "model", dropped)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(InvalidInput, match=said):
        convert_folder(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("source", "values", "said"),
    [
        ("qwen3-fp8", {"quantization_config": {"quant_method": "fp8"}}, "do not fit its blocks"),
        ("qwen3-fp8", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 0]}}, "two whole"),
        ("qwen3-fp8", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}, "do not fit"),
        ("qwen35", {"linear_num_key_heads": 4}, "not the heads of a gated delta net"),
        ("qwen35", {"linear_value_head_dim": 16}, "does not fit the heads"),
        ("qwen35", {"layer_types": ["linear_attention"]}, "lists 1 layers of 2"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_named(
    source: str, values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    shutil.copytree(FOLDERS / source, tmp_path / "model")
    changed(tmp_path / "model" / "config.json", **values)
    with pytest.raises(InvalidInput, match=said):
        convert_folder(tmp_path / "model", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out*"))


def test_blocks_that_predict_further_tokens_may_be_left_out(tmp_path: Path) -> None:
    folder = _without("qwen35", tmp_path / "model", "mtp.")
    convert_folder(folder, tmp_path / "out.gguf")
    convert_folder(FOLDERS / "qwen35", tmp_path / "whole.gguf")
    short, whole = open_model(tmp_path / "out.gguf"), open_model(tmp_path / "whole.gguf")
    assert (short.architecture_value("block_count"), whole.architecture_value("block_count")) == (2, 3)
    assert {each.name for each in whole.tensors} - {each.name for each in short.tensors} == {
        each.name for each in whole.tensors if each.name.startswith("blk.2.")
    }


def test_a_scale_for_the_whole_tensor_is_read(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8)
    path = tmp_path / "a.safetensors"
    header = {
        "w": {"dtype": "F8_E4M3", "shape": [2, 128], "data_offsets": [0, 256]},
        "w_scale_inv": {"dtype": "F32", "shape": [], "data_offsets": [256, 260]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + codes.tobytes() + struct.pack("<f", 2.0))
    stored, faults = read_shard(path)
    assert not faults
    whole = replace(stored["w"], scales=stored["w_scale_inv"])
    found = read_rows(whole, 0, 2, (0, 0)).view(np.float32).ravel()
    # The format by its definition (OCP 8-bit floats, E4M3): sign, 4 bits of exponent with bias 7, 3 of mantissa.
    for code in range(127):
        exponent, mantissa = code >> 3, code & 7
        expected = 2 * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        assert (found[code], found[code + 128]) == (expected, -expected)
    assert np.isnan(found[[127, 255]]).all()


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
