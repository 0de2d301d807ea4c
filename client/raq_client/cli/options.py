"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

INPUTS_PANEL = "Other inputs"
MODEL_NAMES: Final = ("--model", "-m")


def other_input(*names: str, help_text: str, **more: Any) -> Any:
    """An option of these names for another input than a command's usual one; its default is not shown."""
    return typer.Option(*names, rich_help_panel=INPUTS_PANEL, help=help_text, show_default=False, **more)


Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="BUDGET",
        help="Bits per weight (5.7) of tensor data, or the size of the file (4.2GiB, 17GB, 24G).",
        show_default=False,
    ),
]
MaxLoss = Annotated[
    float | None,
    typer.Option("--max-loss", min=0, metavar="LOSS", help="Smallest size within this loss.", show_default=False),
]
Model = Annotated[
    Path | None,
    typer.Option(*MODEL_NAMES, help="GGUF model file; of a split model, any shard.", show_default=False),
]
OptionalModel = Annotated[
    Path | None,
    typer.Argument(
        metavar="[MODEL]",
        help="GGUF model file; of a split model, any shard. Else model in raq.toml.",
        show_default=False,
    ),
]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="GGUF model file; of a split model, any shard.")]
Imatrix = Annotated[
    list[str] | None,
    typer.Option(
        "--imatrix",
        "-i",
        metavar="FILE[:WEIGHT]",
        help="Importance file, GGUF or .dat; several are added up, or blended by weights.",
        show_default=False,
    ),
]
Gram = Annotated[
    Path | None,
    typer.Option(
        "--gram",
        metavar="FILE",
        help="Gram statistics, for error feedback.",
        show_default=False,
    ),
]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential",
        rich_help_panel="Error feedback",
        help="Round blocks one after the other, each for the inputs that the rounded ones give it; needs --gram.",
    ),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        "-t",
        metavar="[DOMAIN=]FILE",
        help="A text; may be repeated. Texts of one domain are reported together too.",
        show_default=False,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="MODEL",
        rich_help_panel="Solver",
        help="Loss model: fisher, measured, residual, prior, relative, activation; else the best one for the data. "
        "prior uses measurements by Thireus, GGUF Tool Suite and its contributors.",
        show_default=False,
    ),
]
OptionalTable = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="GGUF file; where no weights are needed, any table of tensors that `base` reads. Else model in raq.toml.",
        show_default=False,
    ),
]
MovesPlot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the moves from the base into this .svg or .png.",
        show_default=False,
        rich_help_panel="Base and moves",
    ),
]
RATIO_PANEL = "Base and moves"
DemoteBelow = Annotated[
    float,
    typer.Option(
        "--demote-below", min=0, max=1, rich_help_panel=RATIO_PANEL, help="Tensors below this ratio may get fewer bits."
    ),
]
PromoteAbove = Annotated[
    float,
    typer.Option(
        "--promote-above", min=1, rich_help_panel=RATIO_PANEL, help="Tensors above this ratio may get more bits."
    ),
]
DomainPart = Annotated[
    list[Path] | None,
    typer.Option(
        "--domain-part", metavar="FILE", help="More of the domain's text; repeats give intervals.", show_default=False
    ),
]
GeneralPart = Annotated[
    list[Path] | None,
    typer.Option(
        "--general-part", metavar="FILE", help="More of general text; repeats give intervals.", show_default=False
    ),
]
MACHINE_PANEL = "Machine"
CHECK_PANEL = "Check"
DOMAINS_PANEL = "Several domains"
Threads = Annotated[
    int, typer.Option("--threads", min=0, rich_help_panel=MACHINE_PANEL, help="Threads; 0: one for each core.")
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        rich_help_panel=MACHINE_PANEL,
        help="Where to quantize: cpu, cuda (all CUDA devices), cuda:N (one), auto (cuda if there is any).",
        metavar="NAME",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the output if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EstimateOnly = Annotated[bool, typer.Option("--estimate", help="Only estimate time, memory and disk.")]
Context = Annotated[int, typer.Option("--context", min=8, rich_help_panel=CHECK_PANEL, help="Tokens of a window.")]
Windows = Annotated[
    int | None,
    typer.Option(
        "--windows",
        min=2,
        rich_help_panel=CHECK_PANEL,
        help="At most this many windows of each text.",
        show_default=False,
    ),
]
Library = Annotated[
    Path | None,
    typer.Option(
        "--libllama",
        rich_help_panel=MACHINE_PANEL,
        help="A libllama of your own; else RAQ_LIBLLAMA, else the bundled one.",
        show_default=False,
    ),
]
Effort = Annotated[
    Literal["fast", "best"],
    typer.Option("--effort", rich_help_panel=MACHINE_PANEL, help="How hard to search for the best scales."),
]


def listed(text: str | None) -> tuple[str, ...]:
    """The names in a comma-separated text.

    >>> listed("Q4_K, Q6_K")
    ('Q4_K', 'Q6_K')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()
