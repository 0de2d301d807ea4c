"""`raq-client splice`: a model file with some of its tensors taken from other files."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.progress import size_bar
from raq_client.cli.written import check_written


def splice(
    called: typer.Context,
    base: Annotated[Path, typer.Argument(metavar="BASE", help="GGUF model file; its header and all else are kept.")],
    *,
    take: Annotated[
        list[str],
        typer.Option(
            "--take",
            metavar="GLOB=DONOR[:TYPE]",
            help="Tensors to take from a file of the same model; with TYPE quantized again. May be repeated.",
            show_default=False,
        ),
    ],
    output: options.Output,
    threads: options.Threads = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a model with tensors taken from other files.

    Donors have the architecture, vocabulary and shapes of BASE; tensors are copied byte for byte. The header says which
    tensors come from which file, by SHA-256, and marks those that were quantized from quantized weights as lossy.

    Example: raq-client splice model-Q4_K_M.gguf --take 'blk.{0..3}.ffn_*=model-Q8_0.gguf' -o model-spliced.gguf
    """
    from raq_client.building.splice import parse_take
    from raq_client.building.splice import splice as carry_out
    from raq_client.reports.build import spliced_dict

    takes = [parse_take(text) for text in take]
    check_written(called, {"output": output}, force=force, also=[one.donor for one in takes])
    with size_bar("splicing", base.stat().st_size if base.is_file() else 0) as report:
        found = carry_out(base, takes, output, threads=threads, force=force, progress=report)
    if as_json:
        print_json(spliced_dict(found))
        return
    for path, names in found.taken.items():
        say(f"tensors from {path}: {len(names)}")
    if found.lossy:
        say(f"note: marked as lossy, since quantized from quantized weights: {', '.join(found.lossy)}")
    for path in found.in_turn:
        say(
            f"note: {path} was rounded one block after the other: its tensors take back the errors of those before them"
        )
    say(f"{output}: {found.written.size:,} bytes, SHA-256 {found.written.sha256}")
