"""Read allocations from files: the JSON that `solve --json` prints, or llama.cpp's override lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from raq_client.files.reading import parse_json, read_text
from raq_client.files.validation import faults_of
from raq_client.models.quantizable import is_quantizable
from raq_client.recipes.overrides import Override, read_overrides, resolve
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults
from raq_solver.quant_types import CATALOGUE, quant_type
from raq_solver.tensors import Tensor

_NAMED: Final = 3
_MOST_FAULTS: Final = 5
_NO_KEY: Final = "has no key `allocation`; give what raq-client solve --json prints, or lines of PATTERN=TYPE"


class _Solved(BaseModel):
    """The part of `solve --json` that is needed for an allocation; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    allocation: dict[str, str]
    model_sha256: str | None = None
    gram_sha256: str | None = None


def read_allocation(path: Path, tensors: Sequence[Tensor], architecture: str = "") -> Allocation:
    """The allocation in a file, for a model with these tensors; a tensor it does not contain keeps its type.

    Raises InvalidInput with every unknown type; tensor names are checked when the allocation is used.
    """
    text = read_text(path, "an allocation")
    given = (
        _solved(text, path).allocation
        if text.lstrip().startswith("{")
        else _from_overrides(_lines(text, path), tensors, architecture)
    )
    known = {tensor.name: tensor.source_type.name for tensor in tensors}
    faults = [
        Fault(type_name, f"the type of {name}: no such quant type{near_misses(type_name, CATALOGUE)}")
        for name, type_name in given.items()
        if type_name.upper() not in CATALOGUE and type_name != known.get(name)
    ]
    raise_faults(faults)
    return Allocation(known | {name: _spelled(type_name) for name, type_name in given.items()})


def left_out(path: Path, tensors: Sequence[Tensor], architecture: str = "") -> str | None:
    """A note if lines of a file match nothing, or what is never quantized, or leave quantizable tensors out; else None.

    A line that gives norms and the like the type that they have says nothing wrong.
    """
    text = read_text(path, "an allocation")
    names = [tensor.name for tensor in tensors if is_quantizable(tensor, architecture)]
    said = []
    if text.lstrip().startswith("{"):
        given = set(_solved(text, path).allocation)
    else:
        overrides = _lines(text, path)
        given = set(resolve(overrides, names))
        kept = {tensor.name: tensor.source_type for tensor in tensors if tensor.name not in names}
        unused = [each for each in overrides if not any(map(each.matches, names))]
        idle = [str(each) for each in unused if not any(map(each.matches, kept))]
        refused = [str(each) for each in unused if any(each.quant_type != kept[n] for n in kept if each.matches(n))]
        said += [f"no tensor matches {_some(idle)} in {path}"] if idle else []
        said += [f"what matches {_some(refused)} in {path} is never quantized"] if refused else []
    left = [name for name in names if name not in given]
    if left:
        said.append(
            f"{len(left)} of {len(names)} tensors are in none of its lines and keep their types ({_some(left)})"
        )
    return "; ".join(said) or None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def origin_notes(path: Path, fingerprint: str | None, gram_digest: str) -> list[str]:
    """Notes where an allocation was made for another model, or with other error feedback, than it is used with.

    `fingerprint` None is that of a model whose bytes are not all known. `gram_digest` is that of the Gram statistics in
    use, empty for plain rounding. A file that does not tell has none.
    """
    text = read_text(path, "an allocation")
    if not text.lstrip().startswith("{"):
        return []
    made, notes = _solved(text, path), []
    if fingerprint is not None and made.model_sha256 not in {None, fingerprint}:
        notes.append(f"{path} was made for a model with other weights: its losses are not of this one")
    if made.gram_sha256 not in {None, gram_digest}:
        notes.append(
            f"{path} was made {_other_feedback(made.gram_sha256, gram_digest)}: its losses are not of this file"
        )
    return notes


def _other_feedback(made: str | None, used: str) -> str:
    if not used:
        return "for error feedback, and the file is rounded without; give --gram"
    return (
        "with other Gram statistics than --gram names"
        if made
        else "for plain rounding, and --gram feeds errors forward"
    )


def _spelled(type_name: str) -> str:
    """The type's name in the catalogue's spelling; a type of the model that raq does not know stays unchanged."""
    return quant_type(type_name).name if type_name.upper() in CATALOGUE else type_name


def _lines(text: str, path: Path) -> tuple[Override, ...]:
    """The overrides of a file. Raises InvalidInput with the first faults: a file of another kind has thousands."""
    try:
        return read_overrides(text)
    except InvalidInput as error:
        faults = [Fault(f"{path}, {fault.where}", fault.what) for fault in error.faults[:_MOST_FAULTS]]
        if len(error.faults) > len(faults):
            more = len(error.faults) - len(faults)
            faults.append(Fault(str(path), f"{more:,} more faults of this kind; is it a file of PATTERN=TYPE lines?"))
        raise InvalidInput(faults) from None


def _from_overrides(overrides: Sequence[Override], tensors: Sequence[Tensor], architecture: str) -> dict[str, str]:
    """The types that llama.cpp would give for these lines, which apply to quantizable tensors only."""
    names = [tensor.name for tensor in tensors if is_quantizable(tensor, architecture)]
    return {name: chosen.name for name, chosen in resolve(overrides, names).items()}


def _solved(text: str, path: Path) -> _Solved:
    content = parse_json(text, path)
    if isinstance(content, dict) and "allocation" not in content:
        profile = str(content.get("format", "")).startswith("raq-profile")
        what = "is a profile; solve it first, and give what raq-client solve --json prints" if profile else _NO_KEY
        raise InvalidInput(Fault(str(path), what))
    try:
        return _Solved.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, str(path), "an allocation")) from None
