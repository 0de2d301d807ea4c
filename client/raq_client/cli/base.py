"""`raq-client base`: the types and the size that a base gives a model."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.base_options import Counting
from raq_client.cli.console import OUT, print_json

Table = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="GGUF file (its header is enough) or web address of one, folder of safetensors, .csv or .map of shapes.",
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--model-architecture", metavar="NAME", help="llama.cpp's name of the architecture, if MODEL does not say."
    ),
]


def base(
    name: Annotated[
        str, typer.Argument(metavar="BASE", help="A mixture (Q4_K_M), a GGUF file, overrides, an allocation, a recipe.")
    ],
    model: Table,
    overrides: Annotated[
        Path | None,
        typer.Option(
            "--overrides",
            metavar="FILE",
            help="A --tensor-type-file of llama.cpp to apply to the mixture.",
            show_default=False,
        ),
    ] = None,
    counting: Annotated[
        Counting,
        typer.Option("--counting", help="Whether overrides change the mixture's other types, as they do in llama.cpp."),
    ] = Counting.LLAMA_CPP,
    pure: Annotated[bool, typer.Option("--pure", help="The base type everywhere, as llama-quantize --pure.")] = False,
    without_importance: Annotated[
        bool, typer.Option("--without-importance", help="The types that llama-quantize chooses without an imatrix.")
    ] = False,
    model_architecture: Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Show the types and size that a mixture gives a model.

    BASE may also be any other base: a recipe, a GGUF file, an allocation. No weights are needed.

    Example: raq-client base Q4_K_M https://huggingface.co/…/model-f16.gguf
    """
    from raq_client.models.read_table import read_table
    from raq_client.recipes.bases import base_recipe
    from raq_client.recipes.steps import carry_out
    from raq_client.reports.recipe import step_dict, types_of_step

    recipe = base_recipe(
        name, overrides=overrides, counting=counting.value, pure=pure, has_importance=not without_importance
    )
    table = read_table(model, model_architecture or "")
    step = carry_out(recipe, table)[-1]
    if as_json:
        print_json(step_dict(step, table))
    else:
        OUT.print(types_of_step(step, table))
