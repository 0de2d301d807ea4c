"""Faults of tables and constraints: all at once, each naming the place and the way out."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from raq_solver import (
    ActiveBytes,
    Allocation,
    AtMost,
    DistinctTypes,
    Exclude,
    Floor,
    InvalidInput,
    Limits,
    LossTable,
    Monotone,
    Pin,
    Problem,
    Region,
    Tie,
    account,
)

TABLE = LossTable(
    ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight"),
    ("F16", "Q8_0", "Q4_K"),
    np.array([256, 256, 256]),
    np.array([[512, 272, 144]] * 3),
    np.array([[0.0, 0.1, 0.4], [0.0, 0.2, 0.8], [0.0, 0.1, np.inf]]),
)
Q, K = "blk.0.attn_q.weight", "blk.0.attn_k.weight"


def faults(*constraints: object) -> str:
    with pytest.raises(InvalidInput) as error:
        Problem(TABLE, 1000, constraints)
    return str(error.value)


def test_every_fault_is_told_at_once() -> None:
    said = faults(
        Pin(("blk.0.attn_q.wieght",), "Q4_X"),
        Floor((), Fraction(0)),
        Exclude((Q,), ()),
        Tie((Q, Q)),
        AtMost((Q,), -1, Fraction(4)),
        DistinctTypes((Q,), 0),
        Region((Q,), -1),
        ActiveBytes((Q, K), (Fraction(2),), 1),
        ActiveBytes((Q,), (Fraction(3, 2),), 1),
    )
    for words in (
        "constraint 1 (Pin): no tensor named blk.0.attn_q.wieght (did you mean blk.0.attn_q.weight",
        "constraint 1 (Pin): Q4_X is not among the quant types F16, Q8_0, Q4_K",
        "constraint 2 (Floor): names no tensor",
        "constraint 2 (Floor): 0 bits; must be more than 0",
        "constraint 3 (Exclude): names no quant type",
        "constraint 4 (Tie): names blk.0.attn_q.weight 2 times",
        "constraint 5 (AtMost): -1 tensors; must be at least 0",
        "constraint 6 (DistinctTypes): 0 quant types; must be at least 1",
        "constraint 7 (Region): -1 bytes; must be at least 0",
        "constraint 8 (ActiveBytes): 1 shares for 2 tensors",
        "constraint 9 (ActiveBytes): a share lies between 0 and 1, not so blk.0.attn_q.weight 3/2",
    ):
        assert words in said


def test_contradictions_name_their_constraints() -> None:
    assert faults(Pin((K,), "Q4_K")) == f"{K}: no quant type is left by constraint 1 (Pin)"
    both = faults(Pin((Q,), "Q4_K"), DistinctTypes((Q,), 1), Floor((Q,), Fraction(8)))
    assert both == f"{Q}: no quant type is left by constraint 1 (Pin) and constraint 3 (Floor)"
    tied = faults(Tie((Q, K)), Pin((Q,), "Q4_K"))
    assert tied == f"{Q} = {K}: the tied tensors have no quant type in common by constraint 2 (Pin)"


def test_bits_need_weights() -> None:
    unweighed = replace(TABLE, weights=np.array([256, 0, 256]))
    for constraint in (Floor((Q,), Fraction(4)), AtMost((Q,), 1, Fraction(4)), Monotone((Q, K))):
        with pytest.raises(InvalidInput, match="needs the number of weights of every tensor"):
            Problem(unweighed, 1000, (constraint,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses": np.full((3, 3), np.nan)}, "token_embd.weight as F16: loss is nan"),
        ({"losses": np.full((3, 3), -1.0)}, "token_embd.weight as F16: loss is -1.0"),
        ({"losses": np.full((3, 3), np.inf)}, "no quant type is offered"),
        ({"losses": np.full((3, 3), 1e308)}, "losses add up to more than 1e250"),
        ({"sizes": np.zeros((3, 3), dtype=np.int64)}, "size is 0 bytes"),
        ({"sizes": np.full((3, 3), 2**52)}, "at most 2^53"),
        ({"sizes": np.full((3, 3), 1.5)}, "sizes: holds float64; must hold whole numbers"),
        ({"sizes": np.ones((2, 3), dtype=np.int64)}, "3 tensors × 3 types, but sizes have shape (2, 3)"),
        ({"weights": np.array([-1, 1, 1])}, "token_embd.weight: has -1 weights"),
        ({"tensors": ("a", "a", "")}, "tensor listed 2 times"),
        ({"tensors": (), "weights": np.zeros(0, dtype=np.int64)}, "0 tensors × 3 types"),
    ],
)
def test_faults_of_tables(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        replace(TABLE, **changes)
    assert said in "\n".join(map(str, error.value.faults))


def test_a_table_keeps_its_own_copy_and_can_not_be_written() -> None:
    sizes = np.array([[512, 272, 144]] * 3)
    table = replace(TABLE, sizes=sizes)
    sizes[0, 0] = 1
    assert table.sizes[0, 0] == 512
    with pytest.raises(ValueError, match="read-only"):
        table.sizes[0, 0] = 1


def test_digests_tell_problems_apart() -> None:
    problem = Problem(TABLE, 1000, (Tie((Q, K)),))
    others = [
        replace(problem, capacity_bytes=1001),
        replace(problem, constraints=()),
        replace(problem, table=replace(TABLE, losses=TABLE.losses * 2)),
        replace(problem, table=replace(TABLE, tensors=("a", Q, K))),
    ]
    assert len({problem.digest(), *(other.digest() for other in others)}) == 5
    assert Problem(replace(TABLE), 1000, (Tie((Q, K)),)).digest() == problem.digest()


def test_an_account_tells_every_fault() -> None:
    with pytest.raises(InvalidInput) as error:
        account(Allocation({"token_embd.weight": "Q4_K", K: "Q4_K", "output": "F16"}), TABLE, 1000)
    said = str(error.value)
    assert f"{K}: can't be stored as Q4_K" in said
    assert f"{Q}: has no quant type in the allocation" in said
    assert "output: not a tensor of the table" in said


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_limits_are_times(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="seconds; must be at least 0"):
        Limits(seconds)


def test_names_like_unknown_ones_are_looked_for_a_few_times_only() -> None:
    """Each is compared with all known names: for thousands that takes minutes."""
    wrong = tuple(f"blk.{i}.attn_q.wieght" for i in range(50))
    given = [(Pin(wrong, "Q8_0"), *(Pin((name,), "Q8_0") for name in wrong))]
    with pytest.raises(InvalidInput) as caught:
        Problem(TABLE, 1, *given)
    assert len(caught.value.faults) == 100
    assert sum("did you mean" in fault.what for fault in caught.value.faults) == 3
    with pytest.raises(InvalidInput) as caught:
        account(Allocation(dict.fromkeys(wrong, "Q8_0")), TABLE, 1)
    assert sum("did you mean" in fault.what for fault in caught.value.faults) == 3


def test_every_tensor_without_a_type_has_its_own_culprits() -> None:
    names = TABLE.tensors
    forbidden = [Exclude((name,), TABLE.quant_types, reason=name) for name in names]
    with pytest.raises(InvalidInput) as caught:
        Problem(TABLE, 1, (Floor(names, Fraction(1, 100)), *forbidden))
    assert [str(fault) for fault in caught.value.faults] == [
        f"{name}: no quant type is left by constraint {number} (Exclude)" for number, name in enumerate(names, start=2)
    ]
