"""Names of models elsewhere: what a user writes in place of a file, and which file of a repository it means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raq_solver.errors import Fault, InvalidInput, near_misses
from raq_solver.quant_types import UNQUANTIZED

HUB: Final = "hf:"
OLLAMA: Final = "ollama:"
LM_STUDIO: Final = "lmstudio:"
GRAMMAR: Final = "hf:org/repo[@revision][:FILE|QUANT]"

_HUB_NAME: Final = re.compile(r"hf:/{0,2}(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:\s]+))?(:(?P<wanted>\S+))?")
_SHARD: Final = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf")
_PART: Final = re.compile(r"(^|[/._-])(mmproj|mtp|imatrix)([._-]|$)", re.IGNORECASE)
"""Files beside a model that are none: projectors of images, heads for drafts, importance."""
_NAMED: Final = 8
"""Number of files listed in a fault; the others are only counted."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of a hub: repository, revision (None: the main branch), and the FILE or QUANT wanted of it, if any."""

    repo: str
    revision: str | None = None
    wanted: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.repo}{revision}{f':{self.wanted}' if self.wanted else ''}"


def parse_hub_name(text: str) -> HubName:
    """The parts of a name such as `hf:org/repo@main:Q4_K_M`. Raises InvalidInput if it is none.

    >>> parse_hub_name("hf:org/repo@v1.0:model-F16.gguf")
    HubName(repo='org/repo', revision='v1.0', wanted='model-F16.gguf')
    """
    found = _HUB_NAME.fullmatch(text)
    if found is None:
        raise InvalidInput(Fault(text, f"not a name of a model; write {GRAMMAR}"))
    return HubName(found["repo"], found["revision"], found["wanted"] or "")


def origin_of(path: Path) -> str | None:
    """The name at its commit, `hf:org/repo@sha:file`, of a file in the hub's cache; None for any other file.

    >>> origin_of(Path("/home/me/hub/models--org--repo/snapshots/0123456789012345678901234567890123456789/m.gguf"))
    'hf:org/repo@0123456789012345678901234567890123456789:m.gguf'
    """
    found = re.search(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/(.+))?$", path.absolute().as_posix())
    return None if found is None else str(HubName(f"{found[1]}/{found[2]}", found[3], found[4] or ""))


def chosen_files(where: str, files: Sequence[str], wanted: str) -> tuple[str, ...]:
    """The GGUF files of a repository that `wanted` (a file, a quant type, or nothing) means: one model, all its shards.

    Without `wanted` it is the only model there, else the only one in BF16, F16 or F32. Empty if nothing was wanted and
    there is no GGUF file. Raises InvalidInput, naming what there is, if none or several fit.

    >>> chosen_files("hf:org/repo", ["README.md", "m-Q4_K_M.gguf", "m-BF16.gguf"], "q4_k_m")
    ('m-Q4_K_M.gguf',)
    """
    if wanted.endswith(".gguf"):
        shards = next((group for group in _models(files, parts=True) if wanted in group), None)
        if shards is None:
            raise InvalidInput(Fault(where, f"there is no file {wanted}{near_misses(wanted, files)}"))
        return _complete(where, shards)
    models = _models(files)
    if not models and not wanted:
        return ()
    fitting = [model for model in models if not wanted or _is_of(model[0], wanted)]
    # Q4_K is not Q4_K_M, but m-Q4_K_M_v2 is.
    fitting = fitting or [model for model in models if _is_of(model[0], wanted, "/._-")]
    if not wanted and len(fitting) > 1:
        plain = [model for model in models if any(_is_of(model[0], name) for name in UNQUANTIZED)]
        fitting = plain or fitting
    if len(fitting) == 1:
        return _complete(where, fitting[0])
    what = f"holds {'several models' if fitting else 'no model'}"
    what += f" in {wanted}" if wanted else ""
    raise InvalidInput(Fault(where, f"{what}; name one by {GRAMMAR}: {_listed(fitting or models)}"))


def _complete(where: str, shards: tuple[str, ...]) -> tuple[str, ...]:
    """The shards of a model. Raises InvalidInput if the repository lacks one, before anything is downloaded."""
    found = _SHARD.fullmatch(shards[0])
    count = 1 if found is None else int(found["count"])
    names = [f"{found['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] if found else shards
    missing = [name for name in names if name not in shards]
    if missing:
        raise InvalidInput(
            Fault(
                where,
                f"the repository lacks {len(missing)} of {count} shards: {_listed([(name,) for name in missing])}",
            )
        )
    return shards


def _models(files: Sequence[str], *, parts: bool = False) -> list[tuple[str, ...]]:
    """The GGUF models among the files, each with all its shards in order."""
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.endswith(".gguf") and (parts or not _PART.search(name)):
            found = _SHARD.fullmatch(name)
            groups.setdefault(f"{found['stem']} {found['count']}" if found else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def _is_of(name: str, quant: str, ends: str = "/.-") -> bool:
    """Whether a file's name, or that of its folder, says that it is of that quant type; `ends` are what may follow."""
    stem = name.removesuffix(".gguf")
    return re.search(rf"(^|[/._-]){re.escape(quant)}([{ends}]|$)", stem, re.IGNORECASE) is not None


def _listed(models: Sequence[tuple[str, ...]]) -> str:
    names = [model[0] for model in models]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) + more) if names else "it holds no GGUF files"
