"""The pipeline as functions: profile, plan, try, quantize, check. Used by the commands and by `import raq`.

Nothing here prints or reads flags. Progress and remarks go to callbacks (`raq_client.progress`).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raq_client.engine import DEFAULT_CONTEXT
from raq_client.engine.windows import Text
from raq_client.models.table import table_of
from raq_client.planning.build_problem import ProblemSpec, ResolvedBase, build_problem, resolve_base, types_in
from raq_client.planning.model_inputs import ModelInputs, missing_facts
from raq_client.planning.plan import Plan, make_plan, solve_plan
from raq_client.planning.request import Request
from raq_client.planning.text_weights import by_text
from raq_client.planning.worst_case_plan import blended, domains_of, solve_worst_case_plan
from raq_client.progress import Notes, Progress, bytes_stage, silent, stage
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.questions.worst_case import WorstCaseMeasure
from raq_solver.solve import NO_LIMITS

if TYPE_CHECKING:
    from raq_client.evaluation.in_memory import TrialSetup
    from raq_client.evaluation.perplexity import Measurement
    from raq_client.evaluation.prediction import Against
    from raq_client.models.gguf_header import Value
    from raq_client.models.split import Split
    from raq_client.models.writer import WrittenModel
    from raq_client.quantizing.quantize import Quantization
    from raq_client.refinement.candidates import Comparison
    from raq_client.refinement.measured_limit import Limited

TRIAL_WINDOWS: Final = 12
"""Number of text windows for trying candidates."""


def pose(
    inputs: ModelInputs,
    request: Request,
    *,
    needs_budget: bool = True,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> ProblemSpec:
    """Measure or load the profile, and build the problem for the request.

    Every question about a model (solve, sweep, explain, audit, a ladder) uses this function. The types of a base are
    measured too, so that its loss is known.
    """
    base, more = _base(inputs, request)
    profile = inputs.profile(more_types=more, progress=progress, notes=notes)
    spec = build_problem(request, profile, inputs.table(profile), base=base, needs_budget=needs_budget)
    for note in spec.notes:
        notes(f"note: {note}")
    return spec


def _base(inputs: ModelInputs, request: Request) -> tuple[ResolvedBase | None, tuple[str, ...]]:
    """The base resolved before measuring, and its types; nothing where there is no model to measure."""
    if request.base.base is None or not inputs.has_weights:
        return None, ()
    table = table_of(inputs.model)
    base = resolve_base(request.base, table, has_importance=bool(inputs.imatrix))
    return base, types_in(base, table)


def plan(
    inputs: ModelInputs,
    request: Request,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> Plan:
    """Find the allocation of least predicted loss, with proof, or the reason why there is none (`plan.outcome`).

    Raises InvalidInput with the faults of inputs and request.
    """
    found = solve_plan(pose(inputs, request, progress=progress, notes=notes), solver, limits)
    missing = missing_facts(found.profile)
    if missing is not None and request.loss is None and found.outcome.allocation is not None:
        notes(f"note: {missing}")
    return found


def worst_case_plan(
    inputs: ModelInputs,
    profiles: Sequence[Path],
    request: Request,
    measure: WorstCaseMeasure,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    *,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> tuple[Plan, ModelInputs]:
    """The plan with the smallest worst-domain loss, and the inputs for writing its file.

    Each importance file of `inputs`, or each of `profiles`, is a domain; of a single one each text of its calibration.
    """
    domains = domains_of(inputs, profiles)
    base, more = _base(next(iter(domains.values())), request)
    measured = [(name, one.profile(more_types=more, progress=progress, notes=notes)) for name, one in domains.items()]
    table = next(iter(domains.values())).table(measured[0][1])
    if len(measured) == 1:
        measured = by_text(measured[0][1])
    found = solve_worst_case_plan(measured, request, measure, solver, limits, table, base)
    return found, inputs if profiles else blended(inputs)


def try_plan(
    found: Plan,
    inputs: ModelInputs,
    setup: "TrialSetup",
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    *,
    seconds: float,
    progress: Progress | None = None,
    notes: Notes = silent,
) -> "tuple[Plan, Comparison]":
    """Try a plan and its alternatives in memory; return the plan or a significantly better one, and all results.

    No trial is begun that would end after `seconds`. Raises InvalidInput if the model can't be tried in memory or the
    time does not suffice for a comparison, NotFiniteError and BrokenByTrialError if predictions are not finite.
    """
    from raq_client.evaluation.in_memory import Trial
    from raq_client.refinement.candidates import candidates, compare_candidates, with_plain_rounding

    table = inputs.table(found.profile)
    offered = candidates(found.problem, found.outcome, found.profile, table, solver.solve, limits)
    with Trial(setup) as trial:
        each = trial.prepare()
        if 2 * each > seconds:
            what = f"two allocations would take more than {2 * each:.0f} s, and --trial-minutes allow {seconds:.0f}"
            raise InvalidInput(Fault("trial", what))
        notes(f"trying {len(offered)} allocations in memory, each {each:.0f} s and the time to quantize")
        compared = compare_candidates(
            offered, found.profile, trial, seconds=seconds, progress=stage(progress, "trying allocations")
        )
        compared = with_plain_rounding(compared, found.profile, trial)
    best = compared.best.candidate
    return make_plan(found.spec, best.problem, best.outcome, solver, limits), compared


def plan_within(
    found: Plan,
    setup: "TrialSetup",
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    *,
    seconds: float,
    progress: Progress | None = None,
) -> "Limited":
    """The smallest plan whose measured KL divergence on the texts of `setup` keeps the request's `max_loss`.

    `found` is the plan by predictions alone. Raises MeasuredTooLarge if no plan that was tried keeps it, InvalidInput
    if the model can't be tried in memory.
    """
    from raq_client.evaluation.in_memory import Trial
    from raq_client.refinement.measured_limit import smallest_within

    with Trial(setup) as trial:
        report = stage(progress, "trying sizes")
        return smallest_within(found, solver, trial, limits=limits, seconds=seconds, progress=report)


def quantize(
    found: Plan,
    inputs: ModelInputs,
    output: Path,
    *,
    split: "Split | None" = None,
    force: bool = False,
    progress: Progress | None = None,
) -> "WrittenModel":
    """Write the model with the types of the plan, with `split` in several files; all appear complete or none does.

    Raises InvalidInput if the plan has no allocation, if `output` exists without `force`, or the split is impossible.
    """
    from raq_client.quantizing.effort import quantizing_work
    from raq_client.quantizing.quantize import quantize_model
    from raq_client.quantizing.sequential import IN_TURN

    _, ledger = found.outcome.unwrap()
    wanted = _quantization(found, inputs, output, split)
    return quantize_model(
        wanted,
        force=force,
        progress=bytes_stage(progress, "quantizing", ledger.size, quantizing_work(wanted.types)),
        passed=stage(progress, IN_TURN),
    )


def quantized_paths(found: Plan, inputs: ModelInputs, output: Path, split: "Split | None" = None) -> tuple[Path, ...]:
    """The files that `quantize` writes for these arguments, in order. Raises InvalidInput as it does."""
    return tuple(file.path for file in _quantization(found, inputs, output, split).files)


def _quantization(found: Plan, inputs: ModelInputs, output: Path, split: "Split | None") -> "Quantization":
    from raq_client.quantizing.quantize import Quantization

    allocation, _ = found.outcome.unwrap()
    provenance: dict[str, Value] = {"raq.profile": found.profile.digest(), "raq.problem": found.problem.digest()}
    return Quantization(inputs.model, allocation, output, inputs.rounding, split, provenance)


def measure(
    baseline: Path,
    candidate: Path,
    texts: Sequence[Text],
    *,
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    library: Path | None = None,
    progress: Progress | None = None,
) -> "Measurement":
    """Score both files on these texts; `.report()` gives perplexity and KL divergence of `candidate` from `baseline`.

    Raises InvalidInput as `raq_client.evaluation.perplexity.measure_all` does.
    """
    from raq_client.evaluation import perplexity

    return perplexity.measure(
        baseline,
        candidate,
        texts,
        context=context,
        windows=windows,
        threads=threads,
        library=library,
        progress=stage(progress, "checking"),
    )


def against_mixture(
    found: Plan,
    inputs: ModelInputs,
    ours: "Measurement",
    name: str,
    texts: Sequence[Text],
    folder: Path,
    *,
    windows: int | None = None,
    library: Path | None = None,
    progress: Progress | None = None,
) -> "Against":
    """Measure llama.cpp's mixture `name` in the same way as the plan's file (`ours`), and compare the two.

    The mixture is written to a temporary file in `folder`. Raises InvalidInput if there is no such mixture.
    """
    from raq_client.evaluation.prediction import against_mixture as compared
    from raq_client.models.file_types import file_type
    from raq_client.quantizing.quantize import Quantization, quantize_model
    from raq_client.recipes.mixtures import mixture, tensor_bytes

    types = mixture(table_of(inputs.model), file_type(name), has_importance=inputs.importance is not None)
    _, ledger = found.outcome.unwrap()
    size = tensor_bytes(types)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".raq-") as temporary:
        path = Path(temporary) / f"{file_type(name).name}.gguf"
        written = bytes_stage(progress, f"writing {path.stem}", size)
        quantize_model(Quantization(inputs.model, Allocation.of(types), path, inputs.rounding.plain), progress=written)
        theirs = measure(
            inputs.model.path,
            path,
            texts,
            context=ours.context,
            windows=windows,
            threads=inputs.threads,
            library=library,
            progress=progress,
        )
        capacity, on_disk = found.problem.capacity_bytes, path.stat().st_size
        return compared(path.stem, ours, theirs, capacity, ledger.size, size, on_disk)
