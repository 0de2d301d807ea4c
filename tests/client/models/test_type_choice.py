"""Which types a tensor may choose from."""

import pytest

from raq_client.models.quantizable import candidates
from raq_client.models.type_choice import FAMILIES, chosen_types
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor

WIDE = Tensor("blk.0.ffn_down.weight", (1536, 576), CATALOGUE["F16"])
NARROW = Tensor("blk.0.ffn_up.weight", (576, 1536), CATALOGUE["F16"])
ODD = Tensor("blk.0.attn_k.weight", (100, 64), CATALOGUE["F16"])


def names(tensor: Tensor, *given: str) -> set[str]:
    return {q.name for q in chosen_types(given).of(tensor)}


def test_nothing_named_is_auto_and_auto_fits_the_rows() -> None:
    assert names(WIDE) == names(WIDE, "auto") == names(WIDE, "AUTO")
    assert {"Q6_K", "Q2_K", "IQ4_XS", "IQ2_XXS", "Q8_0"} <= names(WIDE)
    assert names(NARROW) == {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
    for tensor in (WIDE, NARROW):
        assert all(CATALOGUE[name].fits(tensor.row_length) for name in names(tensor))


def test_auto_never_offers_what_is_made_for_other_models() -> None:
    offered = names(WIDE) | names(NARROW)
    assert not offered & {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0", "IQ1_S", "IQ1_M"}
    assert not names(WIDE) & {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"}


def test_rows_that_no_block_divides_stay_as_they_are() -> None:
    assert names(ODD) <= names(NARROW)
    assert [q.name for q in candidates(ODD, chosen_types(()).of(ODD))] == ["F16"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_stand_for_their_types_and_can_be_mixed_with_auto(family: str) -> None:
    assert names(WIDE, family) == set(FAMILIES[family])
    assert names(NARROW, "auto", family) == names(NARROW) | set(FAMILIES[family])


def test_all_holds_every_family() -> None:
    assert set(FAMILIES["all"]) >= set(FAMILIES["k"]) | set(FAMILIES["iq"]) | set(FAMILIES["legacy"])


def test_every_unknown_name_is_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        chosen_types(("auto", "Q4_X", "Q9_K"))
    assert len(caught.value.faults) == 2
