"""Ladders: a sequence of allocations of one model, each quantized, measured, and compared with the previous one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from raq_client.engine import DEFAULT_CONTEXT, Engine
from raq_client.engine.loading import loaded
from raq_client.engine.windows import Progress, Text
from raq_client.evaluation.comparison import CONFIDENCE, Comparison, Verdict, compare
from raq_client.evaluation.perplexity import Measurement, measure
from raq_client.evaluation.report import Summary, summarize
from raq_client.models.model_file import ModelFile
from raq_client.models.table import ModelTable
from raq_client.planning.plan import Plan
from raq_client.progress import added_up
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_client.recipes.diff import freed_and_spent
from raq_client.recipes.recipe_file import Recipe
from raq_client.recipes.steps import carry_out
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Allocation, Ledger
from raq_solver.budget import TotalBytes
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.knapsack import Limits
from raq_solver.solve import NO_LIMITS


@dataclass(frozen=True, slots=True)
class Rung:
    """One allocation of a ladder. `size` in bytes; `loss` as predicted, None without a prediction.

    `freed` and `spent` are the bytes of the moves from the previous rung; 0 for the first.
    """

    name: str
    allocation: Allocation
    size: int
    bits_per_weight: float
    loss: float | None
    freed: int
    spent: int


@dataclass(frozen=True, eq=False)
class StepResult:
    """A quantized and measured rung; `step` is the comparison with the previous rung, None for the first."""

    rung: Rung
    path: Path
    summary: Summary
    step: Comparison | None

    @property
    def gains(self) -> bool:
        """Whether it is significantly better than the previous rung; True for the first."""
        return self.step is None or self.step.verdict is Verdict.BETTER


@dataclass(frozen=True, eq=False)
class LadderSetup:
    """How rungs are quantized and measured; `windows` per text (None: all), each of `context` tokens."""

    model: ModelFile
    rounding: Rounding
    folder: Path
    texts: Sequence[Text]
    windows: int | None = None
    context: int = DEFAULT_CONTEXT
    library: Path | None = None
    force: bool = False

    def path(self, rung: Rung) -> Path:
        """The file of a rung."""
        return self.folder / f"{self.model.path.stem}-{rung.name}.gguf"

    @property
    def loaded(self) -> AbstractContextManager[Engine]:
        """The unquantized model, which every file is compared with."""
        return loaded(self.model.path, context=self.context, threads=self.rounding.threads, library=self.library)

    def measured(self, original: Engine, path: Path, progress: Progress | None) -> Measurement:
        """What a file scores on the texts, against the original. Raises InvalidInput as `measure` does."""
        return measure(
            original,
            path,
            self.texts,
            context=self.context,
            windows=self.windows,
            threads=self.rounding.threads,
            library=self.library,
            progress=progress,
        )


def recipe_rungs(recipe: Recipe, table: ModelTable) -> tuple[Rung, ...]:
    """The rungs of a recipe and of those it extends. Raises InvalidInput as `carry_out` does."""
    return tuple(
        Rung(
            name=step.name,
            allocation=Allocation.of(step.types),
            size=step.size,
            bits_per_weight=float(step.bits_per_weight),
            loss=None,
            freed=step.freed,
            spent=step.spent,
        )
        for step in carry_out(recipe, table)
    )


def solved_rungs(
    plans: Sequence[tuple[str, Plan]], solver: SolverClient, limits: Limits = NO_LIMITS, *, nested: bool = False
) -> tuple[Rung, ...]:
    """The rungs of solved plans, which must be made from one profile.

    With `nested` they are replaced by the allocations of least total loss in which no tensor gets fewer bits than in
    the previous rung. Raises InvalidInput with every plan that has no allocation, and as `nested_ladder` does.
    """
    raise_faults(
        [
            Fault(name, f"{plan.outcome.termination.value}; the least possible is {plan.outcome.least_bytes:,} bytes")
            for name, plan in plans
            if plan.outcome.ledger is None
        ]
    )
    if not nested:
        return _rungs([(name, *plan.outcome.unwrap()) for name, plan in plans])
    budgets = [TotalBytes(plan.problem.capacity_bytes) for _, plan in plans]
    found = solver.nested_ladder(plans[0][1].problem, budgets, limits)
    if not found.rungs:
        raise InvalidInput(Fault("ladder", found.termination.value))
    return _rungs([(name, rung.allocation, rung.ledger) for (name, _), rung in zip(plans, found.rungs, strict=True)])


def _rungs(found: Sequence[tuple[str, Allocation, Ledger]]) -> tuple[Rung, ...]:
    rungs: list[Rung] = []
    before: dict[str, int] = {}
    for name, allocation, ledger in found:
        sizes = {entry.tensor: entry.size for entry in ledger.entries}
        freed, spent = freed_and_spent(sizes[tensor] - size for tensor, size in before.items())
        rungs.append(
            Rung(
                name=name,
                allocation=allocation,
                size=ledger.size,
                bits_per_weight=float(ledger.bits_per_weight or 0),
                loss=ledger.loss,
                freed=freed,
                spent=spent,
            )
        )
        before = sizes
    return tuple(rungs)


def climb(
    rungs: Sequence[Rung],
    setup: LadderSetup,
    writing: Callable[[Rung], Progress] | None = None,
    measuring: Callable[[Rung], Progress] | None = None,
    in_turn: Callable[[Rung], Progress] | None = None,
) -> Iterator[StepResult]:
    """Quantize and measure one rung after the other; a generator, so the caller decides how many.

    The verdicts of all rungs together hold with 95 % confidence. `writing`, `measuring` and, where blocks are rounded
    one after the other, `in_turn` return a progress callback for a rung. Raises InvalidInput before any work if a file
    exists without `force`.
    """
    found = [setup.path(rung) for rung in rungs if setup.path(rung).exists() and not setup.force]
    raise_faults([Fault(str(path), "exists; give --force to replace it") for path in found])
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(rungs) - 1)
    before: Measurement | None = None
    with setup.loaded as original:
        for rung in rungs:
            passed = in_turn(rung) if in_turn is not None and setup.rounding.sequential else None
            path = _written(rung, setup, None if writing is None else writing(rung), passed)
            measured = setup.measured(original, path, None if measuring is None else measuring(rung))
            step = None if before is None else compare(before, measured, confidence=confidence)
            yield StepResult(rung, path, summarize(measured.scores(), setup.context), step)
            before = measured


def _written(rung: Rung, setup: LadderSetup, progress: Progress | None, passed: Progress | None) -> Path:
    path, metadata = setup.path(rung), {"raq.ladder": rung.name}
    wanted = Quantization(setup.model, rung.allocation, path, setup.rounding, metadata=metadata)
    quantize_model(wanted, force=setup.force, progress=added_up(progress, rung.size), passed=passed)
    return path
