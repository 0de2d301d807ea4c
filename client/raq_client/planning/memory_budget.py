"""The budget for weights from a device's memory, and the largest context that fits beside given weights.

    memory = weights on the device + keys and values + recurrent state + compute buffer + overhead

Every term is shown to the user. What no formula gives (driver, desktop, vision encoder, fragmentation) is the overhead,
which the user measures and states.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from raq_client.planning.memory_shape import MemoryShape
from raq_solver.budget import TotalBytes, parse_budget
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

_CELLS: Final = 256
"""llama.cpp rounds contexts up to a multiple of this."""
_F32_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Serving:
    """The settings with which the model will run. `context` is the total over all sequences, like llama.cpp's `-c`.

    `overhead` in bytes. `batch` is llama.cpp's n_ubatch, the tokens computed at once.
    """

    context: int
    key_type: QuantType = CATALOGUE["F16"]
    value_type: QuantType = CATALOGUE["F16"]
    sequences: int = 1
    batch: int = 512
    overhead: int = 0

    def __post_init__(self) -> None:
        numbers = {"context": self.context, "sequences": self.sequences, "batch": self.batch}
        faults = [Fault(name, f"{number}; must be at least 1") for name, number in numbers.items() if number < 1]
        if self.overhead < 0:
            faults.append(Fault("overhead", f"{self.overhead} bytes; must be at least 0"))
        raise_faults(faults)


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory: its bytes, and the formula as text."""

    name: str
    size: int
    formula: str


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """A device's memory in bytes, and the terms to subtract for everything but weights."""

    memory: int
    terms: tuple[Term, ...]

    @property
    def weights(self) -> int:
        """Bytes left for weights on the device."""
        return self.memory - sum(term.size for term in self.terms)


def weights_budget(memory: int, shape: MemoryShape, serving: Serving) -> MemoryBudget:
    """The bytes of weights that fit on a device with `memory` bytes.

    Raises InvalidInput if the other terms alone are too large, or the cache types do not fit the model's heads.
    """
    budget = MemoryBudget(memory, memory_terms(shape, serving))
    if budget.weights <= 0:
        terms = ", ".join(f"{term.name} {term.size:,}" for term in budget.terms)
        what = f"{memory:,} bytes are too few even without weights ({terms}); shorten the context"
        raise InvalidInput(Fault("memory", what))
    return budget


def memory_terms(shape: MemoryShape, serving: Serving) -> tuple[Term, ...]:
    """All terms except the weights. Raises InvalidInput if the cache types do not fit the model's heads."""
    _check_cache_types(shape, serving)
    context = _padded(serving.context)
    grown = [layer for layer in shape.layers if not layer.window]
    sliding = [layer for layer in shape.layers if layer.window and layer.keys]
    per_token = sum(_token_bytes(layer.keys, layer.values, serving) for layer in grown)
    terms = [Term("keys and values", per_token * context, f"{context:,} tokens × {per_token:,} bytes")]
    if sliding:
        size = sum(
            _token_bytes(layer.keys, layer.values, serving) * _window_cells(layer.window, context, serving)
            for layer in sliding
        )
        terms.append(Term("sliding windows", size, f"{len(sliding)} blocks, at most {sliding[0].window:,} tokens each"))
    state = _F32_BYTES * sum(layer.state for layer in shape.layers)
    if state:
        formula = f"{serving.sequences} sequences × {state:,} bytes"
        terms.append(Term("recurrent state", state * serving.sequences, formula))
    compute = serving.batch * shape.vocabulary * _F32_BYTES
    formula = f"{serving.batch} tokens × {shape.vocabulary:,} logits × 4 bytes (estimate)"
    terms.append(Term("compute buffer", compute, formula))
    terms.append(Term("overhead", serving.overhead, "as stated"))
    return tuple(terms)


def largest_context(memory: int, weights: int, shape: MemoryShape, serving: Serving) -> int:
    """The largest context, in tokens, that fits beside `weights` bytes of weights; 0 if not even the shortest fits.

    The context of `serving` is ignored; the result is at most the model's own longest context.
    """

    def fits(context: int) -> bool:
        terms = memory_terms(shape, replace(serving, context=context))
        return weights + sum(term.size for term in terms) <= memory

    if not fits(_CELLS):
        return 0
    longest = shape.longest_context or 2**30
    if fits(longest):
        return longest
    # Bisection in llama.cpp's steps of 256 cells; `low` fits, `high` does not.
    low, high = 1, _padded(longest) // _CELLS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * _CELLS) else (low, middle)
    return low * _CELLS


def device_bytes(types: Mapping[Tensor, QuantType], host: Iterable[str] = ()) -> int:
    """The bytes of the tensors not kept on the host. Raises InvalidInput with every unknown name in `host`."""
    kept = set(host)
    faults = [Fault(name, "kept on the host, but not a tensor") for name in kept - {tensor.name for tensor in types}]
    raise_faults(faults)
    return sum(chosen.size(tensor.weights) for tensor, chosen in types.items() if tensor.name not in kept)


def parse_context(text: str) -> int:
    """Parse a number of tokens, such as `184320` or `184k`; k is 1024, M is 1024².

    Raises InvalidInput for anything else.

    >>> parse_context("32k"), parse_context("184_320")
    (32768, 184320)
    """
    found = re.fullmatch(r"\s*(\d[\d_,]*)\s*([kKmM]?)\s*", text)
    if found is None:
        raise InvalidInput(Fault(text, "not a context; write a number of tokens, such as 32768 or 184k"))
    return int(re.sub("[_,]", "", found[1])) * {"": 1, "k": 2**10, "m": 2**20}[found[2].lower()]


def parse_size(text: str) -> int:
    """Parse a size with a unit, such as `24GiB`, `24G` or `3GB`, to bytes; 0 needs no unit.

    K, M, G and T alone are powers of 1024, as for `docker -m` and Slurm.

    Raises InvalidInput for anything else.

    >>> parse_size("24GiB") == parse_size("24G"), parse_size("3GB"), parse_size("0")
    (True, 3000000000, 0)
    """
    if re.fullmatch(r"\s*0+(\.0*)?\s*[A-Za-z]*\s*", text):
        return 0
    budget = parse_budget(text)
    if not isinstance(budget, TotalBytes):
        raise InvalidInput(Fault(text, "not a size; write it with a unit, such as 24GiB"))
    return budget.count


def _token_bytes(keys: int, values: int, serving: Serving) -> int:
    return serving.key_type.size(keys) + serving.value_type.size(values)


def _window_cells(window: int, context: int, serving: Serving) -> int:
    return min(context, _padded(window * serving.sequences + serving.batch))


def _padded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS


def _check_cache_types(shape: MemoryShape, serving: Serving) -> None:
    faults = []
    for kind, quant_type in (("keys", serving.key_type), ("values", serving.value_type)):
        lengths = {getattr(layer, kind) for layer in shape.layers} - {0}
        faults += [
            Fault(quant_type.name, f"can't hold {kind}: {length} numbers per token are not whole blocks")
            for length in sorted(lengths)
            if not quant_type.fits(length)
        ]
    raise_faults(faults)
