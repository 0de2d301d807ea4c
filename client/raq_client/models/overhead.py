"""What a file holds besides tensor data: metadata (mostly the vocabulary), the list of tensors, padding."""

from typing import Final

from raq_client.models.gguf_header import DEFAULT_ALIGNMENT
from raq_client.models.model_file import ModelFile

ADDED: Final = 8_192
"""Bytes kept for the metadata that quantizing adds: two texts of at most 127 bytes, digests, names."""
_FIXED: Final = 24
_BLOCKS: Final = 256
"""Weights of the largest block; a tensor of 32 such blocks has a multiple of 32 bytes in every type."""


def most_overhead(model: ModelFile) -> int:
    """The most bytes that are not tensor data in a file made from this model, whatever the types of its tensors."""
    alignment = max(model.alignment, DEFAULT_ALIGNMENT)
    keys = sum(12 + len(key.encode()) + len(value.raw) for key, value in model.metadata.items())
    names = [tensor.name for tensor in model.tensors] + [info.name for _, info in model.empty]
    infos = sum(8 + len(name.encode()) + 4 + 8 * 4 + 12 for name in names)
    padded = sum(tensor.weights % (_BLOCKS * alignment) != 0 for tensor in model.tensors)
    return _FIXED + keys + infos + ADDED + alignment + padded * (alignment - 1)
