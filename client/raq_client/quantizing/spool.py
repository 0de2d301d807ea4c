"""Rounded tensors kept in files until all of a model are written."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from raq_client.files.atomic_file import atomic_file
from raq_client.models.model_file import CHUNK_WEIGHTS
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

Blocks = UInt8[np.ndarray, "rows size"]


class Spool:
    """The blocks of tensors in `folder`, a file for each, which appears complete or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, tensor: Tensor) -> bool:
        return self._path(tensor).exists()

    def keep(self, tensor: Tensor, blocks: Iterable[Blocks]) -> None:
        """Write the blocks of a tensor. Raises InvalidInput if they can't be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._path(tensor), force=True) as file:
            for each in blocks:
                file.write(each.tobytes())

    def mapped(self, tensor: Tensor, wanted: QuantType) -> Blocks:
        """The blocks of a kept tensor, read as they are used."""
        size = wanted.size(tensor.row_length)
        return np.memmap(self._path(tensor), np.uint8, "r").reshape(-1, size)

    def read(self, tensor: Tensor, wanted: QuantType) -> Iterator[Blocks]:
        """The same, some rows at a time."""
        rows = self.mapped(tensor, wanted)
        step = max(1, CHUNK_WEIGHTS // tensor.row_length)
        for first in range(0, len(rows), step):
            yield np.ascontiguousarray(rows[first : first + step])

    def _path(self, tensor: Tensor) -> Path:
        return self._folder / hashlib.sha256(tensor.name.encode()).hexdigest()[:32]
