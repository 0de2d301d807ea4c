"""`raq-client profile`: measure once, solve for any budget later."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.follow import followed
from raq_client.cli.groups import MeasureOptions
from raq_client.cli.machine_options import MachineOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.units.journal import Journal
    from raq_solver.profile import Profile

WITHOUT_WEIGHTS: Final = (".csv", ".map")


@spread
def profile(
    called: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="GGUF model file; or, without weights, a .csv of shapes, a .map, or a safetensors folder.",
            show_default=False,
        ),
    ] = None,
    *,
    output: options.Output,
    measure: MeasureOptions,
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            min=2,
            help="Measure this many rows of each matrix instead of all, with standard errors.",
            show_default=False,
        ),
    ] = None,
    machines: MachineOptions,
    estimate: options.EstimateOnly = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write cached measurements.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure the error of every tensor at every quant type.

    With the profile any budget can be solved without the weights. An interrupted measurement continues where it
    stopped. If MODEL is a table of shapes without weights, the errors are those of Gaussian rows at each type, and
    plans made from the profile state this.

    With --rows, the errors are estimates from a sample, which takes a fraction of the time for a large model; the
    profile contains their standard errors.

    Example: raq-client profile model-f16.gguf --imatrix imatrix.gguf -o model.profile.json
    """
    from raq_client.files.profile_file import save_profile

    settings = read_settings(Path.cwd())
    machines.check()
    check_written(called, {"output": output}, force=force, also=settings.files())
    if model is not None and (model.is_dir() or model.suffix in WITHOUT_WEIGHTS):
        if rows is not None:
            raise InvalidInput(Fault("--rows", f"needs a model with weights; {model} is a table of shapes"))
        measured = _referenced(model, measure)
    else:
        inputs = measure.inputs_of(model, settings, cached=not no_cache)
        inputs = machines.read_by(replace(inputs, rows=rows or inputs.rows))
        if estimate:
            _print_estimate(inputs, output, as_json=as_json)
            return
        found = _measured(inputs, machines, output, as_json=as_json)
        if found is None:
            return
        measured = found
    save_profile(measured, output, force=force)
    if machines.merge or machines.cluster is not None:
        _parts(inputs, output).remove()
    sampling = _sampling(measured)
    summary = {
        "output": str(output),
        "digest": measured.digest(),
        "tensors": len(measured.tensors),
        "quant_types": [q.name for q in measured.quant_types],
        "weights": int(measured.weights.sum()),
        "sampling": sampling,
    }
    if as_json:
        print_json(summary)
    else:
        tensors, weights = summary["tensors"], summary["weights"]
        say(f"{output}: {tensors} tensors, {weights:,} weights, digest {measured.digest()[:16]}")
        if sampling is not None:
            share, where = sampling["largest_standard_error"], f"{sampling['tensor']} as {sampling['quant_type']}"
            say(f"measured on {sampling['rows']}: standard errors up to {share:.2%} of the error ({where})")


def _measured(inputs: "ModelInputs", machines: MachineOptions, output: Path, *, as_json: bool) -> "Profile | None":
    """The profile, measured here or merged from parts; None after one part."""
    from raq_client.units.profiling import ProfileJob

    if not machines.check():
        with followed() as progress:
            return inputs.profile(progress=progress, notes=say)
    job = ProfileJob(inputs)
    journal = _parts(inputs, output)
    on_gpu = inputs.device.name != "cpu"
    lines = machines.carry_out(
        job, journal, output, "measuring errors", threads=inputs.threads, gpu=on_gpu, as_json=as_json
    )
    if lines is None:
        return None
    with followed() as progress:
        return job.finish(lines, journal, progress, say)


def _parts(inputs: "ModelInputs", output: Path) -> "Journal":
    """What other machines have measured."""
    from raq_client.units.journal import Journal, work_folder
    from raq_client.units.profiling import ProfileJob

    return Journal(work_folder(output), ProfileJob(inputs))


def _print_estimate(inputs: "ModelInputs", output: Path, *, as_json: bool) -> None:
    from raq_client.cli.estimate import print_estimate
    from raq_client.estimates.estimate import Estimate
    from raq_client.estimates.rounding import measuring

    measured, _ = measuring(inputs)
    print_estimate(Estimate(measured), output, as_json=as_json)


def _sampling(profile: "Profile") -> dict[str, Any] | None:
    """The largest standard error of a sample of rows as a share of the error, and its place; None without a sample."""
    if profile.sampling_errors is None:
        return None
    row, column = divmod(int(profile.sampling_shares.argmax()), len(profile.quant_types))
    return {
        "rows": profile.provenance["rows"],
        "largest_standard_error": float(profile.sampling_shares[row, column]),
        "tensor": profile.tensors[row].name,
        "quant_type": profile.quant_types[column].name,
    }


def _referenced(model: Path, measure: MeasureOptions) -> "Profile":
    """The profile for a table of shapes, with reference errors."""
    from raq_client.models.read_table import read_table
    from raq_client.models.type_choice import chosen_types
    from raq_client.quantizing.reference_errors import NOTE, reference_profile

    if measure.imatrix:
        raise InvalidInput(Fault("--imatrix", f"needs a model with weights; {model} is a table of shapes"))
    say(f"note: the errors are {NOTE}")
    return reference_profile(read_table(model), chosen_types(options.listed(measure.types)))
