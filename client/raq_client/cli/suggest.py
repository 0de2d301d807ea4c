"""`raq-client suggest`: what to raise, what it costs and buys; budgets with a name."""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.base_options import Moves
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.paths import Experts
from raq_client.cli.plan_output import EXIT_CODES
from raq_client.cli.problem_options import ProblemOptions
from raq_client.files.settings import MemorySettings, Settings, read_settings
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.planning.build_problem import ProblemSpec
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.suggestions.scores import Evidence
    from raq_client.suggestions.suggest import Suggestion


UNITS_PANEL = "Units"


class By(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """How units are ranked."""

    PRICE = "price"
    ENERGY = "energy"
    CONTRAST = "contrast"
    TRACE = "trace"
    SENSITIVITY = "sensitivity"


class What(str, Enum):  # noqa: UP042
    """What is raised as a whole."""

    BLOCK = "block"
    TENSOR = "tensor"
    EXPERTS = "experts"
    ROLE = "role"


@spread
def suggest(
    *,
    budget: options.Budget = None,
    source: SourceOptions,
    by: Annotated[
        By,
        typer.Option(
            "--by",
            help="Rank by loss saved per byte, by activations (three ways), or by measured sensitivity.",
        ),
    ] = By.PRICE,
    unit: Annotated[What, typer.Option("--unit", help="What is raised as a whole.")] = What.BLOCK,
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="Units to raise.")] = 6,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TYPE",
            help="Type to raise to; else what saves most loss per byte.",
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            metavar="PATTERN",
            rich_help_panel=UNITS_PANEL,
            help="Raise only these tensors of the units; may be repeated.",
            show_default=False,
        ),
    ] = None,
    experts: Experts = 0,
    presets: Annotated[bool, typer.Option("--presets", help="Show budgets with a name instead.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print lines for raq.toml.")] = False,
    as_recipe: Annotated[
        bool, typer.Option("--recipe", help="Print a recipe: --base and the raises as moves.")
    ] = False,
    as_json: options.Json = False,
    posed: ProblemOptions,
) -> None:
    """Suggest which blocks, tensors or experts to raise.

    Shows what each raise costs in bytes and saves in predicted loss, beside the best allocation of the same size.
    Raises start from the best allocation of --budget, or from a --base.

    Details:

    --by energy and trace rank by the importance of --domain (else --imatrix), contrast by how it differs from
    --general; several files of each give 95 % intervals. --presets shows the smallest sizes for three limits on the
    predicted KL divergence, and the memory that they take with --vram-context.

    Examples:

    raq-client suggest model-f16.gguf -i imatrix.gguf -b 4.5

    raq-client suggest -p model.profile.json --base Q4_K_M --unit tensor --toml

    raq-client suggest model-f16.gguf -i imatrix.gguf --presets --vram-context 32k

    raq-client suggest moe-f16.gguf --base Q2_K --unit experts --to Q4_K --by contrast --domain a.gguf --general b.gguf
    """
    settings = read_settings(Path.cwd())
    _check_formats({"--toml": as_toml, "--recipe": as_recipe, "--json": as_json}, presets=presets)
    inputs = source.inputs(settings)
    if presets:
        _print_presets(inputs, posed, settings, as_json=as_json)
        return
    with followed() as progress:
        request = _for_problem(posed).request(settings, budget)
        spec = pipeline.pose(inputs, request, progress=progress, notes=say)
    if as_recipe and spec.base is None:
        raise InvalidInput(Fault("--recipe", "is a base and its moves; give the --base to start from"))
    evidence = _evidence(inputs, spec, posed, experts)
    found = _suggested(spec, evidence, (by, unit, top, to, tuple(family or ())), posed, settings)
    _print(found, spec, as_toml=as_toml, as_recipe=as_recipe, as_json=as_json)
    raise typer.Exit(EXIT_CODES[found.best.termination])


def _check_formats(given: dict[str, bool], *, presets: bool) -> None:
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise InvalidInput(Fault(chosen[1], f"and {chosen[0]} are two formats; give one"))
    raise_faults([Fault(name, "is for raises, not for --presets") for name in chosen if presets and name != "--json"])


def _for_problem(posed: ProblemOptions) -> ProblemOptions:
    """The options of the problem itself: --domain and --general are evidence here, unless they restrict moves."""
    return posed if posed.moves is Moves.RATIO else replace(posed, domain=None, general=None)


def _evidence(inputs: "ModelInputs", spec: "ProblemSpec", posed: ProblemOptions, experts: int) -> "Evidence":
    from raq_client.importance.domains import named_file, read_parts
    from raq_client.suggestions.scores import Evidence

    domain: Sequence[Path] = posed.domain or [named_file(text)[0] for text in inputs.imatrix]
    return Evidence(spec.profile, read_parts(domain), read_parts(posed.general or ()), experts)


def _suggested(
    spec: "ProblemSpec",
    evidence: "Evidence",
    asked: tuple[By, What, int, str | None, tuple[str, ...]],
    posed: ProblemOptions,
    settings: Settings,
) -> "Suggestion":
    from raq_client.suggestions.scores import Rule
    from raq_client.suggestions.suggest import Question, starting_point, suggest
    from raq_client.suggestions.units import UnitKind
    from raq_solver.quant_types import quant_type

    by, unit, top, to, families = asked
    to = None if to is None else quant_type(to).name
    question = Question(Rule(by.value), UnitKind(unit.value), top, to, families)
    with posed.solver(settings) as solver:
        start = starting_point(spec, solver, posed.limits)
        return suggest(spec.problem, start, question, evidence, solver, posed.limits)


def _print(found: "Suggestion", spec: "ProblemSpec", *, as_toml: bool, as_recipe: bool, as_json: bool) -> None:
    from raq_client.reports.suggest import suggestion_dict, suggestion_report
    from raq_client.suggestions.fragment import recipe_of, recipe_toml, settings_fragment

    if as_json:
        print_json(suggestion_dict(found))
    elif as_toml:
        OUT.out(settings_fragment(found), end="")
    elif as_recipe and spec.base is not None:
        OUT.out(recipe_toml(recipe_of(found, spec.base.reference)), end="")
    else:
        OUT.print(suggestion_report(found))


def _print_presets(inputs: "ModelInputs", posed: ProblemOptions, settings: Settings, *, as_json: bool) -> None:
    from raq_client.reports.suggest import presets_dict, presets_table
    from raq_client.suggestions.presets import fill_presets

    serving = posed.serving(settings)
    # Here the memory is what is found, so that its options do not need --vram.
    free: dict[str, Any] = dict.fromkeys(("vram", "vram_context", "kv", "overhead", "parallel", "batch"))
    own = replace(_for_problem(posed), **free)
    with followed() as progress:
        request = own.request(settings.model_copy(update={"budget": None, "memory": MemorySettings()}), None)
        spec = pipeline.pose(inputs, request, needs_budget=False, progress=progress, notes=say)
    assert spec.profile is not None, "a model is asked about"
    with posed.solver(settings) as solver:
        found = fill_presets(spec.problem, inputs.table(spec.profile), serving, solver, posed.limits)
    if as_json:
        print_json(presets_dict(found, serving.context))
    else:
        OUT.print(presets_table(found, serving.context))
