"""llama.cpp's default mixtures: the type that llama-quantize gives each tensor for a file type such as Q4_K_M.

Some rules count the tensors of a kind in llama-quantize's order (`processing_order`). A tensor with an override is not
counted, so overrides shift the extra bits of later tensors: see `Counting`.
Source: llama_tensor_get_type_impl in src/llama-quant.cpp of llama.cpp 0c1e57098, reimplemented and compared with
`llama-quantize --dry-run` on 148,326 tensors (12 models, 35 file types).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, unique
from functools import lru_cache
from typing import Final

from raq_client.models.file_types import FileType
from raq_client.models.quantizable import fitting_type, is_quantizable
from raq_client.models.table import ModelTable
from raq_client.recipes.mixture_rules import Facts, Kind, Place, kind_of, mixture_type
from raq_client.recipes.overrides import Override, resolve
from raq_solver.errors import Fault, raise_faults
from raq_solver.quant_types import QuantType
from raq_solver.tensor_names import block_of, is_expert, is_tied
from raq_solver.tensors import Tensor

MIXTURES: Final = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
"""File types of llama.cpp that need no importance, to compare with."""


@unique
class Counting(Enum):
    """How overrides of a mixture affect the tensors that they do not match."""

    LLAMA_CPP = "overridden tensors are not counted, so later ones get other types: what llama-quantize writes"
    RESOLVED = "every other tensor keeps the type it has in the plain file"


def mixture(
    table: ModelTable,
    file_type: FileType,
    *,
    has_importance: bool = True,
    overrides: Sequence[Override] = (),
    counting: Counting = Counting.LLAMA_CPP,
    pure: bool = False,
) -> dict[Tensor, QuantType]:
    """The type of every tensor, in file order, in the file that llama-quantize would write.

    `pure` gives every quantizable tensor without an override the base type, like `--pure`. A type that does not fit a
    tensor's rows is replaced by llama.cpp's substitute. Raises InvalidInput with every tensor that has none.
    """
    facts = facts_of(table, has_importance=has_importance)
    quantizable = _quantizable(table)
    named: Mapping[str, QuantType] = resolve(overrides, [tensor.name for tensor in quantizable])
    # llama-quantize ignores overrides and rules if the file type itself is not quantized.
    plain = file_type.base.weights_per_block == 1
    named = {} if plain else named
    type_of = _pure(file_type) if pure or plain else _counted(facts, file_type)
    chosen: dict[Tensor, QuantType] = {}
    for tensor in quantizable:
        override = named.get(tensor.name)
        if override is None or counting is Counting.RESOLVED:
            chosen[tensor] = type_of(tensor)
        chosen[tensor] = override or chosen[tensor]
    fitted = {tensor: fitting_type(wanted, tensor.row_length) for tensor, wanted in chosen.items()}
    raise_faults(
        [
            Fault(
                tensor.name,
                f"rows of {tensor.row_length} can't be {chosen[tensor].name}, and llama.cpp has no substitute",
            )
            for tensor, found in fitted.items()
            if found is None
        ]
    )
    return {tensor: fitted.get(tensor) or tensor.source_type for tensor in table.tensors}


def tensor_bytes(types: Mapping[Tensor, QuantType]) -> int:
    """The size of the tensor data in these types, bytes."""
    return sum(quant_type.size(tensor.weights) for tensor, quant_type in types.items())


def nearest_in_size(mixtures: Mapping[str, Mapping[Tensor, QuantType]], size: int) -> str:
    """The name of the mixture whose tensor data is nearest to `size` bytes; of equally near ones the first."""
    return min(mixtures, key=lambda name: abs(tensor_bytes(mixtures[name]) - size))


def processing_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in llama-quantize's processing order: those outside of blocks first, then by block and name."""
    return sorted(tensors, key=lambda tensor: (block_of(tensor.name), tensor.name.encode()))


@lru_cache(maxsize=2)  # the mixtures of a model are often wanted one after the other
def _quantizable(table: ModelTable) -> tuple[Tensor, ...]:
    """The quantizable tensors in llama-quantize's processing order."""
    return tuple(tensor for tensor in processing_order(table.tensors) if is_quantizable(tensor, table.architecture))


def facts_of(table: ModelTable, *, has_importance: bool) -> Facts:
    """The properties that the rules use. Numbers of heads and experts come from the metadata, else from shapes."""
    by_name = {tensor.name: tensor for tensor in table.tensors}
    kinds = Counter(kind_of(tensor.name) for tensor in _quantizable(table))
    experts = table.number("expert_count") or max((t.shape[2] for t in table.tensors if _is_expert(t)), default=0)
    return Facts(
        architecture=table.architecture,
        blocks=table.block_count,
        experts=experts,
        queries_per_key=_queries_per_key(table, by_name),
        value_tensors=kinds[Kind.VALUE],
        tied=is_tied(by_name),
        has_importance=has_importance,
    )


def _queries_per_key(table: ModelTable, by_name: Mapping[str, Tensor]) -> int:
    if table.number("attention.head_count"):
        keys = table.number("attention.head_count_kv")
        return table.number("attention.head_count") // keys if keys else 0
    for block in range(table.block_count):
        output, value = (by_name.get(f"blk.{block}.attn_{part}.weight") for part in ("output", "v"))
        if output is not None and value is not None:
            return output.row_length // value.rows
    return 1


def _is_expert(tensor: Tensor) -> bool:
    return is_expert(tensor.name) and len(tensor.shape) > 2


def _pure(file_type: FileType) -> Callable[[Tensor], QuantType]:
    return lambda _tensor: file_type.base


def _counted(facts: Facts, file_type: FileType) -> Callable[[Tensor], QuantType]:
    """A function that returns a tensor's type; it counts its calls, so call it in processing order."""
    seen: Counter[Kind] = Counter()

    def type_of(tensor: Tensor) -> QuantType:
        kind = kind_of(tensor.name)
        # Experts of one layer may be several tensors: in that case the layer is taken from the name.
        layer = block_of(tensor.name) if facts.experts > 1 else seen[kind]
        place = Place(tensor, kind, layer, seen[kind])
        seen[kind] += 1
        return mixture_type(facts, file_type, place)

    return type_of
