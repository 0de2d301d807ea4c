"""The options that demand something of tensors, each by itself or several together."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from raq_client.files.settings import Settings
from raq_client.planning.selection import ConstraintSpec

_TOGETHER = "ConstraintSpec on several tensors"


def _option(name: str, help_text: str, **more: Any) -> Any:
    return typer.Option(name, help=help_text, show_default=False, **more)


def _together(name: str, help_text: str, **more: Any) -> Any:
    return _option(name, help_text, rich_help_panel=_TOGETHER, **more)


@dataclass(frozen=True)
class ConstraintOptions:
    """What is demanded of tensors; those of the second panel go to the solver's general path."""

    pin: Annotated[list[str] | None, _option("--pin", "PATTERN=TYPE: these tensors are this type.")] = None
    floor: Annotated[list[str] | None, _option("--floor", "PATTERN=BITS or TYPE: at least so many bits.")] = None
    ceiling: Annotated[list[str] | None, _option("--ceiling", "PATTERN=BITS or TYPE: at most so many bits.")] = None
    exclude: Annotated[list[str] | None, _option("--exclude", "TYPE, or PATTERN=TYPE: never this type.")] = None
    tie: Annotated[list[str] | None, _option("--tie", "PATTERN: these tensors share one type.")] = None
    at_most: Annotated[
        list[str] | None,
        _together("--at-most", "PATTERN=COUNT:BITS or TYPE: no more than COUNT of these tensors get more bits."),
    ] = None
    region: Annotated[
        list[str] | None,
        _together("--region", "PATTERN=SIZE: these tensors together take at most SIZE (one GPU of a split)."),
    ] = None
    monotone: Annotated[
        list[str] | None,
        _together("--monotone", "PATTERN: along these tensors, in file order, bits never fall."),
    ] = None
    distinct_types: Annotated[
        int | None, _together("--distinct-types", "At most so many quant types in the file.", min=1)
    ] = None

    active_bytes: Annotated[
        str | None, _together("--active-bytes", "Most that is read per token, as 3GiB; experts count as far as used.")
    ] = None
    experts_used: Annotated[
        int | None, _together("--experts-used", "Experts that a token uses, where the model does not say.", min=1)
    ] = None

    def demands(self, settings: Settings) -> ConstraintSpec:
        """The demands of the project's settings, and after them those of the flags."""
        return ConstraintSpec(
            pin=(*settings.pin, *(self.pin or ())),
            floor=(*settings.floor, *(self.floor or ())),
            ceiling=(*settings.ceiling, *(self.ceiling or ())),
            exclude=(*settings.exclude, *(self.exclude or ())),
            tie=(*settings.tie, *(self.tie or ())),
            at_most=tuple(self.at_most or ()),
            region=tuple(self.region or ()),
            monotone=tuple(self.monotone or ()),
            distinct_types=self.distinct_types,
            active_bytes=self.active_bytes,
            experts_used=self.experts_used,
        )
