"""Options that tie tensors together: they go to the solver's general path."""

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from raq_client.selection import Demands

_PANEL = "Demands on several tensors"


@dataclass(frozen=True)
class SideOptions:
    """Demands that hold for tensors together."""

    at_most: Annotated[
        list[str] | None,
        typer.Option(
            "--at-most",
            help="PATTERN=COUNT:BITS or TYPE: no more than COUNT of these tensors get more bits.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            help="PATTERN=SIZE: these tensors together take at most SIZE (one GPU of a split).",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    monotone: Annotated[
        list[str] | None,
        typer.Option(
            "--monotone",
            help="PATTERN: along these tensors, in file order, bits never fall.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    distinct_types: Annotated[
        int | None,
        typer.Option(
            "--distinct-types",
            min=1,
            help="At most so many quant types in the file.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None

    def over(self, demands: Demands) -> Demands:
        """The demands with these added."""
        return replace(
            demands,
            at_most=tuple(self.at_most or ()),
            region=tuple(self.region or ()),
            monotone=tuple(self.monotone or ()),
            distinct_types=self.distinct_types,
        )
