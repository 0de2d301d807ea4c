"""The files a command works on, each opened and read once: model, importance, saved profile."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from platformdirs import user_cache_path

from raq_client.files.profile_file import load_profile
from raq_client.importance.domains import read_domains
from raq_client.importance.imatrix import Importance, check_against
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.quantizable import EMBEDDINGS, is_quantizable
from raq_client.models.table import NUMBERS, ModelTable, guessed_architecture, numbers_of, table_of
from raq_client.models.type_choice import AUTO, chosen_types
from raq_client.progress import Notes, Progress, silent, stage
from raq_client.quantizing.devices import CPU, Device
from raq_client.quantizing.quantize import Effort
from raq_solver.errors import Fault, InvalidInput
from raq_solver.loss_models import default_loss_model
from raq_solver.profile import Profile
from raq_solver.tensor_names import OUTPUT

NAMED = 3
"""Tensors that a note names; of the others it gives the number."""


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """A model by its file and importance files, or by a saved profile; and how it is measured.

    `imatrix` names importance files, each `FILE` or `FILE:WEIGHT`; `rows` are measured of each matrix, None for all.
    """

    path: Path | None = None
    imatrix: tuple[str, ...] = ()
    profile_path: Path | None = None
    types: tuple[str, ...] = ()
    effort: Effort = "fast"
    threads: int = 0
    rows: int | None = None
    cached: bool = True
    device: Device = CPU

    @cached_property
    def model(self) -> ModelFile:
        """The model, opened. Raises InvalidInput if none is named or it can't be read."""
        if self.path is None:
            what = "no model is named: give MODEL, --model, a saved profile (--profile), or either in raq.toml"
            raise InvalidInput(Fault("", what))
        return open_model(self.path)

    @cached_property
    def importance(self) -> Importance | None:
        """The importance in all files together; None without a file.

        Raises InvalidInput with every mismatch between it and the model.
        """
        if not self.imatrix:
            return None
        importance = read_domains(self.imatrix)
        check_against(importance, self.model.tensors, ())
        return importance

    @property
    def has_weights(self) -> bool:
        """Whether plans come from the model itself rather than from a saved profile."""
        return self.path is not None and self.profile_path is None

    def table(self, profile: Profile) -> ModelTable:
        """The tensor table of the model; from a saved profile with the numbers that it carries."""
        return table_of(self.model) if self.has_weights else profile_table(profile)

    def table_of_model(self) -> ModelTable:
        """The tensor table of the model file."""
        return table_of(self.model)

    def with_imatrix(self, imatrix: Sequence[str]) -> "ModelInputs":
        """The same model with other importance; an opened model stays open."""
        other = replace(self, imatrix=tuple(imatrix))
        if "model" in self.__dict__:
            other.__dict__["model"] = self.model
        return other

    def profile(
        self, *, more_types: Sequence[str] = (), progress: Progress | None = None, notes: Notes = silent
    ) -> Profile:
        """Load the saved profile, or measure the model (answered from the cache when nothing changed).

        `more_types` are measured beside the types asked for. `notes` are remarks for people: tensors without
        importance.
        """
        if self.profile_path is not None:
            return load_profile(self.profile_path)
        from raq_client.quantizing.measure import measure_profile

        model, importance = self.model, self.importance
        unknown = None if importance is None else unknown_tensors(model, importance)
        if unknown is not None:
            notes(f"note: {unknown}")
        types = (*(self.types or (AUTO,)), *more_types) if more_types else self.types
        return measure_profile(
            model,
            importance,
            chosen_types(tuple(dict.fromkeys(types))),
            effort=self.effort,
            threads=self.threads,
            device=self.device,
            rows=self.rows,
            cache=user_cache_path("raq") / "measurements" if self.cached else None,
            progress=stage(progress, "measuring errors"),
        )


def unknown_tensors(model: ModelFile, importance: Importance) -> str | None:
    """Which tensors of the model have no importance, in words; None if none but the embedding and the head."""
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
        f"{importance.source or 'the importance'} knows nothing of {len(unknown)} of {len(wanted)} tensors "
        f"({', '.join(unknown[:NAMED])}{more}): all their columns are taken to count alike, and types that need "
        "importance are not offered for them"
    )


def profile_table(profile: Profile) -> ModelTable:
    """The tensor table of the model that a profile was measured on."""
    name = profile.provenance.get("model", "the model")
    architecture = profile.provenance.get("architecture") or guessed_architecture(profile.tensors)
    return ModelTable(name, architecture, profile.tensors, numbers_of(profile.provenance.get(NUMBERS, "")))


def missing_facts(profile: Profile) -> str | None:
    """What better losses would need, and how to get it; None where nothing is missing."""
    if profile.fisher is not None:
        return None
    model = default_loss_model(profile).__name__
    return (
        f"there is no Fisher information of this model, so losses are those of the model {model}, which are further "
        "from the truth; raq-client imatrix collect MODEL --text FILE -o IMATRIX gathers it"
    )
