"""Read the tensor table of a model in safetensors files: the tensors that a conversion to GGUF would give.

Only headers and `config.json` are read. `conversion_names` says which stored tensors become which; tensors that are
never quantized become F32.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from raq_client.models.conversion_names import Converted, converted_tensors, further_blocks
from raq_client.models.gguf_header import Value
from raq_client.models.quantizable import is_quantizable
from raq_client.models.stored_tensors import Stored, read_shard
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor

_ARCHITECTURES: Final = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "granite": "granite",
    "smollm3": "smollm3",
}
"""`model_type` of config.json → llama.cpp's name, for architectures whose tensors are converted one by one."""
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    "qwen3_5_text": {"rms_norm_eps": 1e-6, "head_dim": 256},
    "qwen3_5_moe_text": {"rms_norm_eps": 1e-6, "head_dim": 256},
}
"""Values that publishers leave out of config.json, where they are those of `transformers`."""
# key of config.json -> key of GGUF
_KEYS: Final = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
}
CONVERTER: Final = "make a GGUF file with llama.cpp's python convert_hf_to_gguf.py FOLDER --outtype bf16, and name that"
"""What to do with models whose conversion raq does not know."""


@dataclass(frozen=True, eq=False)
class SafetensorsFolder:
    """A model in safetensors files. `tensors` are those of its conversion, by llama.cpp's names and in its order.

    `config` is that of the text model: of a model with vision, `text_config` over the rest. `further_blocks` is the
    number of blocks that predict further tokens.
    """

    path: Path
    config: Mapping[str, Any]
    architecture: str
    shards: tuple[Path, ...]
    tensors: Mapping[str, Converted]
    further_blocks: int = 0

    @property
    def blocks(self) -> int:
        """The number of all blocks."""
        return int(self.config.get("num_hidden_layers") or 0) + self.further_blocks


def read_safetensors_table(folder: Path) -> ModelTable:
    """The table of the model in a folder with `config.json` and its safetensors files.

    Raises InvalidInput as `open_folder` does.
    """
    found = open_folder(folder)
    tensors = [_tensor(name, made) for name, made in found.tensors.items()]
    metadata = _metadata({**found.config, "num_hidden_layers": found.blocks}, found.architecture)
    return ModelTable(folder.resolve().name, found.architecture, (*tensors, *_rope(found.config)), metadata)


def open_folder(folder: Path) -> SafetensorsFolder:
    """The model in a folder with `config.json` and its safetensors files; only their headers are read.

    Raises InvalidInput with every fault: no such files, an architecture that is not converted tensor by tensor, types
    that GGUF lacks, unknown names.
    """
    config, architecture = read_config(folder)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InvalidInput(Fault(str(folder), "holds no .safetensors files"))
    stored: dict[str, Stored] = {}
    faults: list[Fault] = []
    for path in paths:
        found, path_faults = read_shard(path)
        stored |= found
        faults += path_faults
    _check_index(folder, stored)
    tensors, name_faults = converted_tensors(stored, config, architecture)
    raise_faults(faults + name_faults)
    return SafetensorsFolder(folder, config, architecture, tuple(paths), tensors, further_blocks(stored))


def read_config(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The configuration of the text model in a folder, and its architecture by llama.cpp's name.

    Raises InvalidInput if there is none, or if it is not converted tensor by tensor.
    """
    config = _text_config(_read_config(folder))
    return config, _architecture(folder, config)


def listed_shards(folder: Path) -> frozenset[str]:
    """The files that the folder's index names; none without an index. Raises InvalidInput if it is damaged."""
    return frozenset(_weight_map(folder).values())


def _architecture(folder: Path, config: Mapping[str, Any]) -> str:
    architecture = _ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        what = f"{config.get('model_type')} models are not converted tensor by tensor; {CONVERTER}"
        raise InvalidInput(Fault(str(folder), what))
    return architecture


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of rotary embedding, of layers with full attention, under the names of newer configurations."""
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = dict(written.get("full_attention", written))
    found.setdefault("rope_type", found.get("type") or "default")
    for key in ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor"):
        if config.get(key) is not None:
            found.setdefault(key, config[key])
    return found


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text model, with what its publishers leave out."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **{key: value for key, value in text.items() if value is not None}}
    return {**_DEFAULTS.get(str(config.get("model_type")), {}), **config}


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {getattr(error, 'strerror', None) or error}")) from error
    if not isinstance(config, dict):
        raise InvalidInput(Fault(str(path), "not the configuration of a model"))
    return config


def _check_index(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Raise InvalidInput if a shard of the index is missing."""
    shards = sorted({shard for name, shard in _weight_map(folder).items() if name not in stored})
    raise_faults(
        [Fault(str(folder / shard), "holds tensors of the index, but is missing or unreadable") for shard in shards]
    )


def _weight_map(folder: Path) -> Mapping[str, str]:
    """The shard of every tensor by the folder's index; empty without an index."""
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        return {}
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in names.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(Fault(str(path), f"not an index of safetensors files: {error!r}")) from error


def _tensor(name: str, made: Converted) -> Tensor:
    tensor = Tensor(name, made.shape[::-1], made.parts[0].quant_type)
    return tensor if is_quantizable(tensor) else Tensor(name, tensor.shape, CATALOGUE["F32"])


def _rope(config: Mapping[str, Any]) -> list[Tensor]:
    """The table of rotary factors that the converter computes for Llama 3.1 and similar models."""
    if rope_of(config)["rope_type"] != "llama3":
        return []
    length = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return [Tensor("rope_freqs.weight", (length // 2,), CATALOGUE["F32"])]


def _metadata(config: Mapping[str, Any], architecture: str) -> Mapping[str, Value]:
    known = {f"{architecture}.{ours}": config[theirs] for theirs, ours in _KEYS.items() if config.get(theirs)}
    if config.get("head_dim"):
        lengths = ("attention.key_length", "attention.value_length")
        known |= {f"{architecture}.{key}": config["head_dim"] for key in lengths}
    return MappingProxyType(known)
