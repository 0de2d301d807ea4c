"""`raq-client capture`: importance from the traffic of a server."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.groups import project_model
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_solver.errors import Fault, InvalidInput


def capture(
    called: typer.Context,
    *,
    upstream: Annotated[
        str | None,
        typer.Option("--upstream", metavar="URL", help="The server to forward to. Without it MODEL answers itself."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients connect; port 0: any that is free.")
    ] = "127.0.0.1:8081",
    model: options.Model = None,
    output: options.Output,
    context: options.Context = 512,
    length: Annotated[
        int | None,
        typer.Option(
            "--answer-context",
            min=16,
            metavar="TOKENS",
            help="Without --upstream: tokens of a prompt and its answer. Default: 4096, or as MODEL was trained.",
            show_default=False,
        ),
    ] = None,
    output_head: Annotated[bool, typer.Option("--process-output", help="Collect for the output head too.")] = False,
    threads: options.Threads = 0,
    libllama: options.Library = None,
    as_json: options.Json = False,
) -> None:
    """Collect importance from the traffic of a server.

    An observing proxy before any server with OpenAI's API, or Ollama's. Requests and answers pass byte for byte,
    streams as they come. Each chat is rendered with its answer by the chat template of MODEL and run through MODEL by a
    process of low priority, so MODEL should be the model that is served, or that it is made from. Only sums and counts
    are written, never a text. End it with Ctrl-C: what waits is counted first, at a second Ctrl-C left out. Started
    again with the same OUTPUT, it goes on from there. Needs raq[capture].

    Without --upstream MODEL itself answers, one request at a time, at /v1/chat/completions and /v1/completions: greedy
    unless a request has a temperature.

    Example: raq-client capture --upstream http://127.0.0.1:8080 --model model-f16.gguf -o live.imatrix.gguf
    """
    try:
        from raq_client.capture.serve import answer, forward
        from raq_client.capture.serve import listen as open_socket
    except ImportError as error:
        raise InvalidInput(Fault("capture", f"needs {error.name}: pip install 'raq[capture]'")) from None
    from raq_client.capture.worker import Job

    settings = read_settings(Path.cwd())
    path = project_model(model, settings)
    check_written(called, {}, {"output": output}, force=False, also=settings.files())
    if output.suffix == ".dat":
        raise InvalidInput(
            Fault(str(output), "the .dat format can't be gone on from; name an output that ends in .gguf")
        )
    if upstream is not None and length is not None:
        raise InvalidInput(Fault("--answer-context", "is for answers of the model itself; the server has its own"))
    if upstream is not None and not upstream.startswith(("http://", "https://")):
        raise InvalidInput(Fault("--upstream", f"{upstream!r} is no address like http://127.0.0.1:8080"))
    job = Job(path, output, context, threads, libllama, output_head)
    with open_socket(listen) as listening:
        if upstream is None:
            requests, counted = answer(length, listening, job, say)
        else:
            requests, counted = forward(upstream, listening, job, say)
    if as_json:
        found = {"exchanges": counted.exchanges, "tokens": counted.tokens, "windows": counted.windows}
        print_json({"output": str(output), "requests": requests, **found, "left_out": counted.left_out})
        return
    for reason, count in counted.left_out.items():
        say(f"{count} exchanges are not counted: {reason}")
    what = f"{counted.exchanges} of {requests} requests counted, {counted.tokens:,} tokens"
    say(
        f"{output}: {what}, {counted.windows} windows of {context}"
        if counted.windows
        else f"{what}: no window of {context}"
    )
