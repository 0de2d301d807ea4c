"""`raq-client profile`: measure once, solve for any budget later."""

from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, progress_bar, say


def profile(
    model: options.ModelArgument,
    output: options.Output,
    imatrix: options.Imatrix = None,
    types: options.Types = None,
    effort: options.Effort = "fast",
    threads: options.Threads = 0,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure anew, and remember nothing.")] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure the error of every tensor of MODEL at every quant type, and save it.

    The profile holds all that any budget needs, without the weights. An interrupted measurement goes on where it
    stopped.

    Example: raq-client profile model-f16.gguf --imatrix imatrix.gguf -o model.profile.json
    """
    from raq_client.atomic_file import check_output
    from raq_client.planning import Sources, obtain_profile
    from raq_client.profile_file import save_profile

    check_output(output, force=force)
    sources = Sources(
        model=model,
        imatrix=tuple(imatrix or ()),
        types=options.listed(types),
        effort=effort,
        threads=threads,
        cached=not no_cache,
    )
    measured = obtain_profile(sources, progress_bar)
    save_profile(measured, output, force=force)
    summary = {
        "output": str(output),
        "digest": measured.digest(),
        "tensors": len(measured.tensors),
        "quant_types": [q.name for q in measured.quant_types],
        "weights": int(measured.weights.sum()),
    }
    if as_json:
        print_json(summary)
    else:
        tensors, weights = summary["tensors"], summary["weights"]
        say(f"{output}: {tensors} tensors, {weights:,} weights, digest {measured.digest()[:16]}")
