"""Models with fewer layers: blocks are left out and the others renumbered, as by `llama-quantize --prune-layers`.

Unlike there, the values of metadata that are per block, or that count blocks of a kind, follow.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, TypeVar

from raq_client.models.gguf_header import StoredValue, array_without, stored
from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensor_names import block_of, in_block

_PART: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_LEADING: Final = "leading_dense_block_count"
_TRAILING: Final = "nextn_predict_layers"
_PERIODS: Final = ("full_attention_interval", "interleave_moe_layer_step", "attention.sliding_window_pattern")
"""Keys with a number n where every n-th block is of another kind."""

T = TypeVar("T")


def parse_layers(text: str) -> frozenset[int]:
    """The numbers in a list such as `3,5-7`. Raises InvalidInput for anything else.

    >>> sorted(parse_layers("3,5-7"))
    [3, 5, 6, 7]
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidInput(Fault(text, "is not a list of layers; write their numbers, as in 3,5-7"))
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def numbers_without(model: ModelFile, layers: Collection[int]) -> dict[int, int]:
    """The new number of each block of the model that is left without `layers`.

    Raises InvalidInput with every layer that the model does not have, if none is left, or if what a block computes
    depends on its number and would change.
    """
    count = _count(model, "block_count")
    unknown = sorted(layer for layer in layers if layer >= count)
    if unknown:
        named = ", ".join(map(str, unknown))
        raise InvalidInput(Fault(str(model.path), f"has no layer {named}; its {count} layers are numbered from 0"))
    kept = [block for block in range(count) if block not in layers]
    if not kept:
        raise InvalidInput(Fault(str(model.path), f"all of its {count} layers would be left out"))
    numbers = {block: number for number, block in enumerate(kept)}
    raise_faults(list(_out_of_step(model, numbers)))
    return numbers


def renumbered(things: Mapping[str, T], numbers: Mapping[int, int]) -> dict[str, T]:
    """Things by the names of tensors, under the new names; those of blocks without a number are left out.

    >>> renumbered({"output.weight": 1, "blk.0.ffn_up.weight": 2, "blk.1.ffn_up.weight": 3}, {1: 0})
    {'output.weight': 1, 'blk.0.ffn_up.weight': 3}
    """
    return {new: thing for name, thing in things.items() if (new := _renamed(name, numbers)) is not None}


def pruned_model(model: ModelFile, numbers: Mapping[int, int]) -> ModelFile:
    """The model with only these blocks, under their new numbers; its weights are read from the same files."""
    names = [tensor.name for tensor in model.tensors] + [info.name for _, info in model.empty]
    kept = {name: new for name in names if (new := _renamed(name, numbers)) is not None}
    return model.renamed(kept, dict(_metadata(model, numbers)))


def _renamed(name: str, numbers: Mapping[int, int]) -> str | None:
    block = block_of(name)
    if block < 0:
        return name
    return in_block(numbers[block], name) if block in numbers else None


def _metadata(model: ModelFile, numbers: Mapping[int, int]) -> Iterator[tuple[str, StoredValue]]:
    count = _count(model, "block_count")
    gone = [block for block in range(count) if block not in numbers]
    leading, trailing = _count(model, _LEADING), _count(model, _TRAILING)
    counts = {
        "block_count": len(numbers),
        _LEADING: leading - sum(block < leading for block in gone),
        _TRAILING: trailing - sum(block >= count - trailing for block in gone),
    }
    own = {f"{model.architecture}.{key}": number for key, number in counts.items()}
    for key, value in model.metadata.items():
        if key in own:
            yield key, stored(own[key])
        elif key.startswith(f"{model.architecture}."):
            yield key, array_without(value, gone, length=count)
        else:
            yield key, value


def _out_of_step(model: ModelFile, numbers: Mapping[int, int]) -> Iterator[Fault]:
    for key in _PERIODS:
        period = _count(model, key)
        if period > 1 and any(block % period != number % period for block, number in numbers.items()):
            what = f"one layer in {period} is of another kind ({model.architecture}.{key})"
            yield Fault(str(model.path), f"{what}: leave out {period} layers in a row, or layers at the end only")


def _count(model: ModelFile, key: str) -> int:
    value = model.architecture_value(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
