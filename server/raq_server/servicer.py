"""What each method does: decode, solve, encode. Errors are the interceptor's business."""

import grpc

from raq_proto.convert import outcome_to_proto, problem_from_proto
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.solve import solve

DEADLINE_MARGIN = 0.05
"""Share of a call's remaining time that the server keeps, so that it still answers with the best it has."""


class SolverServicer(solver_service_pb2_grpc.SolverServiceServicer):
    """`raq.v1.SolverService`."""

    def Solve(
        self, request: solver_service_pb2.SolveRequest, context: grpc.ServicerContext
    ) -> solver_service_pb2.SolveResponse:
        """Solve one problem."""
        problem = problem_from_proto(request.problem)
        outcome = solve(problem, limits_of(request.limit_seconds, context))
        return solver_service_pb2.SolveResponse(outcome=outcome_to_proto(outcome))


def limits_of(asked_seconds: float, context: grpc.ServicerContext) -> Limits:
    """The search's limit: what was asked for, but no more than the call's deadline less a margin."""
    if not asked_seconds >= 0:
        raise InvalidInput(Fault("limit_seconds", f"is {asked_seconds}; must be at least 0 (0: no limit)"))
    remaining = context.time_remaining()
    known = [asked_seconds] if asked_seconds else []
    if remaining is not None:
        known.append(max(0.0, remaining * (1 - DEADLINE_MARGIN)))
    return Limits(min(known) if known else None)
