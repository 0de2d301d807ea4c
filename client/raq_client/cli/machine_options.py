"""Options for carrying out one command on several machines."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli.console import print_json, say
from raq_client.cli.progress import progress_bar
from raq_solver.errors import Fault, InvalidInput, raise_faults

if TYPE_CHECKING:
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.units.journal import Journal
    from raq_client.units.ray_executor import RayExecutor
    from raq_client.units.unit import Job, Line, Part

PANEL = "Several machines (docs/scale.md)"


@dataclass(frozen=True)
class MachineOptions:
    """Which part of the work this process does, that all parts are put together, or the cluster that does it all."""

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
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ray[://HOST:PORT]",
            rich_help_panel=PANEL,
            help="Do the work on a Ray cluster (raq[cluster]); --threads: the cores of a unit, or of a model.",
            show_default=False,
        ),
    ] = None

    def check(self) -> bool:
        """Whether any of these options is given. Raises InvalidInput for options that do not go together."""
        ways = {
            "--index": self.index is not None,
            "--merge": self.merge,
            "--cluster": self.cluster is not None,
        }
        given = [name for name, on in ways.items() if on]
        faults = [Fault(name, f"can't be used together with {given[0]}") for name in given[1:]]
        if (self.index is None) != (self.of is None):
            faults.append(Fault("--index" if self.of is None else "--of", "--index I and --of N belong together"))
        if self.verify_share is not None and not (self.merge or self.cluster):
            faults.append(Fault("--verify-share", "has a use only with --merge or --cluster"))
        if self.cluster is not None and not re.fullmatch(r"ray(://[^/\s]+:\d+)?", self.cluster):
            faults.append(Fault("--cluster", f"{self.cluster} is no cluster; write ray, or ray://HOST:PORT"))
        raise_faults(faults)
        self.part()
        self.share()
        return bool(given)

    def read_by(self, inputs: "ModelInputs") -> "ModelInputs":
        """The inputs, with the model read by ranges if it is on a server, or is of a hub and the work is divided.

        Raises InvalidInput for Gram statistics with such a model, as they are known by all of its bytes.
        """
        from raq_client.files.names import address_in
        from raq_client.hub.names import HUB

        model, divided = str(inputs.path), self.index is not None or self.merge or self.cluster is not None
        if address_in(model) is None and not (divided and model.startswith(HUB)):
            return inputs
        if inputs.gram is not None:
            what = "is checked against all bytes of its model; download the model, and give the file"
            raise InvalidInput(Fault("--gram", what))
        return replace(inputs, by_range=True)

    def carry_out(
        self,
        job: "Job",
        journal: "Journal",
        output: Path,
        title: str,
        *,
        threads: int = 0,
        gpu: bool = False,
        as_json: bool,
    ) -> "Mapping[str, Line] | None":
        """Do what the options ask; the lines of all units, or None after a part. The job is then closed.

        On a cluster a unit has `threads` cores (0: one), and with `gpu` a GPU.

        Raises InvalidInput if a unit fails, if with --merge some are missing, or if a verified one differs.
        """
        from raq_client.units.carry_out import complete, run_part, run_units, verify

        wanted, share = self.part(), self.share()
        with journal:
            try:
                if wanted is not None:
                    with progress_bar(title) as report:
                        made = run_part(job, wanted, journal, report)
                    self.say_part(output, made, as_json=as_json)
                    return None
                if self.cluster is not None:
                    with self.connected(threads=threads, gpu=gpu) as executor, progress_bar(title) as report:
                        run_units(job, job.units, journal, report, executor)
                lines = complete(job, journal)
                if share is not None:
                    with progress_bar("verifying") as report:
                        again = verify(job, lines, share, report)
                    say(f"{again} of {len(lines)} units computed again: all equal")
                return lines
            finally:
                job.close()

    def connected(self, *, threads: int, gpu: bool = False) -> "RayExecutor":
        """The connection with the cluster, a context manager. Raises InvalidInput if Ray is not installed."""
        try:
            from raq_client.units.ray_executor import RayExecutor
        except ModuleNotFoundError as error:
            raise InvalidInput(Fault("--cluster", f"needs {error.name}: pip install 'raq[cluster]'")) from None
        _, separator, _ = (self.cluster or "").partition("://")
        return RayExecutor(self.cluster if separator else None, threads=threads, gpu=gpu)

    def say_part(self, output: Path, made: int | None = None, *, as_json: bool) -> None:
        """Print that the part is done, and the number of units that were made now."""
        if as_json:
            print_json({"output": str(output), "index": self.index, "of": self.of, "units": made})
        else:
            units = "" if made is None else f" ({made} units now)"
            say(f"part {self.index} of {self.of} is done{units}; when all are, run the command with --merge")

    def part(self) -> "Part | None":
        """The part to do; None without --index."""
        from raq_client.units.unit import Part

        return None if self.index is None or self.of is None else Part(self.index, self.of)

    def share(self) -> Fraction | None:
        """The share to compute again; None without --verify-share."""
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
