"""Options for carrying out one command on several machines."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli.console import print_json, say
from raq_client.cli.progress import progress_bar
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.units.journal import Journal
    from raq_client.units.unit import Job, Line, Part

PANEL = "Several machines (docs/scale.md)"


@dataclass(frozen=True)
class MachineOptions:
    """Which part of the work this process does, or that all parts are put together."""

    index: Annotated[
        int | None,
        typer.Option(
            "--index",
            metavar="I",
            rich_help_panel=PANEL,
            help="Do only part I of the work, from 0; OUTPUT.parts keeps it, beside the output on shared storage.",
            show_default=False,
        ),
    ] = None
    of: Annotated[
        int | None,
        typer.Option(
            "--of", metavar="N", min=1, rich_help_panel=PANEL, help="The number of parts.", show_default=False
        ),
    ] = None
    merge: Annotated[
        bool, typer.Option("--merge", rich_help_panel=PANEL, help="Make the output of the parts, when all have ended.")
    ] = False
    verify_share: Annotated[
        str | None,
        typer.Option(
            "--verify-share",
            metavar="SHARE",
            rich_help_panel=PANEL,
            help="Compute this share of the parts again before the output is made, and compare: 1%, 0.01.",
            show_default=False,
        ),
    ] = None

    def check(self) -> bool:
        """Whether any of these options is given. Raises InvalidInput for options that do not go together."""
        ways = {
            "--index": self.index is not None,
            "--merge": self.merge,
        }
        given = [name for name, on in ways.items() if on]
        faults = [Fault(name, f"can't be used together with {given[0]}") for name in given[1:]]
        if (self.index is None) != (self.of is None):
            faults.append(Fault("--index" if self.of is None else "--of", "--index I and --of N belong together"))
        if self.verify_share is not None and not self.merge:
            faults.append(Fault("--verify-share", "has a use only with --merge"))
        raise_faults(faults)
        self._part()
        self._share()
        return bool(given)

    def carry_out(
        self, job: "Job", journal: "Journal", output: Path, title: str, *, as_json: bool
    ) -> "Mapping[str, Line] | None":
        """Do what the options ask; the lines of all units, or None after a part. The job is then closed.

        Raises InvalidInput if a unit fails, if with --merge some are missing, or if a verified one differs.
        """
        from raq_client.units.carry_out import complete, run_part, verify

        wanted, share = self._part(), self._share()
        with journal:
            try:
                if wanted is not None:
                    with progress_bar(title) as report:
                        made = run_part(job, wanted, journal, report)
                    _say_part(made, self.index or 0, self.of or 1, output, as_json=as_json)
                    return None
                lines = complete(job, journal)
                if share is not None:
                    with progress_bar("verifying") as report:
                        again = verify(job, lines, share, report)
                    say(f"{again} of {len(lines)} units computed again: all equal")
                return lines
            finally:
                job.close()

    def _part(self) -> "Part | None":
        from raq_client.units.unit import Part

        return None if self.index is None or self.of is None else Part(self.index, self.of)

    def _share(self) -> Fraction | None:
        return None if self.verify_share is None else parse_share(self.verify_share)


def parse_share(text: str) -> Fraction:
    """A share in percent or as a number above 0 and at most 1. Raises InvalidInput for anything else.

    >>> parse_share("1%"), parse_share("0.25")
    (Fraction(1, 100), Fraction(1, 4))
    """
    try:
        number = text.strip()
        share = Fraction(number.removesuffix("%").strip()) / (100 if number.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise InvalidInput(Fault("--verify-share", f"{text} is no share; write it as 1% or 0.01"))
    return share


def _say_part(made: int, index: int, of: int, output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(output), "index": index, "of": of, "units": made})
    else:
        say(f"part {index} of {of} is done ({made} units now); when all are, run the command with --merge")
