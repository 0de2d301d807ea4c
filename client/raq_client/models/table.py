"""Tensor tables: the tensors and metadata of a model, without weights."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from raq_client.models.gguf_header import Value
from raq_client.models.model_file import ModelFile
from raq_client.models.overhead import most_overhead
from raq_solver.tensor_names import block_of, is_expert, local_name
from raq_solver.tensors import Tensor

NUMBERS: Final = "numbers"
"""Key in a profile's provenance for `numbers_text`, from which memory and active bytes are computed."""

FINGERPRINT: Final = "model_sha256"
"""Key in a profile's provenance, and in a plan, for the fingerprint of the model that was measured."""

GRAM_DIGEST: Final = "gram_sha256"
"""Key in a profile's provenance, and in a plan, for the digest of the Gram statistics by whose feedback errors were
measured; absent (in a plan: empty) for plain rounding."""

OVERHEAD: Final = "file_overhead_bytes"
"""Key in a profile's provenance for `ModelTable.overhead`."""


@dataclass(frozen=True, eq=False)
class ModelTable:
    """The tensors of a model in file order, its architecture and its known metadata.

    `overhead` are the bytes, at most, of a file made from the model that are not tensor data; 0 if unknown.
    """

    name: str
    architecture: str
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, Value] = field(default_factory=dict)
    overhead: int = 0

    @property
    def weights(self) -> int:
        """The number of weights in all tensors."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def block_count(self) -> int:
        """The number of blocks (layers), from the metadata or the highest number in a tensor's name."""
        return self.number("block_count") or 1 + max((block_of(t.name) for t in self.tensors), default=-1)

    def number(self, key: str) -> int:
        """The integer under `ARCHITECTURE.key` (that of block 0 if it is per block); 0 if unknown."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        first = value[0] if isinstance(value, list) and value else value
        return first if isinstance(first, int) else 0


def table_of(model: ModelFile) -> ModelTable:
    """The table of a model file."""
    prefix = f"{model.architecture}."
    metadata = {key: value.decode() for key, value in model.metadata.items() if key.startswith(prefix)}
    return ModelTable(model.name, model.architecture, model.tensors, MappingProxyType(metadata), most_overhead(model))


def numbers_text(table: ModelTable) -> str:
    """The integers in the model's metadata as JSON, for storing in a profile."""
    numbers = {key: value for key, value in sorted(table.metadata.items()) if _is_numbers(value)}
    return json.dumps(numbers, separators=(",", ":"))


def numbers_of(text: str) -> Mapping[str, Value]:
    """Metadata from the text made by `numbers_text`; empty if the text is empty or not valid.

    >>> dict(numbers_of('{"llama.block_count": 32}'))
    {'llama.block_count': 32}
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if _is_numbers(value)} if isinstance(found, dict) else {}


def _is_numbers(value: Value) -> bool:
    return isinstance(value, int) or (isinstance(value, list) and all(isinstance(each, int) for each in value))


def guessed_architecture(tensors: Iterable[Tensor]) -> str:
    """llama.cpp's name of the architecture, guessed from tensor names for tables that do not give it.

    It only separates architectures that llama.cpp's mixtures treat differently; an empty string if none matches.
    """
    names = {local_name(tensor.name) for tensor in tensors}
    experts = any(map(is_expert, names))
    if "ssm_alpha.weight" in names:
        return "qwen35moe" if experts else "qwen35"
    if "attn_q_norm.weight" in names and "attn_q.bias" not in names:
        return "qwen3moe" if experts else "qwen3"
    if "attn_q.bias" in names:
        return "glm4moe" if experts else "qwen2"
    return "llama" if {"attn_q.weight", "attn_k.weight", "attn_v.weight"} <= names else ""
