"""`raq-client quantize`: write a model with the types of an allocation."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.groups import CarryOutOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.progress import size_bar
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.reports.plain import plain


@spread
def quantize(
    called: typer.Context,
    model: options.OptionalModel = None,
    *,
    output: options.Output,
    allocation: Annotated[
        Path,
        typer.Option(
            "--allocation",
            "-a",
            metavar="FILE",
            help="Output of `solve --json`, or a llama.cpp --tensor-type-file.",
            show_default=False,
        ),
    ],
    measure: CarryOutOptions,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Metadata to write instead of the model's; TYPE is int, float, bool or str. May be repeated.",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model with the types of an allocation.

    The file appears complete or not at all, after its layout has been compared with the expected one.

    Example: raq-client quantize model-f16.gguf -a plan.json -i imatrix.gguf -o model-raq.gguf
    """
    from raq_client.models.key_overrides import key_overrides
    from raq_client.models.quantizable import requantized_note
    from raq_client.quantizing.quantize import planned_size, quantize_model, resolved_types
    from raq_client.recipes.allocation_file import made_for, read_allocation

    settings = read_settings(Path.cwd())
    metadata = key_overrides(override_kv or ())
    check_written(called, {"output": output}, force=force, also=settings.files())
    inputs = measure.inputs_of(model, settings)
    source, importance = inputs.model, inputs.importance
    types = read_allocation(allocation, source.tensors, source.architecture)
    chosen = resolved_types(source, types, importance)
    if made_for(allocation) not in {None, source.fingerprint()}:
        say(
            f"note: {allocation} was made for a model with other weights than {source.path}: its losses are not of this"
        )
    total = planned_size(chosen)
    changed = [tensor for tensor, wanted in chosen.items() if wanted != tensor.source_type]
    if (note := requantized_note(changed, str(source.path))) is not None:
        say(f"note: {note}")
    with size_bar("quantizing", total) as report:
        written = quantize_model(
            source,
            types,
            importance,
            output,
            threads=inputs.threads,
            effort=inputs.effort,
            device=inputs.device,
            compensation=inputs.compensation,
            force=force,
            progress=report,
            metadata=metadata,
        )
    if as_json:
        print_json(plain(written))
    else:
        say(f"{output}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data")
