"""Limits on requests: what exceeds one is refused, with all faults."""

import pytest

from raq_proto.v1 import problem_pb2, solver_service_pb2
from raq_server.limits import RequestLimits
from raq_solver.errors import InvalidInput


def test_every_limit_that_is_passed_is_named() -> None:
    table = problem_pb2.LossTable(tensors=["a", "b", "c"], quant_types=["Q4_K"])
    request = solver_service_pb2.WorstCaseRequest(
        domains=[problem_pb2.Domain(name="math", table=table), problem_pb2.Domain(name="code", table=table)],
        constraints=[problem_pb2.Constraint()],
    )
    with pytest.raises(InvalidInput) as raised:
        RequestLimits(tensors=2, types=1, constraints=0, budgets=1).check_domains(request)
    assert {fault.where for fault in raised.value.faults} == {"constraints", "domains", "tensors"}
    RequestLimits(tensors=3, types=1, constraints=1, budgets=2).check_domains(request)
