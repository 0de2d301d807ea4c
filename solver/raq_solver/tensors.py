"""Tensors of model files, as the header describes them."""

import math
from dataclasses import dataclass

from raq_solver.quant_types import QuantType


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array of weights in a model file.

    `shape` is in GGUF order: the first number is the row length, along which blocks run. A third number above 1
    counts matrices (the experts of a mixture-of-experts layer). `source_type` is the type it is stored in now.

    >>> from raq_solver.quant_types import quant_type
    >>> tensor = Tensor("blk.0.ffn_up_exps.weight", (256, 64, 8), quant_type("F16"))
    >>> tensor.row_length, tensor.matrices, tensor.weights, tensor.size
    (256, 8, 131072, 262144)
    """

    name: str
    shape: tuple[int, ...]
    source_type: QuantType

    def __hash__(self) -> int:
        """That of the name, which is unique in a model: tensors are keys of many tables."""
        return hash(self.name)

    @property
    def row_length(self) -> int:
        """Weights in a row."""
        return self.shape[0]

    @property
    def matrices(self) -> int:
        """Matrices stacked in the tensor: experts, or 1."""
        return math.prod(self.shape[2:])

    @property
    def weights(self) -> int:
        """Weights in all."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Rows of all matrices."""
        return self.weights // self.row_length if self.row_length else 0

    @property
    def size(self) -> int:
        """Bytes as stored now."""
        return self.source_type.size(self.weights)
