"""Size limits of requests, checked on the message before it is converted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raq_proto.v1 import problem_pb2, profile_pb2, solver_service_pb2
from raq_solver.errors import Fault, raise_faults

if TYPE_CHECKING:  # processes that solve read no settings
    from raq_server.config import ServerConfig


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The largest counts that a message may have."""

    tensors: int
    types: int
    constraints: int
    budgets: int

    @classmethod
    def of(cls, config: "ServerConfig") -> "RequestLimits":
        """The limits of a configuration."""
        return cls(
            tensors=config.tensors_limit,
            types=config.types_limit,
            constraints=config.constraints_limit,
            budgets=config.budgets_limit,
        )

    def check_problem(self, message: problem_pb2.Problem, *, budgets: int = 1, constraints: int = 0) -> None:
        """Raises InvalidInput naming every limit exceeded; `constraints` counts those beside the problem's own."""
        faults = [
            *self._table_faults(len(message.table.tensors), len(message.table.quant_types)),
            *self._profile_faults(message.profile.inline),
            *_over("constraints", len(message.constraints) + constraints, self.constraints),
            *_over("budgets", budgets, self.budgets),
        ]
        raise_faults(faults)

    def check_domains(self, message: solver_service_pb2.WorstCaseRequest) -> None:
        """Raises InvalidInput naming every limit exceeded; a domain counts like a budget: one more problem to solve."""
        faults = [
            *_over("constraints", len(message.constraints), self.constraints),
            *_over("domains", len(message.domains), self.budgets),
        ]
        for domain in message.domains:
            faults += self._table_faults(len(domain.table.tensors), len(domain.table.quant_types))
            faults += self._profile_faults(domain.profile.inline)
        raise_faults(faults)

    def check_profile(self, message: profile_pb2.Profile) -> None:
        """Raises InvalidInput naming every limit exceeded."""
        raise_faults(self._profile_faults(message))

    def _profile_faults(self, message: profile_pb2.Profile) -> list[Fault]:
        return self._table_faults(len(message.tensors), len(message.quant_types))

    def _table_faults(self, tensors: int, types: int) -> list[Fault]:
        return [*_over("tensors", tensors, self.tensors), *_over("quant types", types, self.types)]


def _over(what: str, count: int, most: int) -> list[Fault]:
    return [Fault(what, f"{count:,} are given; this server takes at most {most:,}")] if count > most else []
