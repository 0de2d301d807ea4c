"""Read the tensor table of a model in safetensors files: the tensors that a conversion to GGUF would give.

Only headers and `config.json` are read. As in llama.cpp's converter, names are translated by gguf-py, experts are
stacked, and tensors that are never quantized become F32. Architectures whose conversion splits or joins tensors are
refused.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from raq_client.models.gguf_header import Value
from raq_client.models.quantizable import is_quantizable
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

_ARCHITECTURES: Final = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "granite": "granite",
    "smollm3": "smollm3",
}
"""`model_type` of config.json → llama.cpp's name, for architectures whose tensors are converted one by one."""
_TYPES: Final = {"F32": CATALOGUE["F32"], "F16": CATALOGUE["F16"], "BF16": CATALOGUE["BF16"]}
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
_EXPERT: Final = re.compile(r"\.experts\.(\d+)\.")
_DROPPED: Final = re.compile(r"rotary_emb\.inv_freq$")
_MOST_HEADER_BYTES: Final = 10**8
"""The maximum size of a header in the safetensors format."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a safetensors file: its shape with the row length last, its type, and where its bytes are."""

    shape: tuple[int, ...]
    quant_type: QuantType
    path: Path
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class SafetensorsFolder:
    """A model in safetensors files. `tensors` are those of its conversion, by llama.cpp's names and in file order.

    Each has the stored tensors that it consists of: one, or all experts of a stack.
    """

    path: Path
    config: Mapping[str, Any]
    architecture: str
    shards: tuple[Path, ...]
    tensors: Mapping[str, Sequence[Stored]]


def read_safetensors_table(folder: Path) -> ModelTable:
    """The table of the model in a folder with `config.json` and its safetensors files.

    Raises InvalidInput as `open_folder` does.
    """
    found = open_folder(folder)
    tensors = [_tensor(name, parts) for name, parts in found.tensors.items()]
    metadata = _metadata(found.config, found.architecture)
    return ModelTable(folder.resolve().name, found.architecture, (*tensors, *_rope(found.config)), metadata)


def open_folder(folder: Path) -> SafetensorsFolder:
    """The model in a folder with `config.json` and its safetensors files; only their headers are read.

    Raises InvalidInput with every fault: no such files, an architecture that is not converted tensor by tensor, types
    that GGUF lacks, unknown names.
    """
    config = _read_config(folder)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InvalidInput(Fault(str(folder), "holds no .safetensors files"))
    architecture = _ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        what = f"{config.get('model_type')} models are not converted tensor by tensor; {CONVERTER}"
        raise InvalidInput(Fault(str(folder), what))
    stored: dict[str, Stored] = {}
    faults: list[Fault] = []
    for path in paths:
        found, path_faults = _read_shard(path)
        stored |= found
        faults += path_faults
    _check_index(folder, stored)
    tensors, name_faults = _converted(stored, architecture, int(config.get("num_hidden_layers") or 0))
    raise_faults(faults + name_faults)
    return SafetensorsFolder(folder, config, architecture, tuple(paths), tensors)


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of rotary embedding, under the names that newer configurations use."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_type", found.get("type") or "default")
    for key in ("rope_theta", "original_max_position_embeddings"):
        if config.get(key) is not None:
            found.setdefault(key, config[key])
    return found


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error}")) from error
    if not isinstance(config, dict):
        raise InvalidInput(Fault(str(path), "not the configuration of a model"))
    return config


def _read_shard(path: Path) -> tuple[dict[str, Stored], list[Fault]]:
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes)) if header_bytes <= _MOST_HEADER_BYTES else None
    except (OSError, struct.error, UnicodeDecodeError, json.JSONDecodeError):
        header = None
    if not isinstance(header, dict):
        return {}, [Fault(str(path), "not a safetensors file, or cut off")]
    found = {}
    faults = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        found_there = _entry(path, entry, 8 + header_bytes)
        if found_there is None:
            what = f"{name} is stored as {entry.get('dtype') if isinstance(entry, dict) else None}"
            faults.append(Fault(str(path), f"{what}; raq knows {', '.join(_TYPES)}"))
        else:
            found[name] = found_there
    return found, faults


def _entry(path: Path, entry: Any, data_start: int) -> Stored | None:
    """A tensor's entry in a header; None if raq does not know its type, or the entry is none."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape)} if kind in _TYPES:
            begin, end = entry.get("data_offsets") or (0, 0)
            lengths = tuple(int(length) for length in shape)
            return Stored(lengths, _TYPES[kind], path, data_start + int(begin), int(end) - int(begin))
    return None


def _check_index(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Raise InvalidInput if a shard of the index is missing."""
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        return
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(Fault(str(path), f"not an index of safetensors files: {error!r}")) from error
    shards = sorted({str(names[name]) for name in names if name not in stored})
    raise_faults(
        [Fault(str(folder / shard), "holds tensors of the index, but is missing or unreadable") for shard in shards]
    )


def _converted(
    stored: Mapping[str, Stored], architecture: str, blocks: int
) -> tuple[dict[str, list[Stored]], list[Fault]]:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(known for known, name in MODEL_ARCH_NAMES.items() if name == architecture)
    translate = get_tensor_name_map(number, blocks).get_name
    experts: dict[str, list[Stored]] = {}
    faults = []
    for name, one in stored.items():
        if _DROPPED.search(name):
            continue
        known = translate(_EXPERT.sub(".experts.", name), try_suffixes=(".weight", ".bias"))
        if known is None:
            faults.append(Fault(name, f"a name that llama.cpp's {architecture} models do not have"))
        else:
            experts.setdefault(known, []).append(one)
    return experts, faults


def _tensor(name: str, parts: Sequence[Stored]) -> Tensor:
    shape = parts[0].shape[::-1] + ((len(parts),) if len(parts) > 1 else ())
    tensor = Tensor(name, shape, parts[0].quant_type)
    return tensor if is_quantizable(tensor) else Tensor(name, shape, _TYPES["F32"])


def _rope(config: Mapping[str, Any]) -> list[Tensor]:
    """The table of rotary factors that the converter computes for Llama 3.1 and similar models."""
    if rope_of(config)["rope_type"] != "llama3":
        return []
    length = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return [Tensor("rope_freqs.weight", (length // 2,), _TYPES["F32"])]


def _metadata(config: Mapping[str, Any], architecture: str) -> Mapping[str, Value]:
    known = {f"{architecture}.{ours}": config[theirs] for theirs, ours in _KEYS.items() if config.get(theirs)}
    if config.get("head_dim"):
        lengths = ("attention.key_length", "attention.value_length")
        known |= {f"{architecture}.{key}": config["head_dim"] for key in lengths}
    return MappingProxyType(known)
