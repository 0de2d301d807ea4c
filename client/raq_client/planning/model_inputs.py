"""The input files of a command, each opened and read once: model, importance, saved profile."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from raq_client.compensation.compensate import Compensation, Effort
from raq_client.compensation.gram_file import read_gram
from raq_client.engine import DEFAULT_CONTEXT
from raq_client.files.profile_file import load_profile
from raq_client.importance.domains import read_domains
from raq_client.importance.imatrix import Importance, check_against
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import EMBEDDINGS, is_quantizable, requantized_note
from raq_client.models.remote import open_by_range
from raq_client.models.table import (
    FINGERPRINT,
    NUMBERS,
    OVERHEAD,
    ModelTable,
    guessed_architecture,
    numbers_of,
    table_of,
)
from raq_client.models.type_choice import AUTO, chosen_types
from raq_client.planning.text_weights import parse_text_weights, texts_of, weighted_texts
from raq_client.progress import Notes, Progress, silent, stage
from raq_client.quantizing.devices import CPU, Device
from raq_client.quantizing.rounding import Rounding
from raq_solver.errors import Fault, InvalidInput
from raq_solver.loss_models import default_loss_model
from raq_solver.profile import Profile
from raq_solver.tensor_names import OUTPUT

if TYPE_CHECKING:
    from raq_client.engine.windows import Text
    from raq_client.evaluation.in_memory import TrialSetup

NAMED = 3
"""Number of tensors listed in a note; the others are only counted."""


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """A model, given by its file and importance files or by a saved profile, and the settings for measuring it.

    `imatrix` are importance files, each `FILE` or `FILE:WEIGHT`, `gram` a file of Gram statistics for rounding with
    error feedback; `rows` rows are measured of each matrix (None: all). `measurements` is the folder in which they are
    kept where they are `cached`; None: in the user's cache folder. With `by_range` a model on a server or a hub is read
    by range requests, as far as it is needed. `text_weights` say, each as `TEXT:WEIGHT`, how much the losses on each
    text of the calibration count. `sequential` is how files are written: block after block.
    """

    path: Path | None = None
    imatrix: tuple[str, ...] = ()
    gram: Path | None = None
    profile_path: Path | None = None
    types: tuple[str, ...] = ()
    effort: Effort = "fast"
    threads: int = 0
    rows: int | None = None
    cached: bool = True
    device: Device = CPU
    measurements: Path | None = None
    by_range: bool = False
    text_weights: tuple[str, ...] = ()
    sequential: bool = False

    @cached_property
    def model(self) -> ModelFile:
        """The opened model. Raises InvalidInput if none is given or it can't be read."""
        if self.path is None:
            what = "no model is named: give MODEL, --model, a saved profile (--profile), or either in raq.toml"
            raise InvalidInput(Fault("", what))
        return open_by_range(self.path) if self.by_range else open_model(self.path)

    @cached_property
    def importance(self) -> Importance | None:
        """The combined importance of all files; None without a file.

        Raises InvalidInput with every mismatch between it and the model.
        """
        if not self.imatrix:
            return None
        importance = read_domains(self.imatrix)
        check_against(importance, self.model.tensors, ())
        return importance

    @cached_property
    def compensation(self) -> Compensation | None:
        """Error feedback by the Gram statistics; None without a file.

        Raises InvalidInput if they can't be read or are of another model.
        """
        if self.gram is None:
            return None
        model = self.model
        return Compensation(read_gram(self.gram).check_against(model.fingerprint(), model.tensors))

    @cached_property
    def rounding(self) -> Rounding:
        """How the model's weights are rounded.

        Raises InvalidInput as `importance`, `compensation` and `check_sequential` do.
        """
        compensation = self.compensation
        if self.sequential:
            from raq_client.quantizing.sequential import check_sequential

            check_sequential(self.model, None if compensation is None else compensation.gram)
        return Rounding(self.importance, compensation, self.effort, self.threads, self.device, self.sequential)

    def trial_setup(
        self,
        texts: "Sequence[Text]",
        windows: int,
        *,
        context: int = DEFAULT_CONTEXT,
        library: Path | None = None,
    ) -> "TrialSetup":
        """The setup for trying allocations of the model in memory. Raises InvalidInput if there is no text."""
        from raq_client.evaluation.in_memory import TrialSetup

        return TrialSetup(
            self.model,
            self.model.path,
            self.importance,
            texts,
            windows,
            context,
            self.effort,
            self.threads,
            library,
            self.compensation,
        )

    @property
    def has_weights(self) -> bool:
        """Whether plans are made from the model itself, not from a saved profile."""
        return self.path is not None and self.profile_path is None

    def table(self, profile: Profile) -> ModelTable:
        """The tensor table of the model, or of a saved profile with its stored metadata."""
        return table_of(self.model) if self.has_weights else profile_table(profile)

    def with_imatrix(self, imatrix: Sequence[str]) -> "ModelInputs":
        """The same inputs with other importance files; an opened model is kept."""
        other = replace(self, imatrix=tuple(imatrix))
        for kept in ("model", "compensation"):
            if kept in self.__dict__:
                other.__dict__[kept] = self.__dict__[kept]
        return other

    def profile(
        self, *, more_types: Sequence[str] = (), progress: Progress | None = None, notes: Notes = silent
    ) -> Profile:
        """Load the saved profile, or measure the model (from the cache if nothing changed); once for these inputs.

        `more_types` are measured in addition to `types`. `notes` is called with remarks for the user, such as tensors
        without importance.
        """
        key = tuple(more_types)
        if key not in self._profiles:
            weights = parse_text_weights(self.text_weights)
            found = self._profile(key, progress, notes)
            self._profiles[key] = weighted_texts(found, weights) if weights else found
        return self._profiles[key]

    @property
    def calibration_texts(self) -> tuple[str, ...]:
        """The names of the texts whose losses are known apart. Raises InvalidInput if a file can't be read."""
        if self.profile_path is not None:
            return texts_of(self._loaded(self.profile_path))
        windows = () if self.importance is None else self.importance.windows
        return tuple(dict.fromkeys(window.text for window in windows))

    @cached_property
    def _profiles(self) -> dict[tuple[str, ...], Profile]:
        return {}

    def _profile(self, more_types: tuple[str, ...], progress: Progress | None, notes: Notes) -> Profile:
        if self.profile_path is not None:
            return self._loaded(self.profile_path)
        from raq_client.quantizing.measure import measure_profile

        model, importance = self.model, self.importance
        unknown = None if importance is None else unknown_tensors(model, importance)
        remarks = () if importance is None else importance.remarks
        for note in (requantized_note(model.tensors, str(model.path)), unknown, *remarks):
            if note is not None:
                notes(f"note: {note}")
        types = (*(self.types or (AUTO,)), *more_types) if more_types else self.types
        cache = (self.measurements or user_cache_path("raq") / "measurements") if self.cached else None
        measured = measure_profile(
            model,
            importance,
            chosen_types(tuple(dict.fromkeys(types))),
            effort=self.effort,
            threads=self.threads,
            device=self.device,
            rows=self.rows,
            cache=cache,
            progress=stage(progress, "measuring errors"),
        )
        if self.compensation is None:
            return measured
        from raq_client.quantizing.compensated import compensated_profile

        rounding = Rounding(importance, self.compensation, self.effort, self.threads)
        return compensated_profile(
            model, measured, rounding, cache=cache, progress=stage(progress, "measuring error feedback")
        )

    def _loaded(self, path: Path) -> Profile:
        """The saved profile. Raises InvalidInput if a model is given too, and the profile was measured on another."""
        profile = load_profile(path)
        measured = profile.provenance.get(FINGERPRINT)
        if self.path is not None and measured not in {None, self.model.fingerprint()}:
            what = f"was measured on a model with other weights than {self.path}; measure it again"
            raise InvalidInput(Fault(str(path), f"{what} (raq-client profile)"))
        return profile


