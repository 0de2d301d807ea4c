import json
import struct
from pathlib import Path

import pytest

from raq_client.models.read_table import read_table
from raq_client.models.safetensors import open_folder
from raq_client.planning.memory_shape import Layer, memory_shape
from raq_solver.errors import InvalidInput
from support.published_shapes import tensors_of

LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3"},
}
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def _write(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """A safetensors file without its data."""
    header = {"__metadata__": {"format": "pt"}} | {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def _published(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What the model's publishers call a tensor of that GGUF name, experts one by one."""
    block, _, rest = name.removeprefix("blk.").partition(".") if name.startswith("blk.") else ("", "", name)
    role = rest.removesuffix(".weight")
    prefix = f"model.layers.{block}." if block else ""
    if role.endswith("_exps"):
        one = NAMES[role.removesuffix("_exps")].removeprefix("mlp.")
        return {f"{prefix}mlp.experts.{n}.{one}.weight": shape[:2][::-1] for n in range(shape[2])}
    return {f"{prefix}{NAMES[role]}.weight": shape[::-1]}


def _publish(folder: Path, name: str, config: dict[str, object]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor, shape in tensors_of(name):
        if tensor != "rope_freqs.weight":
            shapes |= _published(tensor, shape)
    names = list(shapes)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for number, half in enumerate(halves, start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        _write(folder / file, {name: shapes[name] for name in half})
        index |= dict.fromkeys(half, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama31_8b", LLAMA_8B),
        ("qwen3_30b_a3b", {"model_type": "qwen3_moe", "num_hidden_layers": 48, "head_dim": 128}),
    ],
)
def test_a_published_folder_gives_the_table_of_its_gguf(
    tmp_path: Path, shapes: Path, name: str, config: dict[str, object]
) -> None:
    folder = tmp_path / name
    _publish(folder, name, config)
    table, witness = read_table(folder), read_table(shapes / f"{name}_tensors.csv")
    assert {t.name: t for t in table.tensors} == {t.name: t for t in witness.tensors}
    assert (table.architecture, table.block_count) == (witness.architecture, witness.block_count)


def test_the_configuration_becomes_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    _publish(folder, "llama31_8b", LLAMA_8B)
    shape = memory_shape(read_table(folder))
    assert shape.layers == (Layer(1024, 1024, 0, 0),) * 32
    assert (shape.vocabulary, shape.longest_context) == (128_256, 131_072)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    _publish(folder, "llama31_8b", LLAMA_8B)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"model-00002-of-00002.*holds tensors of the index"):
        read_table(folder)


def _folder(tmp_path: Path, config: str = '{"model_type": "llama", "num_hidden_layers": 1}') -> Path:
    (tmp_path / "config.json").write_text(config)
    return tmp_path


def test_every_fault_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _write(folder / "a.safetensors", {"model.layers.0.strange.weight": (2, 2), "rotary_emb.inv_freq": (2,)})
    _write(folder / "b.safetensors", {"lm_head.weight": (2, 2)}, "F8_E5M2")
    (folder / "c.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InvalidInput) as error:
        read_table(folder)
    whats = [fault.what for fault in error.value.faults]
    assert whats == [
        "lm_head.weight is stored as F8_E5M2; raq knows F32, F16, BF16, F8_E4M3",
        "not a safetensors file, or cut off",
        "a name that llama.cpp's llama models do not have",
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": "0-4"},
        {"dtype": "F32", "shape": 1},
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, entry: dict[str, object]) -> None:
    folder = _folder(tmp_path)
    text = json.dumps({"lm_head.weight": entry}).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InvalidInput, match=r"a\.safetensors: the entry of lm_head\.weight is damaged"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lm_head.weight", ()), ("lm_head.weight", (0, 2)), ("model.layers.0.mlp.experts.gate_up_proj", (2, 3, 4))],
)
def test_a_shape_that_such_a_tensor_can_not_have_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder = _folder(tmp_path, '{"model_type": "qwen3_moe", "num_hidden_layers": 1}')
    _write(folder / "a.safetensors", {name: shape})
    with pytest.raises(InvalidInput, match="is not one of such a tensor"):
        open_folder(folder)


def test_a_header_of_lists_without_end_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    text = b"[" * 200_000
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InvalidInput, match="not a safetensors file"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"model_type": "qwen3_next"}', "not converted tensor by tensor"),
        ("[]", "not the configuration"),
        ("{", "can't be read"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, config: str, sentence: str) -> None:
    folder = _folder(tmp_path, config)
    _write(folder / "a.safetensors", {"lm_head.weight": (2, 2)})
    with pytest.raises(InvalidInput, match=sentence):
        read_table(folder)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json: can't be read"):
        read_table(tmp_path)
    with pytest.raises(InvalidInput, match=r"holds no \.safetensors"):
        read_table(_folder(tmp_path))


def test_a_broken_index_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _write(folder / "a.safetensors", {"lm_head.weight": (2, 2)})
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not an index"):
        read_table(folder)
