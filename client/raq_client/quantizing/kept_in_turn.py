"""Keys of tensors that were rounded one block after the other: what each depends on beside itself.

A tensor is corrected for the inputs that the rounded tensors before it give. So its bytes depend on the types and bytes
of all of these, on every weight of the model and every token that passes through it, and on the arithmetic of the
passes. Tensors that are rounded apart in the pass too (the embedding) have the keys that they have anywhere.

Rules
- A whole block counts as being before each of its tensors: so what changes in a block leaves nothing of it, or of later
  blocks, to be reused.
"""

import hashlib
from collections.abc import Mapping
from itertools import groupby
from typing import Final

from raq_client.models.model_file import ModelFile
from raq_client.quantizing.arithmetic import arithmetic_digest
from raq_client.quantizing.rounding import Rounding
from raq_client.quantizing.sequential import has_drift
from raq_client.quantizing.tensor_store import tensor_key
from raq_solver.quant_types import QuantType
from raq_solver.tensor_names import TOKEN_EMBEDDING, block_of
from raq_solver.tensors import Tensor

SEQUENTIAL: Final = "sequential 2"
"""Changed whenever the same inputs would be rounded to other blocks; what was kept is then not found."""


def keys_in_turn(model: ModelFile, types: Mapping[Tensor, QuantType], rounding: Rounding) -> dict[Tensor, str]:
    """The keys of the tensors whose types change, as `sequentially_rounded` rounds them.

    Raises InvalidInput if a file can't be read.
    """
    compensation = rounding.compensation
    assert compensation is not None, "without statistics nothing is rounded in turn"
    gram = compensation.gram
    own = {
        tensor: tensor_key(model, tensor, wanted, rounding)
        for tensor, wanted in types.items()
        if wanted != tensor.source_type
    }
    state = hashlib.sha256(f"{SEQUENTIAL} {model.fingerprint()} {gram.digest()} {arithmetic_digest()}".encode())
    found = dict(own)
    for _, together in groupby(sorted(own, key=_turn), key=_turn):
        tensors = sorted(together, key=lambda tensor: tensor.name)
        for tensor in tensors:
            state.update(f"{tensor.name} {own[tensor]}\0".encode())
        drifting = [tensor for tensor in tensors if has_drift(tensor, gram)]
        found |= {tensor: hashlib.sha256(state.digest() + own[tensor].encode()).hexdigest() for tensor in drifting}
    return found


def _turn(tensor: Tensor) -> tuple[bool, int]:
    """When a tensor is rounded: the embedding first, then block after block, then what is outside of the blocks."""
    block = block_of(tensor.name)
    return (block < 0 and tensor.name != TOKEN_EMBEDDING, block)
