"""Which requests may need a process: those that the solver may give to OR-Tools."""

import subprocess
import sys
from dataclasses import replace

import pytest

from raq_proto import convert
from raq_proto.v1 import problem_pb2, profile_pb2, solver_service_pb2
from raq_server.service.solver_service import SERVICE
from raq_server.workers.handlers import METHODS, needs_process
from raq_server.workers.process import LOADED_LATE
from raq_solver.constraints import DistinctTypes, Pin
from support.services import problem


def test_every_method_has_a_handler_of_its_request() -> None:
    put = {"Put": profile_pb2.Profile.DESCRIPTOR}  # whose chunks are joined before
    assert {name: method.request.DESCRIPTOR for name, method in METHODS.items()} == put | {
        method.name: method.input_type for method in SERVICE.methods
    }


def test_side_constraints_need_a_process_and_others_do_not() -> None:
    for field in problem_pb2.Constraint.DESCRIPTOR.oneofs_by_name["kind"].fields:
        constraint = problem_pb2.Constraint()
        getattr(constraint, field.name).SetInParent()
        request = solver_service_pb2.SolveRequest(problem=problem_pb2.Problem(constraints=[constraint]))
        assert needs_process("Solve", request) == (
            field.name in {"at_most", "distinct_types", "region", "active_bytes", "monotone"}
        )


def test_the_constraints_of_variants_count_too() -> None:
    message = convert.problem_to_proto(problem())
    distinct = convert.constraint_to_proto(DistinctTypes(("t0",), 1))
    pin = convert.constraint_to_proto(Pin(("t0",), "Q1"))
    for constraint, needed in ((pin, False), (distinct, True)):
        variants = [solver_service_pb2.Variant(constraints=[constraint])]
        request = solver_service_pb2.SolveBatchRequest(problem=message, variants=variants)
        assert needs_process("SolveBatch", request) == needed


@pytest.mark.parametrize("method", ["Ladder", "WorstCase"])
def test_methods_that_may_use_or_tools_need_a_process(method: str) -> None:
    assert needs_process(method, METHODS[method].request())


def test_the_template_has_loaded_all_that_the_solver_imports_late() -> None:
    asked = problem()
    asked = replace(asked, constraints=(DistinctTypes(asked.table.tensors, 1),))
    request = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(asked)).SerializeToString()
    script = (
        "import importlib, sys\n"
        "import raq_server.workers.process\n"
        f"for module in {LOADED_LATE}: importlib.import_module(module)\n"
        "loaded = set(sys.modules)\n"
        "from raq_proto import convert\n"
        "from raq_proto.v1 import solver_service_pb2\n"
        "from raq_solver.solve import solve\n"
        f"message = solver_service_pb2.SolveRequest.FromString({request!r})\n"
        "assert solve(convert.problem_from_proto(message.problem)).ledger is not None\n"
        "print(*sorted(set(sys.modules) - loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
