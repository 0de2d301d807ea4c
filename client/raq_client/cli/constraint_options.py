"""Options for constraints on single tensors and on several together."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from raq_client.files.settings import Settings
from raq_client.planning.constraint_options import ConstraintSpec

_SINGLE = "Constraints"
_TOGETHER = "Constraints on several tensors"


def _option(name: str, help_text: str, **more: Any) -> Any:
    return typer.Option(name, help=help_text, show_default=False, **({"rich_help_panel": _SINGLE} | more))


def _together(name: str, help_text: str, **more: Any) -> Any:
    return _option(name, help_text, rich_help_panel=_TOGETHER, **more)


@dataclass(frozen=True)
class ConstraintOptions:
    """Constraints on tensors; those of the second panel need the solver's general path."""

    pin: Annotated[list[str] | None, _option("--pin", "These tensors get this type.", metavar="PATTERN=TYPE")] = None
    floor: Annotated[
        list[str] | None, _option("--floor", "These tensors get at least this many bits.", metavar="PATTERN=BITS")
    ] = None
    ceiling: Annotated[
        list[str] | None, _option("--ceiling", "These tensors get at most this many bits.", metavar="PATTERN=BITS")
    ] = None
    exclude: Annotated[
        list[str] | None,
        _option("--exclude", "Never this type (for tensors of the PATTERN).", metavar="[PATTERN=]TYPE"),
    ] = None
    tie: Annotated[list[str] | None, _option("--tie", "These tensors share one type.", metavar="PATTERN")] = None
    at_most: Annotated[
        list[str] | None,
        _together("--at-most", "No more than COUNT of these tensors get more bits.", metavar="PATTERN=COUNT:BITS"),
    ] = None
    region: Annotated[
        list[str] | None,
        _together("--region", "These tensors together take at most SIZE (one GPU of a split).", metavar="PATTERN=SIZE"),
    ] = None
    monotone: Annotated[
        list[str] | None,
        _together("--monotone", "Along these tensors, in file order, bits never fall.", metavar="PATTERN"),
    ] = None
    distinct_types: Annotated[
        int | None, _together("--distinct-types", "At most this many quant types in the file.", min=1)
    ] = None

    active_bytes: Annotated[
        str | None,
        _together("--active-bytes", "Most bytes read per token, e.g. 3GiB; of experts the share used.", metavar="SIZE"),
    ] = None
    experts_used: Annotated[
        int | None, _together("--experts-used", "Experts per token, if the model does not state it.", min=1)
    ] = None

    def constraints(self, settings: Settings) -> ConstraintSpec:
        """The constraints of the settings, followed by those of the flags."""
        return ConstraintSpec(
            pin=(*settings.pin, *(self.pin or ())),
            floor=(*settings.floor, *(self.floor or ())),
            ceiling=(*settings.ceiling, *(self.ceiling or ())),
            exclude=(*settings.exclude, *(self.exclude or ())),
            tie=(*settings.tie, *(self.tie or ())),
            at_most=(*settings.at_most, *(self.at_most or ())),
            region=(*settings.region, *(self.region or ())),
            monotone=(*settings.monotone, *(self.monotone or ())),
            distinct_types=self.distinct_types or settings.distinct_types,
            active_bytes=self.active_bytes or settings.active_bytes,
            experts_used=self.experts_used or settings.experts_used,
        )
