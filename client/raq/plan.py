"""Plans: which quant type every tensor gets, and what can be done with that."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from raq._html import facts, table
from raq.frontier import Frontier
from raq_client import pipeline
from raq_client.models.writer import WrittenModel
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan as SolvedPlan
from raq_client.planning.size_budget import parse_size_budget
from raq_client.progress import Progress, Step
from raq_client.reports.plan import infeasible_text
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Ledger
from raq_solver.budget import TotalBytes
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.make_problem import capacity_in
from raq_solver.questions.explain import TensorReasons
from raq_solver.questions.sweep import knee, spaced
from raq_solver.solve import NO_LIMITS


class Infeasible(InvalidInput):
    """Nothing fits the budget and the constraints; the message names the least budget that would do."""

    def __init__(self, plan: SolvedPlan) -> None:
        self.least_bytes = plan.outcome.least_bytes
        weights, capacity = plan.table.total_weights, plan.problem.capacity_bytes
        super().__init__(Fault("", infeasible_text(plan.outcome, plan.budget_text, weights, capacity)))


class Plan:
    """An allocation with its proof. Made by `Model.plan`; immutable."""

    def __init__(self, solved: SolvedPlan, inputs: ModelInputs, solver: SolverClient) -> None:
        self.solved = solved
        self._inputs = inputs
        self._solver = solver

    @property
    def _ledger(self) -> Ledger:
        return self.solved.outcome.unwrap()[1]

    @property
    def types(self) -> Mapping[str, str]:
        """Quant type of every tensor, by name."""
        return self.solved.outcome.unwrap()[0].types

    @property
    def size(self) -> int:
        """Bytes of tensor data."""
        return self._ledger.size

    @property
    def bits_per_weight(self) -> float:
        """The same per weight, in bits."""
        return float(self._ledger.bits_per_weight or 0)

    @property
    def loss(self) -> float:
        """Predicted loss, in the unit of `loss_source` (nats per token where there is Fisher information)."""
        return self._ledger.loss

    @property
    def loss_source(self) -> str:
        """Where the losses come from."""
        return self.solved.table.source

    @property
    def bound(self) -> float:
        """Proven lower bound of the loss of any allocation that fits."""
        return float(self.solved.outcome.bound or 0)

    @property
    def proven(self) -> bool:
        """Whether the allocation is proven optimal."""
        return self.solved.outcome.gap == 0

    def quantize(
        self,
        output: str | PathLike[str],
        *,
        sequential: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> WrittenModel:
        """Write the model with these types; the file appears whole or not at all.

        `sequential` rounds block after block, each for the inputs that the rounded ones give it, and needs `gram`.

        Raises InvalidInput if the plan is of a saved profile, `output` exists and not `force`, or blocks can't be
        rounded so.
        """
        inputs = replace(self._inputs, sequential=True) if sequential else self._inputs
        return pipeline.quantize(self.solved, inputs, Path(output), force=force, progress=progress)

    def sweep(
        self, first: str | float, last: str | float, points: int = 50, *, progress: Progress | None = None
    ) -> Frontier:
        """The frontier: the optimum of each of `points` budgets from `first` to `last`, under the plan's constraints.

        >>> import raq
        >>> model = raq.open("tests/data/wiki-math-4M-f16.gguf", types=["Q8_0", "Q4_0"])
        >>> frontier = model.plan(5.5).sweep(5, 8, points=4)
        >>> [round(float(bits), 1) for bits in frontier.bits_per_weight]
        [5.0, 6.0, 7.0, 8.0]
        >>> bool((frontier.losses[1:] <= frontier.losses[:-1]).all())
        True
        """
        losses = self.solved.table
        least, most = (
            capacity_in(losses, parse_size_budget(str(text), self.solved.spec.overhead)) for text in (first, last)
        )
        budgets = [TotalBytes(capacity) for capacity in spaced(least, most, points)]
        found = []
        for point in self._solver.sweep(self.solved.problem, budgets, NO_LIMITS):
            found.append(point)
            if progress is not None:
                progress(Step("solving", len(found), points))
        return Frontier(tuple(found), losses, knee(found))

    def explain(self, tensor: str, *, seconds: float | None = None) -> TensorReasons:
        """Why a tensor has its type, what every other would cost, and the budgets at which it changes.

        >>> import raq
        >>> model = raq.open("tests/data/wiki-math-4M-f16.gguf", types=["Q8_0", "Q4_0"])
        >>> reasons = model.plan(7).explain("output.weight")
        >>> reasons.chosen, reasons.runner_up.quant_type
        ('Q8_0', 'Q4_0')
        """
        return self._solver.explain_tensor(self.solved.problem, tensor, Limits(seconds))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data: what `raq solve --json` prints."""
        from raq_client.reports.plan_json import plan_dict

        return plan_dict(self.solved)

    def __repr__(self) -> str:
        state = "proven optimal" if self.proven else f"within {self.solved.outcome.gap:.2g} of the bound"
        return f"<raq.Plan {self.size:,} bytes, {self.bits_per_weight:.4f} bpw: loss {self.loss:.6g}, {state}>"

    def _repr_html_(self) -> str:
        sizes: dict[str, tuple[int, int]] = {}
        for entry in self._ledger.entries:
            count, size = sizes.get(entry.quant_type, (0, 0))
            sizes[entry.quant_type] = count + 1, size + entry.size
        rows = [
            (name, str(count), f"{size:,}", f"{100 * size / self.size:.1f} %")
            for name, (count, size) in sorted(sizes.items(), key=lambda each: -each[1][1])
        ]
        title = f"{self.bits_per_weight:.4f} bpw, {self.size:,} bytes"
        loss = [("predicted loss", f"{self.loss:.6g} ({self.loss_source})"), ("proven bound", f"{self.bound:.6g}")]
        return facts(title, loss) + table(("type", "tensors", "bytes", "share"), rows)
