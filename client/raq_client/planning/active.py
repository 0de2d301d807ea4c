"""What a model reads of its weights for every token that it generates: the demand that bounds its speed."""

from fractions import Fraction

from raq_client.models.table import ModelTable
from raq_client.planning.vram import parse_size
from raq_solver.constraints import ActiveBytes
from raq_solver.errors import Fault, InvalidInput
from raq_solver.tensor_names import TOKEN_EMBEDDING, is_expert, is_tied
from raq_solver.tensors import Tensor

FLAG = "--active-bytes"


def active_bytes(text: str, table: ModelTable, experts_used: int | None = None) -> ActiveBytes:
    """At most so much (a size, as 3GiB) is read per token.

    A token reads the used share of stacked experts, one row of an embedding that is not the output too, and everything
    else whole. `experts_used` stands in for the metadata's expert_used_count.
    Raises InvalidInput if that is known from neither, or is more than there are experts.
    """
    names = tuple(tensor.name for tensor in table.tensors)
    shares = tuple(_share(tensor, table, experts_used, tied=is_tied(names)) for tensor in table.tensors)
    said = f"{FLAG} {text}" + ("" if experts_used is None else f" --experts-used {experts_used}")
    return ActiveBytes(names, shares, parse_size(text), reason=said)


def _share(tensor: Tensor, table: ModelTable, experts_used: int | None, *, tied: bool) -> Fraction:
    if tensor.name == TOKEN_EMBEDDING and not tied:
        return Fraction(1, tensor.rows)
    if not is_expert(tensor.name):
        return Fraction(1)
    experts = table.number("expert_count") or tensor.shape[-1]
    used = experts_used or table.number("expert_used_count")
    if not used:
        what = f"how many of the {experts} experts does a token use? The model does not say: give --experts-used"
        raise InvalidInput(Fault(FLAG, what))
    if used > experts:
        raise InvalidInput(Fault("--experts-used", f"{used} of {experts} experts; there are not so many"))
    return Fraction(used, experts)
