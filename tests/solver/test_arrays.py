"""Arguments of the solver: lists are converted, wrong ones are `InvalidInput`, arrays of the caller are left alone."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from raq_solver import (
    ActiveBytes,
    Allocation,
    AtMost,
    Domains,
    Exclude,
    Floor,
    InvalidInput,
    LossTable,
    LossUnit,
    Pin,
    Problem,
    Profile,
    Region,
    Tensor,
    Tie,
    quant_type,
    solve,
    sweep,
)
from raq_solver.knapsack import Distinct, Knapsack, Linear
from raq_solver.profile import FisherLosses

TABLE = LossTable(("a",), ("Q8", "Q4"), [256], [[272, 144]], [[0.0, 0.5]])
TENSORS = (Tensor("a", (256, 2), quant_type("F16")),)
TYPES = (quant_type("Q8_0"), quant_type("Q4_K"))


def profile(**changes: Any) -> Profile:
    given: dict[str, Any] = {
        "tensors": TENSORS,
        "quant_types": TYPES,
        "relative_errors": [[1e-5, 4e-3]],
        "energies": [7],
        "sensitivities": [np.nan],
        "sensitivity_errors": [np.nan],
    }
    return Profile(**given | changes)


def twice(names: str) -> Profile:
    """A profile of two tensors and two types that are the same."""
    unknown = [np.nan] * 2
    given: dict[str, Any] = {"tensors": (*TENSORS, replace(TENSORS[0], name="b")), "quant_types": TYPES}
    given[names] = given[names][:1] * 2
    return Profile(
        **given, relative_errors=[[0.1] * 2] * 2, energies=[1] * 2, sensitivities=unknown, sensitivity_errors=unknown
    )


def test_lists_are_tables_profiles_and_knapsacks() -> None:
    arrays = LossTable(
        ("a",), ("Q8", "Q4"), np.array([256]), np.array([[272, 144]]), np.array([[0.0, 0.5]], dtype=np.float32)
    )
    assert arrays.digest() == TABLE.digest()
    assert (TABLE.sizes.dtype, TABLE.losses.dtype) == (np.int64, np.float64)
    assert profile().digest() == profile(relative_errors=np.array([[1e-5, 4e-3]]), energies=np.array([7.0])).digest()
    assert Knapsack([[2, 1]], [[0, 1]], 2, (Linear([0], [[2, 1]], 2), Distinct([0], 1))).least_size() == 1
    assert solve(Problem(TABLE, 300, [Pin(["a"], "Q4")])).unwrap()[1].size == 144
    assert Domains([("one", TABLE)], np.int64(300)).capacity_bytes == 300


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LossTable(("a",), ("Q",), ["x"], [[1]], [[0.0]]), "weights: holds <U1; must hold whole numbers"),
        (lambda: LossTable(("a",), ("Q",), None, [[1]], [[0.0]]), "weights: is None; must hold whole numbers"),
        (lambda: LossTable(("a",), ("Q",), [1], [[1.5]], [[0.0]]), "sizes: holds float64; must hold whole numbers"),
        (lambda: LossTable(("a",), ("Q",), [1], [[True]], [[0.0]]), "sizes: holds bool; must hold whole numbers"),
        (lambda: LossTable(("a",), ("Q",), [1], [[2**63]], [[0.0]]), "sizes: holds a number above 2^63 - 1"),
        (lambda: LossTable(("a",), ("Q",), [1], [[2**64]], [[0.0]]), "sizes: holds object; must hold whole numbers"),
        (lambda: LossTable(("a", "b"), ("Q",), [1, 1], [[1], [1, 2]], [[0.0]]), "sizes: has rows of unequal length"),
        (lambda: LossTable(("a",), ("Q",), [1], [1], [[0.0]]), "1 tensors × 1 types, but sizes have shape (1,)"),
        (lambda: LossTable("a", ("Q",), [1], [[1]], [[0.0]]), "tensors: 'a' is no sequence of names"),
        (lambda: LossTable((1,), ("Q",), [1], [[1]], [[0.0]]), "tensors: (1,) is no sequence of names"),
        (lambda: LossTable(("a",), ("Q",), [1], [[1]], [[0.0]], unit="bits"), "unit: 'bits' is no unit of losses"),
        (lambda: twice("tensors"), "a: tensor listed 2 times"),
        (lambda: twice("quant_types"), "Q8_0: quant type listed 2 times"),
        (lambda: Problem("a", 1), "table: is a str; must be a LossTable"),
        (lambda: Problem(TABLE, 1.5), "capacity: 1.5 is no whole number of bytes"),
        (lambda: Problem(TABLE, 2**53 + 1), "capacity: more than 2^53 bytes; at most 2^53 are supported"),
        (lambda: Problem(TABLE, -1), "capacity: -1 bytes; must be at least 0"),
        (lambda: Problem(TABLE, 1, (Region(("a",), 10**400),)), "constraint 1 (Region): more than 2^53 bytes"),
        (lambda: Problem(TABLE, 1, (AtMost(("a",), 10**400, Fraction(4)),)), "(AtMost): more than 2^53 tensors"),
        (lambda: list(sweep(Problem(TABLE, 1), [1.5])), "capacity: 1.5 is no whole number of bytes"),
        (lambda: list(sweep(Problem(TABLE, 1), [-1])), "capacity: -1 bytes; must be at least 0"),
        (lambda: Problem(TABLE, "1"), "capacity: '1' is no whole number of bytes"),
        (lambda: Problem(TABLE, 300, Pin(("a",), "Q4")), "constraints: are a Pin; write a tuple of constraints"),
        (lambda: Problem(TABLE, 300, ("Q4",)), "constraint 1: is a str; must be a constraint"),
        (lambda: Problem(TABLE, 300, (Pin("a", "Q4"),)), "constraint 1 (Pin): tensors are 'a'; write a tuple of names"),
        (lambda: Problem(TABLE, 300, (Pin(("a",), 4),)), "constraint 1 (Pin): (4,) is no sequence of quant types"),
        (lambda: Problem(TABLE, 300, (Exclude(("a",), "Q4"),)), "(Exclude): 'Q4' is no sequence of quant types"),
        (lambda: Problem(TABLE, 300, (Floor(("a",), 4.5),)), "(Floor): 4.5 bits; write a Fraction"),
        (lambda: Problem(TABLE, 300, (AtMost(("a",), 1.0, Fraction(4)),)), "1.0 is no whole number of tensors"),
        (lambda: Problem(TABLE, 300, (Region(("a",), None),)), "(Region): None is no whole number of bytes"),
        (lambda: Problem(TABLE, 300, (ActiveBytes(("a",), (0.5,), 9),)), "shares are (0.5,); write a tuple of Fract"),
        (lambda: Problem(TABLE, 300, (Tie(("a",), "user"),)), "(Tie): source is 'user'; must be a Source"),
        (lambda: Domains(TABLE, 300), "domains: are a LossTable; write (name, LossTable) pairs"),
        (lambda: Domains((TABLE,), 300), "domain 1: must be a pair of a name and a LossTable"),
        (lambda: Domains((("one", TABLE),), 0.5), "capacity: 0.5 is no whole number of bytes"),
        (lambda: Domains((("one", TABLE),), 300, measure="nats"), "measure: is 'nats'; must be a WorstCaseMeasure"),
        (lambda: Domains((("one", TABLE),), 300, ("Q4",)), "constraint 1: is a str"),
        (lambda: profile(relative_errors=[["x", "y"]]), "relative_errors: holds <U1; must hold numbers"),
        (lambda: profile(energies=[7, 8]), "1 tensors × 2 types, but arrays have shapes"),
        (lambda: profile(tensors=("a",)), "tensors: must be a tuple of Tensor"),
        (lambda: profile(quant_types=("Q8_0",)), "quant_types: must be a tuple of QuantType"),
        (lambda: profile(provenance=None), "provenance: must be a mapping"),
        (lambda: profile(fisher=([[0.0, 0.0]], [0.0])), "fisher: must be FisherLosses or None"),
        (lambda: FisherLosses("x", [0.0]), "Fisher losses: holds <U1; must hold numbers"),
        (lambda: profile(fisher=FisherLosses([[0.0, 0.0]], [0.0], [[0.0]])), "arrays have shapes"),
        (lambda: profile(fisher=FisherLosses([[0.0, 0.0]], [0.0], [[0.0, -1.0]])), "Fisher information that is neg"),
        (lambda: Knapsack([[1, 2]], [[0.0]], 3), "sizes have shape (1, 2), losses (1, 1)"),
        (lambda: Knapsack([[1.5]], [[0.0]], 3), "sizes: holds float64; must hold whole numbers"),
        (lambda: Knapsack([[1]], [[0.0]], 3.0), "capacity: 3.0 is no whole number of bytes"),
        (lambda: Knapsack([[1]], [[0.0]], 3, ("row",)), "side row 1: 'row' is neither Linear nor Distinct"),
        (lambda: Knapsack([[1]], [[0.0]], 3, (Distinct([1], 1),)), "side row 1: names a row outside of 0 to 0"),
        (lambda: Knapsack([[1]], [[0.0]], 3, (Linear([0], [[1, 2]], 1),)), "side row 1: 2 columns; must be 1"),
        (lambda: Linear([0, 1], [[1]], 1), "side row: rows have shape (2,), coefficients (1, 1)"),
        (lambda: Allocation(("a", "Q4")), "allocation: is a tuple; must be a mapping"),
    ],
)
def test_what_can_not_be_used_is_named(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        make()
    assert said in str(error.value)


def test_arrays_of_the_caller_stay_writable_and_unchanged() -> None:
    sizes, losses, weights = np.array([[272, 144]]), np.array([[0.0, 0.5]]), np.array([256])
    table = LossTable(("a",), ("Q8", "Q4"), weights, sizes, losses)
    errors, energies, unknown = np.array([[1e-5, 4e-3]]), np.array([7.0]), np.array([np.nan])
    fisher_losses, fisher_energies = np.array([[0.1, 0.2]]), np.array([0.3])
    made = profile(
        relative_errors=errors,
        energies=energies,
        sensitivities=unknown,
        sensitivity_errors=unknown,
        sampling_errors=(sampled := np.zeros((1, 2))),
        fisher=FisherLosses(fisher_losses, fisher_energies),
    )
    knapsack = Knapsack(sizes, losses, 300)
    given = (sizes, losses, weights, errors, energies, unknown, sampled, fisher_losses, fisher_energies)
    assert all(array.flags.writeable for array in given)
    solve(Problem(table, 300))
    before = made.digest(), table.digest()
    for array in given:
        np.add(array, 1, out=array)
    assert (made.digest(), table.digest()) == before
    assert knapsack.sizes is sizes
    for kept in (table.losses, made.relative_errors, made.fisher.losses, made.sampling_errors):
        with pytest.raises(ValueError, match="read-only"):
            kept[0, 0] = 1


def test_a_unit_is_given_by_name_or_by_text() -> None:
    assert LossTable(("a",), ("Q",), [1], [[1]], [[0.0]], unit="nats per token").unit is LossUnit.NATS
    assert TABLE.unit is LossUnit.UNKNOWN
