"""Carrying out a job: its units one after the other in this process, or by an executor, and the checks at its end."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from fractions import Fraction

from raq_client.units.journal import Journal
from raq_client.units.unit import Job, Line, Part, Unit, Work, longest_first, part, sample
from raq_solver.errors import Fault, InvalidInput

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all: at first, and after each unit. What is carried out is counted by
its cost, in microseconds of one core; what is verified, by units."""
Made = Generator[tuple[Unit, Line], None, None]
"""Units and their lines, as they come."""
Executor = Callable[[Work, Sequence[Unit]], Made]
"""Carries out units of a job, in any order."""
_NAMED = 3
_PARTS_NAMED = 8


def here(job: Work, units: Sequence[Unit]) -> Made:
    """Carry out units one after the other in this process."""
    for unit in units:
        yield unit, job.run(unit)


def run_units(
    job: Work, units: Iterable[Unit], journal: Journal, progress: Progress | None = None, executor: Executor = here
) -> int:
    """Make those of these units that no process has made yet, longest first; the number made here.

    Raises InvalidInput if a unit fails, or its line can't be written.
    """
    known = journal.known()
    wanted = longest_first(units)
    left = [unit for unit in wanted if unit.name not in known]
    total = sum(map(_microseconds, wanted))
    done = total - sum(map(_microseconds, left))
    if left and progress is not None:
        progress(done, total)
    with closing(executor(job, left)) as made:
        for unit, line in made:
            journal.add(unit, line)
            done += _microseconds(unit)
            if progress is not None:
                progress(done, total)
    return len(left)


def _microseconds(unit: Unit) -> int:
    return 1 + round(unit.cost)


def run_part(job: Job, wanted: Part, journal: Journal, progress: Progress | None = None) -> int:
    """Make one of several parts of a job; the number of units made here. Raises InvalidInput as `run_units` does."""
    journal.part = wanted
    return run_units(job, part(job.units, wanted), journal, progress)


def run_part_and_rest(
    job: Work, units: Sequence[Unit], wanted: Part, journal: Journal, progress: Progress | None = None
) -> int:
    """Make one of several parts of these units, and then those of others that nobody has made yet.

    For work that can only go on when all of them are there: no process waits for another, at the worst each makes again
    what another one has in progress. The number of units made here. Raises InvalidInput as `run_units` does.
    """
    journal.part = wanted
    made = run_units(job, part(units, wanted), journal, progress)
    rest = [unit for other in range(1, wanted.of) for unit in reversed(part(units, _after(wanted, other)))]
    for unit in rest:  # the shortest first, which its own process makes last
        made += run_units(job, [unit], journal)
    return made


def _after(wanted: Part, steps: int) -> Part:
    return Part((wanted.index + steps) % wanted.of, wanted.of)


def complete(job: Job, journal: Journal) -> dict[str, Line]:
    """The lines of all units. Raises InvalidInput if some are missing."""
    known = journal.known()
    units = job.units
    missing = [unit.name for unit in units if unit.name not in known]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        what = f"{len(missing)} of {len(units)} units are not there ({', '.join(missing[:_NAMED])}{more})"
        way = f"run {_unfinished(units, set(missing), journal)} again, with the same files and options"
        raise InvalidInput(Fault(str(journal.folder.parent), f"{what}; {way}"))
    return {unit.name: known[unit.name] for unit in units}


def _unfinished(units: Sequence[Unit], missing: set[str], journal: Journal) -> str:
    """The parts that have not ended, by their numbers if all processes divided the job into as many."""
    divisions = journal.divisions()
    if len(divisions) != 1:
        return "the parts that have not ended"
    (of,) = divisions
    numbers = [index for index in range(of) if any(unit.name in missing for unit in part(units, Part(index, of)))]
    listed = ", ".join(map(str, numbers[:_PARTS_NAMED]))
    more = f" and {len(numbers) - _PARTS_NAMED} more" if len(numbers) > _PARTS_NAMED else ""
    return f"part{'s' if len(numbers) > 1 else ''} {listed}{more} of {of}"


def verify(job: Job, lines: Mapping[str, Line], share: Fraction, progress: Progress | None = None) -> int:
    """Compute a share of the units of a job again, and compare their lines; the number of these units.

    Raises InvalidInput with every unit whose line is another one.
    """
    return verify_units(job, job.units, lines, share, progress)


def verify_units(
    job: Work, units: Sequence[Unit], lines: Mapping[str, Line], share: Fraction, progress: Progress | None = None
) -> int:
    """Compute a share of these units again, as `verify`."""
    again = sample(job.key, units, share)
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