def unknown_tensors(model: ModelFile, importance: Importance) -> str | None:
    """A note on the tensors without importance; None if these are only the embedding and the output head."""
    wanted = [
        tensor.name
        for tensor in model.tensors
        if is_quantizable(tensor, model.architecture) and tensor.name not in (*EMBEDDINGS, OUTPUT)
    ]
    unknown = [name for name in wanted if not importance.knows(name)]
    if not unknown:
        return None
    more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
    return (
        f"{importance.source or 'the importance'} has no data for {len(unknown)} of {len(wanted)} tensors "
        f"({', '.join(unknown[:NAMED])}{more}): all their columns get the same importance, and types that need "
        "importance are not offered for them"
    )


def profile_table(profile: Profile) -> ModelTable:
    """The tensor table of the model that a profile was measured on."""
    name = profile.provenance.get("model", "the model")
    architecture = profile.provenance.get("architecture") or guessed_architecture(profile.tensors)
    overhead = profile.provenance.get(OVERHEAD, "")
    numbers = numbers_of(profile.provenance.get(NUMBERS, ""))
    return ModelTable(name, architecture, profile.tensors, numbers, int(overhead) if overhead.isdecimal() else 0)


def missing_facts(profile: Profile) -> str | None:
    """A note on data that would give better losses, and how to get them; None if nothing is missing."""
    if profile.fisher is not None:
        return None
    model = default_loss_model(profile).__name__
    return (
        f"there is no Fisher information for this model, so losses are from the loss model {model}, which is less "
        "accurate; collect it with raq-client imatrix collect MODEL --text FILE -o IMATRIX"
    )
