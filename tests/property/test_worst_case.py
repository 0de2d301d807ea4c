"""Laws of the worst case over domains: it equals trying everything, its certificate proves a bound, and no domain's own
best is better than it says."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from instances import made
from oracles.every_allocation import feasible
from raq_solver import Limits, LossTable, Measure, Termination, solve, solve_worst_case, verify_worst_case
from raq_solver.worst_case import Domains, WorstCase
from strategies import domains

ALIKE = 1e-8
"""Own bests with side constraints come from HiGHS, which works to about nine digits."""


@settings(max_examples=150)
@given(domains())
def test_equals_brute_force(question: Domains) -> None:
    found = solve_worst_case(question)
    every = [losses for _, losses in allocations(question)]
    if not every:
        assert found.termination is Termination.INFEASIBLE
        assert found.allocation is None
        assert found.worst is None
        return
    assert found.termination is Termination.OPTIMAL
    least = [min(losses[number] for losses in every) for number in range(len(question.tables))]
    for domain, best in zip(found.domains, least, strict=True):
        assert domain.best.unwrap()[1].loss == pytest.approx(best, rel=ALIKE, abs=ALIKE * max(every[0][0], 1e-300))
    references = [domain.reference for domain in found.domains]
    worst = min(max(loss / by for loss, by in zip(losses, references, strict=True)) for losses in every)
    assert found.worst == pytest.approx(worst, rel=1e-9)
    assert found.bound == found.worst


@settings(max_examples=60)
@given(domains(most_tensors=12, most_types=6))
def test_verifies_and_the_certificate_proves_a_bound(question: Domains) -> None:
    found = solve_worst_case(question)
    check = verify_worst_case(question, found)
    assert check.holds, check.faults
    if found.worst is None or check.certified_bound is None:
        return
    assert check.loss == pytest.approx(found.worst, rel=1e-12)
    assert check.certified_bound <= found.worst * (1 + 1e-9)
    assert sum(domain.weight for domain in found.domains) == pytest.approx(1)


@settings(max_examples=60)
@given(domains())
def test_no_ratio_is_below_one_and_nats_count_as_they_are(question: Domains) -> None:
    found = solve_worst_case(question)
    for domain in found.domains:
        if domain.ratio is not None:
            assert domain.ratio >= 1 - ALIKE
    if question.measure is Measure.NATS and found.allocation is not None:
        assert found.worst == max(domain.ledger.loss for domain in found.domains if domain.ledger is not None)


@settings(max_examples=40)
@given(domains())
def test_one_domain_alone_is_the_plain_problem(question: Domains) -> None:
    alone = replace(question, tables=question.tables[:1], measure=Measure.NATS)
    found = solve_worst_case(alone)
    plain = solve(alone.problems()[0])
    assert found.termination is plain.termination
    if plain.ledger is not None:
        assert found.worst == pytest.approx(plain.ledger.loss, rel=ALIKE, abs=1e-300)


@settings(max_examples=30)
@given(domains(most_tensors=12, most_types=6))
def test_without_time_nothing_false_is_claimed(question: Domains) -> None:
    stopped, proven = solve_worst_case(question, Limits(0.0)), solve_worst_case(question)
    if proven.worst is None:
        assert stopped.worst is None
    elif stopped.worst is not None and stopped.bound is not None and question.measure is Measure.NATS:
        assert stopped.bound <= proven.worst * (1 + 1e-9)
        assert stopped.worst >= proven.worst * (1 - 1e-9)


@pytest.mark.parametrize("count", [2, 3])
def test_a_model_of_usual_shape_is_proven_and_certified(count: int) -> None:
    question = perturbed(60, 8, count)
    found = solve_worst_case(question)
    assert found.termination is Termination.OPTIMAL
    check = verify_worst_case(question, found)
    assert check.holds
    assert check.certified_gap is not None
    assert check.certified_gap < 0.1  # a few giant tensors: whole ones do not fill a capacity
    assert found == replace(solve_worst_case(question), seconds=found.seconds, domains=found.domains)


def test_forged_answers_are_found_out() -> None:
    question = perturbed(12, 5, 2)
    found = solve_worst_case(question)
    assert verify_worst_case(question, found).holds
    first, second = found.domains
    assert found.bound is not None
    forged: list[tuple[str, WorstCase]] = [
        ("bound", replace(found, bound=found.bound * 1.01)),
        ("bound", replace(found, bound=found.bound * 0.99)),
        ("weights", replace(found, domains=(replace(first, weight=0.9), replace(second, weight=0.9)))),
        ("reference", replace(found, domains=(replace(first, reference=first.reference * 2), second))),
        ("ledger", replace(found, domains=(replace(first, ledger=second.ledger), second))),
        ("own best", replace(found, domains=(replace(first, best=second.best), second))),
        ("domains", replace(found, domains=(second, first))),
    ]
    for what, outcome in forged:
        check = verify_worst_case(question, outcome)
        assert not check.holds, what
        assert any(what in str(fault) for fault in check.faults), what


def allocations(question: Domains) -> Iterator[tuple[dict[str, str], list[float]]]:
    """Every allocation that keeps everything, with the loss of each domain."""
    first = question.problems()[0]
    for types, _, _ in feasible(first):
        losses = []
        for _, table in question.tables:
            cells = [table.losses[table.row_of[name], table.column_of[given]] for name, given in types.items()]
            losses.append(math.fsum(cells))
        yield types, losses


def perturbed(tensors: int, types: int, count: int) -> Domains:
    """A made model under several domains."""
    instance = made(tensors, types)
    rng = np.random.default_rng(7)
    names = tuple(f"t{row}" for row in range(tensors)), tuple(f"q{column}" for column in range(types))
    tables = []
    for number in range(count):
        losses = instance.losses * np.exp(0.5 * rng.standard_normal((tensors, 1)))
        weights = np.ones(tensors, dtype=np.int64)
        tables.append((f"domain {number}", LossTable(*names, weights, instance.sizes, losses)))
    return Domains(tuple(tables), instance.at(40).capacity)
