"""`raq-client convert`: a model in F16, BF16 or F32, from safetensors or from any GGUF file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.progress import size_bar
from raq_client.cli.written import check_written
from raq_client.reports.plain import plain_fields
from raq_solver.errors import Fault, InvalidInput


def convert(
    called: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder of safetensors, GGUF file, or the name of a model elsewhere.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="GGUF file to write.")],
    to: Annotated[
        Literal["f16", "bf16", "f32"] | None,
        typer.Option("--to", help="Type of the matrices; of safetensors the stored one.", show_default=False),
    ] = None,
    threads: options.Threads = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model as GGUF in F16, BF16 or F32.

    Safetensors of llama, mistral, qwen2 and qwen3 models are converted with their vocabulary and metadata, to the bytes
    that llama.cpp's converter gives; of others it names the command of llama.cpp. The tensors of a GGUF file are
    decoded; what their quantization lost stays lost.

    Example: raq-client convert Qwen3-0.6B qwen3-0.6b-bf16.gguf --to bf16
    """
    from raq_client.models.convert import convert_folder
    from raq_client.models.model_file import open_model
    from raq_client.models.sources import is_safetensors_folder
    from raq_client.quantizing.plain import decode_model

    check_written(called, {"output": output}, force=force)
    kind = None if to is None else to.upper()
    if is_safetensors_folder(model):
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        with size_bar("converting", size) as report:
            written = convert_folder(model, output, kind, force=force, progress=report)
    else:
        if kind is None:
            raise InvalidInput(Fault("--to", "is needed for a GGUF file: f16, bf16 or f32"))
        opened = open_model(model)
        with size_bar("converting", sum(tensor.size for tensor in opened.tensors)) as report:
            written = decode_model(opened, kind, output, threads=threads, force=force, progress=report)
    if as_json:
        print_json(plain_fields(written))
    else:
        say(f"{output}: {written.size:,} bytes, SHA-256 {written.sha256}")
