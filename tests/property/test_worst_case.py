"""Laws of the worst case over domains: it equals trying everything, its certificate proves a bound, and no domain's own
best is better than it says."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from raq_proto import convert
from raq_proto.errors import UnknownProfile
from raq_proto.v1 import problem_pb2, solver_service_pb2
from raq_solver import (
    InvalidInput,
    Limits,
    LossTable,
    LossUnit,
    Monotone,
    Termination,
    WorstCaseMeasure,
    solve,
    solve_worst_case,
    verify_worst_case,
)
from raq_solver.make_problem import predicted_losses
from raq_solver.questions.worst_case import Domains, WorstCase
from support.examples import examples
from support.instances import made
from support.oracles.every_allocation import feasible
from support.services import profile
from support.strategies import domains

ALIKE = 1e-8
"""Own bests with side constraints come from HiGHS, which works to about nine digits."""


@examples(150)
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


@examples(60)
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


@examples(60)
@given(domains())
def test_no_ratio_is_below_one_and_nats_count_as_they_are(question: Domains) -> None:
    found = solve_worst_case(question)
    for domain in found.domains:
        if domain.ratio is not None:
            assert domain.ratio >= 1 - ALIKE
    if question.measure is WorstCaseMeasure.NATS and found.allocation is not None:
        assert found.worst == max(domain.ledger.loss for domain in found.domains if domain.ledger is not None)


@examples(40)
@given(domains())
def test_one_domain_alone_is_the_plain_problem(question: Domains) -> None:
    alone = replace(question, tables=question.tables[:1], measure=WorstCaseMeasure.NATS)
    found = solve_worst_case(alone)
    plain = solve(alone.problems()[0])
    assert found.termination is plain.termination
    if plain.ledger is not None:
        assert found.worst == pytest.approx(plain.ledger.loss, rel=ALIKE, abs=1e-300)


@examples(30)
@given(domains(most_tensors=12, most_types=6))
def test_without_time_nothing_false_is_claimed(question: Domains) -> None:
    stopped, proven = solve_worst_case(question, Limits(0.0)), solve_worst_case(question)
    if proven.worst is None:
        assert stopped.worst is None
    elif stopped.worst is not None and stopped.bound is not None and question.measure is WorstCaseMeasure.NATS:
        assert stopped.bound <= proven.worst * (1 + 1e-9)
        assert stopped.worst >= proven.worst * (1 - 1e-9)


@pytest.mark.parametrize("count", [2, 3])
def test_a_model_of_usual_shape_is_proven_and_certified(count: int) -> None:
    question = perturbed(40, 6, count)
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
        ("reference", replace(found, domains=(replace(first, reference=0.0), second))),
        ("domains", replace(found, domains=(second, first))),
        ("domains", replace(found, domains=(first,))),
        ("INFEASIBLE with an allocation", replace(found, termination=Termination.INFEASIBLE)),
        ("claimed infeasible", replace(found, termination=Termination.INFEASIBLE, allocation=None, bound=None)),
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


@examples(30)
@given(domains())
def test_questions_and_answers_come_through_the_wire(question: Domains) -> None:
    back = convert.domains_from_proto(convert.domains_to_proto(question))
    digests = [problem.digest() for problem in question.problems()]
    assert [problem.digest() for problem in back.problems()] == digests
    assert ([name for name, _ in back.tables], back.measure) == (
        [name for name, _ in question.tables],
        question.measure,
    )
    found = solve_worst_case(question)
    assert convert.worst_case_from_proto(convert.worst_case_to_proto(found)) == found


def test_the_table_of_the_proof_has_a_unit_of_its_own() -> None:
    """It must not pass for nats, even where every domain's losses are."""
    question = perturbed(3, 3, 2)
    nats = tuple((name, replace(table, unit=LossUnit.NATS)) for name, table in question.tables)
    assert replace(question, tables=nats).weighted([0.5, 0.5]).table.unit is LossUnit.WEIGHTED_DOMAINS


def test_a_domain_may_be_a_stored_profile() -> None:
    made_of = {"a" * 64: profile(seed=3), "b" * 64: profile(seed=4)}
    request = convert.domains_to_proto(perturbed(3, 3, 2))
    for domain, digest in zip(request.domains, made_of, strict=True):
        domain.profile.digest = digest
    question = convert.domains_from_proto(request, lambda digest: made_of[digest])
    assert [table.digest() for _, table in question.tables] == [
        predicted_losses(each).digest() for each in made_of.values()
    ]
    with pytest.raises(UnknownProfile):
        convert.domains_from_proto(request)


def test_every_fault_of_a_message_is_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        convert.domains_from_proto(solver_service_pb2.WorstCaseRequest(domains=[problem_pb2.Domain(name="math")]))
    assert {fault.where for fault in raised.value.faults} >= {"domain 1: losses", "budget", "measure"}


def test_domains_that_do_not_belong_together_are_refused() -> None:
    (name, table), other = perturbed(3, 3, 2).tables
    fewer = LossTable(table.tensors[:2], table.quant_types, table.weights[:2], table.sizes[:2], table.losses[:2])
    larger = replace(table, sizes=table.sizes + 1)
    refused: list[tuple[str, Domains | None]] = []
    for what, tables, constraints in (
        ("same tensors", ((name, table), ("b", fewer)), ()),
        ("same sizes", ((name, table), ("b", larger)), ()),
        ("names two domains", ((name, table), (name, other[1])), ()),
        ("can't be kept together", ((name, table), other), (Monotone(table.tensors),)),
        ("there are none", (), ()),
    ):
        with pytest.raises(InvalidInput, match=what):
            refused.append((what, Domains(tables, 10**12, constraints)))
    assert not refused
