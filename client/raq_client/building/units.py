"""A build in units: importance, errors and file are a job each, whose units any process of any machine makes.

`OUTPUT.parts` has the lines of all three, and `recipe.json`, which says what they are of: parts of another recipe, of
other inputs or of another build of raq are refused instead of never found.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raq_client.files.atomic_file import atomic_file
from raq_client.files.output_checks import unwritable
from raq_client.files.reading import parse_json, read_bytes
from raq_client.progress import Notes, Progress, stage
from raq_client.quantizing.measure import kernels_digest
from raq_client.recipes.build_recipe import BuildRecipe
from raq_client.units import carry_out
from raq_client.units.journal import Journal, work_folder
from raq_client.units.probing import Make
from raq_client.units.unit import Job, Line, Part
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.importance.imatrix import Importance
    from raq_client.models.writer import WrittenModel
    from raq_client.units.collecting import CollectJob
    from raq_client.units.profiling import ProfileJob
    from raq_client.units.quantizing import QuantizeJob
    from raq_solver.profile import Profile

MADE_HERE: Final[Make] = carry_out.run_units
"""Makes all units in this process."""
FOUND_ONLY: Final[Make] = lambda *_: None
"""Makes no unit: all must be there."""
_RECORD: Final = "recipe.json"
_WHAT: Final = {"recipe": "another recipe", "inputs": "other inputs", "raq": "another build of raq"}


def made_together(wanted: Part) -> Make:
    """Makes one of several parts of the units, and then those of others that are not there yet."""
    return lambda work, units, journal, report: carry_out.run_part_and_rest(work, units, wanted, journal, report)


def made_by(executor: carry_out.Executor) -> Make:
    """Has all units made by an executor."""
    return lambda work, units, journal, report: carry_out.run_units(work, units, journal, report, executor)


@dataclass(frozen=True, eq=False)
class BuildUnits:
    """The units of the build that writes `output`, and what makes those that are not there: `make`.

    With `verified` units of this share of the cost of each job are computed again.
    """

    output: Path
    make: Make
    verified: Fraction | None = None

    def importance(self, job: "CollectJob", progress: Progress | None, notes: Notes) -> "Importance":
        """The importance that a job collects. Raises InvalidInput if a unit fails or is missing."""
        with self._journal(job) as journal:
            try:
                return job.finish(self._lines(job, journal, progress, "collecting importance"), notes)
            finally:
                job.close()

    def profile(self, job: "ProfileJob", progress: Progress | None, notes: Notes) -> "Profile":
        """The profile that a job measures. Raises InvalidInput if a unit fails or is missing."""
        with self._journal(job) as journal:
            try:
                lines = self._lines(job, journal, progress, "measuring errors")
                return job.finish(lines, journal, progress, notes)
            finally:
                job.close()

    def written(self, job: "QuantizeJob", progress: Progress | None, notes: Notes) -> "WrittenModel":
        """The file that a job writes, replacing what is there. Raises InvalidInput if a unit fails or is missing."""
        with self._journal(job) as journal:
            try:
                lines = self._lines(job, journal, progress, "quantizing")
                return job.named(lines, force=True, notes=notes)[0]
            finally:
                job.close()

    def part(self, job: "QuantizeJob", wanted: Part, progress: Progress | None) -> int:
        """Make one of several parts of the file; the number of units that were made now."""
        with self._journal(job) as journal:
            try:
                return carry_out.run_part(job, wanted, journal, stage(progress, "quantizing"))
            finally:
                job.close()

    def require_same(self, recipe: BuildRecipe, digests: Mapping[Path, str]) -> None:
        """Raise InvalidInput if the parts that are there are of something else; note down what these are of."""
        folder = work_folder(self.output)
        other = difference(self.output, recipe, digests)
        if other is not None:
            raise InvalidInput(Fault(str(folder), f"has parts of {other}; remove it, or name another output"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(unwritable(folder, error)) from error
        with atomic_file(folder / _RECORD, force=True) as file:
            file.write(json.dumps(_record(recipe, digests)).encode())

    def remove(self) -> None:
        """Remove the folder of parts, once the file is there."""
        shutil.rmtree(work_folder(self.output), ignore_errors=True)

    def _journal(self, job: Job) -> Journal:
        return Journal(work_folder(self.output), job)

    def _lines(self, job: Job, journal: Journal, progress: Progress | None, title: str) -> Mapping[str, Line]:
        self.make(job, job.units, journal, stage(progress, title))
        lines = carry_out.complete(job, journal)
        if self.verified is not None:
            carry_out.verify(job, lines, self.verified, stage(progress, f"verifying: {title}"))
        return lines


def check_parts(recipe: BuildRecipe) -> None:
    """Raise InvalidInput if a recipe can't be built in parts."""
    if recipe.sequential:
        what = "rounds blocks one after the other (sequential), on one machine"
        raise InvalidInput(Fault(recipe.name, f"{what}; leave out --index, --of, --merge and --cluster"))


def has_parts(output: Path) -> bool:
    """Whether parts of a build lie beside its output."""
    return (work_folder(output) / _RECORD).is_file()


def difference(output: Path, recipe: BuildRecipe, digests: Mapping[Path, str]) -> str | None:
    """What the parts beside an output are of, if it is not this recipe with these inputs; None if it is, or none are.

    `digests` are the SHA-256 of all inputs.
    """
    path = work_folder(output) / _RECORD
    there = parse_json(read_bytes(path), path) if path.is_file() else None
    if there is None:
        return None
    now = _record(recipe, digests)
    same = there if isinstance(there, dict) else {}
    return next((what for key, what in _WHAT.items() if same.get(key) != now[key]), None)


def _record(recipe: BuildRecipe, digests: Mapping[Path, str]) -> dict[str, str]:
    inputs = hashlib.sha256(" ".join(sorted(digests.values())).encode())
    return {"recipe": recipe.digest(), "inputs": inputs.hexdigest(), "raq": kernels_digest()}
