"""Carrying out a job: its units one after the other in this process, and what is checked before it is finished."""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from raq_client.units.journal import Journal
from raq_client.units.unit import Job, Line, Part, Unit, longest_first, part, sample
from raq_solver.errors import Fault, InvalidInput

Progress = Callable[[int, int], None]
"""Called after each unit with the number of units done and the total."""
_NAMED = 3


def run_units(job: Job, units: Iterable[Unit], journal: Journal, progress: Progress | None = None) -> int:
    """Make those of these units that no process has made yet, longest first; the number made here.

    Raises InvalidInput if a unit fails, or its line can't be written.
    """
    known = journal.known()
    wanted = longest_first(units)
    left = [unit for unit in wanted if unit.name not in known]
    for number, unit in enumerate(left, start=1):
        journal.add(unit, job.run(unit))
        if progress is not None:
            progress(len(wanted) - len(left) + number, len(wanted))
    return len(left)


def run_part(job: Job, wanted: Part, journal: Journal, progress: Progress | None = None) -> int:
    """Make one of several parts of a job; the number of units made here. Raises InvalidInput as `run_units` does."""
    return run_units(job, part(job.units, wanted), journal, progress)


def complete(job: Job, journal: Journal) -> dict[str, Line]:
    """The lines of all units. Raises InvalidInput if some are missing."""
    known = journal.known()
    units = job.units
    missing = [unit.name for unit in units if unit.name not in known]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        what = f"{len(missing)} of {len(units)} units are not there ({', '.join(missing[:_NAMED])}{more})"
        way = "run the parts that have not ended again, with the same files and options"
        raise InvalidInput(Fault(str(journal.folder.parent), f"{what}; {way}"))
    return {unit.name: known[unit.name] for unit in units}


def verify(job: Job, lines: Mapping[str, Line], share: Fraction, progress: Progress | None = None) -> int:
    """Compute a share of the units again, and compare their lines; the number of these units.

    Raises InvalidInput with every unit whose line is another one.
    """
    again = sample(job.key, job.units, share)
    faults = []
    for number, unit in enumerate(again, start=1):
        if {"unit": unit.name, **job.again(unit)} != lines[unit.name]:
            what = "computed again on this machine it is another one; a machine or its memory is at fault"
            faults.append(Fault(unit.name, what))
        if progress is not None:
            progress(number, len(again))
    if faults:
        raise InvalidInput(faults)
    return len(again)
