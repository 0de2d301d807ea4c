"""`raq-client imatrix paths`: where a text lights a model up, and how two texts differ in that."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.imatrix import File
from raq_client.cli.written import check_written
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.importance.imatrix import Importance
    from raq_client.importance.path_cells import Cells

Experts = Annotated[
    int,
    options.other_input(
        "--experts",
        min=0,
        metavar="COUNT",
        help_text="Experts of each block, for importance files of the older format, which do not state it.",
    ),
]


class Kind(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """What the cells of a block are."""

    AUTO = "auto"
    EXPERTS = "experts"
    ROLES = "roles"


def paths(
    called: typer.Context,
    file: File,
    contrast: Annotated[
        Path | None,
        typer.Option(
            "--contrast", metavar="GENERAL", help="Compare with this importance of general text.", show_default=False
        ),
    ] = None,
    diff: Annotated[
        Path | None,
        typer.Option("--diff", metavar="OTHER", help="Show how this other file differs.", show_default=False),
    ] = None,
    domain_part: options.DomainPart = None,
    general_part: options.GeneralPart = None,
    cells: Annotated[Kind, typer.Option("--cells", help="Columns: experts, or roles (distinct inputs).")] = Kind.AUTO,
    experts: Experts = 0,
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="Blocks to name.")] = 6,
    table: Annotated[bool, typer.Option("--table", help="Print a table instead of a heat map.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw into this .svg or .png.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show where a text lights a model up.

    A map of blocks by experts (of a mixture of experts) or by roles. Experts that no token reached have no data, and
    are neither cold nor hot. With --contrast, shows what a domain uses more than general text does, the most
    distinctive blocks first; with --diff, how much each block resembles itself in another file.

    Examples:

    raq-client imatrix paths code.gguf

    raq-client imatrix paths code.gguf --contrast wiki.gguf --plot contrast.svg

    raq-client imatrix paths code.dat --experts 256 --diff wiki.dat --json
    """
    from raq_client.importance.domains import read_parts
    from raq_client.importance.path_cells import Cells

    if contrast is not None and diff is not None:
        raise InvalidInput(Fault("--diff", "and --contrast are two views; give one"))
    if contrast is None and (domain_part or general_part):
        raise InvalidInput(Fault("--domain-part", "and --general-part are for intervals of --contrast; give it too"))
    check_written(called, {}, {"plot": plot}, force=False)
    chosen = None if cells is Kind.AUTO else Cells(cells.value)
    domain = read_parts([file, *(domain_part or ())])
    if contrast is not None:
        _contrast(domain, read_parts([contrast, *(general_part or ())]), chosen, experts, top, plot, as_json, table)
    elif diff is not None:
        _diff(domain, read_parts([diff]), chosen, experts, plot, as_json)
    else:
        _map(domain[0], chosen, experts, top, plot, as_json, table)


def _map(
    importance: "Importance",
    cells: "Cells | None",
    experts: int,
    top: int,
    plot: Path | None,
    as_json: bool,
    table: bool,
) -> None:
    from raq_client.importance.paths import path_map
    from raq_client.reports.paths import map_dict, map_report, map_table

    found = path_map(importance, cells, experts=experts)
    if plot is not None:
        from raq_client.reports.paths_plot import plot_map

        plot_map(plot, found, importance.source)
        say(f"{plot}: drawn")
    if as_json:
        print_json(map_dict(found, top) | {"file": importance.source, "datasets": list(importance.datasets)})
    else:
        OUT.print(map_table(found) if table else map_report(found, top))


def _contrast(
    domain: "tuple[Importance, ...]",
    general: "tuple[Importance, ...]",
    cells: "Cells | None",
    experts: int,
    top: int,
    plot: Path | None,
    as_json: bool,
    table: bool,
) -> None:
    from raq_client.importance.paths import contrasts, path_maps
    from raq_client.reports.paths import contrast_dict, contrast_report, contrast_table

    found = contrasts(domain, general, cells, experts=experts)
    maps = path_maps(domain, general, cells, experts=experts)
    if plot is not None:
        from raq_client.reports.paths_plot import plot_contrast

        plot_contrast(plot, found, maps[0], f"{domain[0].source} against {general[0].source}")
        say(f"{plot}: drawn")
    if as_json:
        print_json(contrast_dict(found, maps, top))
    else:
        OUT.print(contrast_table(found) if table else contrast_report(found, maps, top))


def _diff(
    first: "tuple[Importance, ...]",
    second: "tuple[Importance, ...]",
    cells: "Cells | None",
    experts: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    from raq_client.importance.paths import differences, path_maps
    from raq_client.reports.paths import diff_dict, diff_table

    maps = path_maps(first, second, cells, experts=experts)
    found = differences(*maps)
    if plot is not None:
        from raq_client.reports.paths_plot import plot_difference

        plot_difference(plot, maps, f"{second[0].source} less {first[0].source}")
        say(f"{plot}: drawn")
    if as_json:
        print_json(diff_dict(found, maps))
    else:
        OUT.print(diff_table(found, maps))
