"""`raq-client quantize`: carry an allocation out."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say, size_bar
from raq_client.cli.written import check_written


def quantize(
    called: typer.Context,
    model: options.ModelArgument,
    output: options.Output,
    allocation: Annotated[
        Path,
        typer.Option(
            "--allocation",
            "-a",
            help="What `solve --json` printed, or a llama.cpp --tensor-type-file.",
            show_default=False,
        ),
    ],
    imatrix: options.Imatrix = None,
    effort: options.Effort = "fast",
    threads: options.Threads = 0,
    device: options.Device = "cpu",
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write MODEL with every tensor in the type that the allocation gives it.

    The file appears whole or not at all, and its bytes are compared with the account before it does.

    Example: raq-client quantize model-f16.gguf -a plan.json -i imatrix.gguf -o model-raq.gguf
    """
    from raq_client.models.model_file import open_model
    from raq_client.planning.plan import importance_of
    from raq_client.quantizing.devices import chosen_device
    from raq_client.quantizing.quantize import planned_size, quantize_model, resolved_types
    from raq_client.recipes.allocation_file import read_allocation

    check_written(called, {"output": output}, force=force)
    where = chosen_device(device, say)
    source = open_model(model)
    types = read_allocation(allocation, source.tensors, source.architecture)
    importance = importance_of(source, imatrix or ())
    total = planned_size(resolved_types(source, types, importance))
    with size_bar("quantizing", total) as report:
        written = quantize_model(
            source,
            types,
            importance,
            output,
            threads=threads,
            effort=effort,
            device=where,
            force=force,
            progress=report,
        )
    if as_json:
        print_json(options.plain(written))
    else:
        say(f"{output}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data")
