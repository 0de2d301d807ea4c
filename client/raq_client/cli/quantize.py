"""`raq-client quantize`: write a model with the types of an allocation."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.ended import ROUNDED, kept_when_ended
from raq_client.cli.groups import CarryOutOptions
from raq_client.cli.machine_options import MachineOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.progress import progress_bar, size_bar
from raq_client.cli.split_options import SplitOptions, check_files, sizes
from raq_client.cli.written import check_written
from raq_client.files.lock import output_lock
from raq_client.files.settings import read_settings
from raq_client.reports.plain import plain
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raq_client.models.model_file import ModelFile
    from raq_client.models.writer import WrittenModel
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.units.quantizing import QuantizeJob
    from raq_solver.allocation import Allocation
    from raq_solver.quant_types import QuantType
    from raq_solver.tensors import Tensor


@spread
def quantize(
    called: typer.Context,
    model: options.OptionalModel = None,
    *,
    output: options.Output,
    allocation: Annotated[
        Path | None,
        typer.Option(
            "--allocation",
            "-a",
            metavar="FILE",
            help="Output of `solve --json`, or a llama.cpp --tensor-type-file; may be left out with the options below.",
            show_default=False,
        ),
    ] = None,
    measure: CarryOutOptions,
    sequential: options.Sequential = False,
    splitting: SplitOptions,
    machines: MachineOptions,
    prune_layers: Annotated[
        str | None,
        typer.Option(
            "--prune-layers",
            metavar="N,N-N",
            help="Layers to leave out, numbered from 0; the others are renumbered.",
            show_default=False,
        ),
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Metadata to write instead of the model's; TYPE is int, float, bool or str. May be repeated.",
            show_default=False,
        ),
    ] = None,
    estimate: options.EstimateOnly = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model with the types of an allocation.

    The file appears complete or not at all, after its layout has been compared with the expected one. Without an
    allocation all tensors keep their types: that splits a model, prunes it or changes its metadata. Allocation and
    importance are those of the whole model, also where layers are left out.

    Examples:

    raq-client quantize model-f16.gguf -a plan.json -i imatrix.gguf -o model-raq.gguf

    raq-client quantize model-f16.gguf --prune-layers 20-23 -o shorter-f16.gguf
    """
    from raq_client.cli.estimate import print_estimate
    from raq_client.estimates.estimate import Estimate
    from raq_client.estimates.rounding import quantizing
    from raq_client.models.key_overrides import key_overrides
    from raq_client.models.pruning import parse_layers
    from raq_client.quantizing.effort import quantizing_work
    from raq_client.quantizing.quantize import planned_size, quantize_model, unfinished_folder
    from raq_client.quantizing.sequential import IN_TURN
    from raq_client.units.quantizing import QuantizeJob

    settings = read_settings(Path.cwd())
    metadata, split, on_machines = key_overrides(override_kv or ()), splitting.split(), machines.check()
    layers = None if prune_layers is None else parse_layers(prune_layers)
    _refuse(
        allocation, measure, sequential=sequential, on_machines=on_machines, changed=bool(metadata or layers or split)
    )
    check_written(called, {"output": splitting.likely(output)}, force=force, also=settings.files())
    inputs = replace(machines.read_by(measure.inputs_of(model, settings)), sequential=sequential)
    if layers and inputs.gram is not None:
        # They are of the inputs of all layers, and an allocation of --gram was solved for these.
        what = "Gram statistics are of the whole model; prune it first, then collect them and solve for the shorter one"
        raise InvalidInput(Fault("--prune-layers", what))
    job = QuantizeJob(inputs, _types(allocation, inputs), output, split, metadata, layers)
    wanted = job.whole
    check_files(called, [file.path for file in wanted.files], force=force, also=settings.files())
    _note_requantized(wanted.types, wanted.model)
    size = planned_size(wanted.types)
    if on_machines:
        _merged(job, machines, force=force, as_json=as_json)
        return
    if estimate:
        stages = quantizing(wanted.model, wanted.types, wanted.rounding, size)
        print_estimate(Estimate(stages), output, as_json=as_json)
        return
    in_turn = progress_bar(IN_TURN) if sequential else nullcontext()
    ended = kept_when_ended([unfinished_folder(wanted)] if sequential else (), ROUNDED)
    alone = output_lock(wanted.files[0].path) if sequential else nullcontext()  # its folder belongs to one run
    with alone, ended, in_turn as passed, size_bar("quantizing", size, quantizing_work(wanted.types)) as report:
        written = quantize_model(wanted, force=force, progress=report, passed=passed)
    _show(written, as_json=as_json)


def _show(written: "WrittenModel", *, as_json: bool) -> None:
    if as_json:
        print_json(plain(written))
    else:
        say(sizes(written))


def _merged(job: "QuantizeJob", machines: MachineOptions, *, force: bool, as_json: bool) -> None:
    """Do one part of the work, or make the files of all parts, by a cluster or by other processes."""
    from raq_client.units.journal import Journal, work_folder

    journal = Journal(work_folder(job.output), job)
    by = job.inputs
    lines = machines.carry_out(
        job, journal, job.output, "quantizing", threads=by.threads, gpu=by.device.name != "cpu", as_json=as_json
    )
    if lines is not None:
        _show(job.finish(lines, journal, force=force, notes=say), as_json=as_json)


def _note_requantized(chosen: "Mapping[Tensor, QuantType]", source: "ModelFile") -> None:
    from raq_client.models.quantizable import requantized_note

    changed = [tensor for tensor, wanted in chosen.items() if wanted != tensor.source_type]
    if (note := requantized_note(changed, str(source.path))) is not None:
        say(f"note: {note}")


def _refuse(
    allocation: Path | None, measure: CarryOutOptions, *, sequential: bool, on_machines: bool, changed: bool
) -> None:
    """Raise InvalidInput if there is nothing to do, or something that has no meaning so."""
    if sequential and on_machines:
        what = "rounds blocks one after the other, on one machine; leave out --index, --of, --merge and --cluster"
        raise InvalidInput(Fault("--sequential", what))
    if allocation is not None:
        return
    if not changed:
        what = "is missing: name the output of `solve --json`, or a file of tensor types"
        raise InvalidInput(Fault("--allocation", what))
    given = {"--imatrix": bool(measure.imatrix), "--gram": measure.gram is not None, "--sequential": sequential}
    raise_faults(
        [
            Fault(name, "has no use without --allocation: all tensors keep their types")
            for name, on in given.items()
            if on
        ]
    )


def _types(path: Path | None, inputs: "ModelInputs") -> "Allocation":
    """The types of a file, or the model's own; a note is printed if the file was made for other weights or feedback."""
    from raq_client.recipes.allocation_file import left_out, origin_notes, read_allocation
    from raq_solver.allocation import Allocation

    source = inputs.model
    if path is None:
        return Allocation({tensor.name: tensor.source_type.name for tensor in source.tensors})
    found = read_allocation(path, source.tensors, source.architecture)
    if (unset := left_out(path, source.tensors, source.architecture)) is not None:
        say(f"note: {unset}")
    gram = "" if inputs.compensation is None else inputs.compensation.gram.digest()
    for note in origin_notes(path, source.fingerprint() if source.is_known_by_bytes else None, gram):
        say(f"note: {note}")
    return found
