"""`raq-client vram`: the largest context beside given weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import options
from raq_client.cli.base import Architecture
from raq_client.cli.base_options import MemoryOptions
from raq_client.cli.console import OUT, print_json
from raq_client.cli.groups import project_model
from raq_client.cli.option_groups import spread
from raq_client.files.settings import read_settings
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.models.table import ModelTable


@spread
def vram(
    model: options.OptionalTable = None,
    allocation: Annotated[
        Path | None,
        typer.Option(
            "--allocation",
            "-a",
            help="Output of `solve --json`, or overrides; else MODEL's own types.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Or a base: a mixture, a recipe, a file.", show_default=False)
    ] = None,
    model_architecture: Architecture = None,
    as_json: options.Json = False,
    *,
    memory: MemoryOptions,
) -> None:
    """Find the largest context that fits beside a model.

    Also shows what uses how much of the memory.

    Example: raq-client vram model-f16.gguf -a plan.json --vram 24GiB --kv q4_0 --overhead 3GiB --host token_embd.weight
    """
    from dataclasses import replace

    from raq_client.models.read_table import read_table
    from raq_client.planning.memory_budget import MemoryBudget, Term, largest_context, memory_terms
    from raq_client.planning.memory_shape import memory_shape
    from raq_client.reports.base import memory_dict, memory_table

    settings = read_settings(Path.cwd())
    if memory.vram_context is not None:
        raise InvalidInput(Fault("--vram-context", "is what this command computes; leave it out"))
    target = memory.memory_target(settings)
    if target is None:
        raise InvalidInput(Fault("", "how much memory is there? Give --vram, e.g. --vram 24GiB"))
    if memory.host_memory is not None:
        raise InvalidInput(Fault("--host-memory", "is for solving; here the weights are given"))
    table = read_table(model or str(project_model(None, settings)), model_architecture or "")
    on_device, on_host = _weights(table, allocation, base, target.host)
    shape = memory_shape(table)
    context = largest_context(target.memory, on_device, shape, target.serving)
    serving = replace(target.serving, context=max(1, context))
    weights = Term("weights on the device", on_device, f"{sum(on_host.values()):,} bytes on the host")
    used = MemoryBudget(target.memory, (weights, *memory_terms(shape, serving)))
    found: dict[str, Any] = {"context": context, "longest_of_the_model": shape.longest_context, "left": used.weights}
    if as_json:
        print_json(found | {"memory": memory_dict(used), "on_host": on_host})
        return
    limit = ", the longest the model was made for" if context and context == shape.longest_context else ""
    OUT.print(f"largest context  {context:,} tokens{limit}" if context else "no context fits beside these weights")
    OUT.print("", memory_table(used, on_host, left="left over"), sep="\n")


def _weights(
    table: "ModelTable", allocation: Path | None, base: str | None, host: tuple[str, ...]
) -> tuple[int, dict[str, int]]:
    """The bytes of weights on the device, and of each tensor on the host."""
    from raq_client.planning.memory_budget import device_bytes
    from raq_client.recipes.bases import base_recipe
    from raq_client.recipes.patterns import matching
    from raq_client.recipes.steps import carry_out

    name = str(allocation) if allocation is not None else base
    types = (
        {tensor: tensor.source_type for tensor in table.tensors}
        if name is None
        else carry_out(base_recipe(name), table)[-1].types
    )
    names = matching(host, [tensor.name for tensor in table.tensors], "--host") if host else ()
    on_host = {tensor.name: types[tensor].size(tensor.weights) for tensor in types if tensor.name in names}
    return device_bytes(types, names), on_host
