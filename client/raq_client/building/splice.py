"""Splice: a model file with some of its tensors taken from other files of the same model.

Rules
- Tensors are copied byte for byte, in the type that their file has them in. A tensor that is to have another type is
  quantized again from its donor, without importance; what was quantized before loses twice, and is marked as lossy.
- The header is the base's. It names base and donors by SHA-256, the tensors of each, and the donors' own provenance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

import raq_native
from raq_client.files.manifest import file_digest
from raq_client.files.names import readable
from raq_client.models.file_types import file_type_of
from raq_client.models.gguf_header import Value
from raq_client.models.model_file import ModelFile, open_model, row_chunks
from raq_client.models.quantizable import is_quantizable, needs_importance
from raq_client.models.writer import Progress, WrittenModel, write_model
from raq_client.quantizing.quantize import IN_TURN_WINDOWS
from raq_client.quantizing.refusals import refusals_named
from raq_client.recipes.patterns import matching
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import UNQUANTIZED, QuantType, quant_type
from raq_solver.tensors import Tensor

_VOCABULARY: Final = ("tokenizer.ggml.model", "tokenizer.ggml.tokens")
_PROVENANCE: Final = ("quantize.", "raq.")
LOSSY: Final = "raq.splice.lossy"


@dataclass(frozen=True, slots=True)
class Take:
    """Tensors to take: those that match `pattern`, from `donor`; with `type` quantized again to that type."""

    pattern: str
    donor: Path
    type: str | None = None


@dataclass(frozen=True, eq=False)
class _Taken:
    """A tensor as it comes from a donor: the donor's number, the tensor there, and its type in the new file."""

    number: int
    tensor: Tensor
    wanted: QuantType

    @property
    def is_copy(self) -> bool:
        return self.wanted == self.tensor.source_type


@dataclass(frozen=True, eq=False)
class Spliced:
    """A spliced file. `taken` are tensors by donor; `lossy` those that were quantized from quantized weights.

    `in_turn` are the files, of base and donors, whose blocks were rounded one after the other: each tensor takes back
    what the tensors before it did there.
    """

    written: WrittenModel
    taken: Mapping[Path, tuple[str, ...]]
    lossy: tuple[str, ...]
    in_turn: tuple[Path, ...]


def parse_take(text: str) -> Take:
    """A `GLOB=DONOR` or `GLOB=DONOR:TYPE`. A colon in the name of an existing file belongs to the name.

    Raises InvalidInput for other forms and for unknown types.

    >>> parse_take("blk.3.*=other.gguf:Q4_K")
    Take(pattern='blk.3.*', donor=PosixPath('other.gguf'), type='Q4_K')
    """
    pattern, equals, rest = text.partition("=")
    if not equals or not pattern or not rest:
        raise InvalidInput(Fault(f"--take {text}", "write GLOB=DONOR, or GLOB=DONOR:TYPE to quantize again"))
    stem, colon, name = rest.rpartition(":")
    if not colon or Path(rest).exists():
        return Take(pattern, Path(rest))
    return Take(pattern, Path(stem), quant_type(name).name)


def splice(
    base: Path,
    takes: Sequence[Take],
    output: Path,
    *,
    threads: int = 0,
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
) -> Spliced:
    """Write `base` with tensors of donors in place of its own; of two takes of a tensor the last counts.

    Raises InvalidInput for donors of another model (architecture, vocabulary, names, shapes), and for types that a
    tensor can't have.
    """
    model = open_model(base)
    donors = {path: open_model(path) for path in dict.fromkeys(take.donor for take in takes)}
    raise_faults([fault for path, donor in donors.items() for fault in _strangers(model, path, donor)])
    taken = _taken(model, takes, donors)
    types = {name: one.wanted for name, one in taken.items()}
    opened = list(donors.values())

    def blocks(tensor: Tensor, wanted: QuantType) -> Iterator[UInt8[np.ndarray, "rows size"]]:
        one = taken.get(tensor.name)
        if one is None:
            return _copied(model, tensor)
        donor = opened[one.number]
        return _copied(donor, one.tensor) if one.is_copy else _quantized_again(donor, one.tensor, wanted, threads)

    lossy = _lossy(model, taken, opened)
    keys = _metadata(model, taken, donors, lossy)
    written = write_model(output, model, types, blocks, metadata=keys, force=force, progress=progress)
    by_donor = {path: tuple(n for n, one in taken.items() if one.number == i) for i, path in enumerate(donors)}
    in_turn = tuple(path for path, one in {base: model, **donors}.items() if one.value(IN_TURN_WINDOWS) is not None)
    return Spliced(written, by_donor, lossy, in_turn)


def _strangers(model: ModelFile, path: Path, donor: ModelFile) -> Iterator[Fault]:
    """Why a file can't be a donor, if it can't."""
    if donor.architecture != model.architecture:
        what = (
            f"is of the architecture {donor.architecture or 'unknown'}, the base of {model.architecture or 'unknown'}"
        )
        yield Fault(str(path), f"{what}; take tensors from a file of the same model")
    elif any(donor.metadata.get(key) != model.metadata.get(key) for key in _VOCABULARY):
        yield Fault(str(path), "has another vocabulary than the base; take tensors from a file of the same model")


def _taken(model: ModelFile, takes: Sequence[Take], donors: Mapping[Path, ModelFile]) -> dict[str, _Taken]:
    names = [tensor.name for tensor in model.tensors]
    numbers = {path: number for number, path in enumerate(donors)}
    taken: dict[str, _Taken] = {}
    faults: list[Fault] = []
    for take in takes:
        there = {tensor.name: tensor for tensor in donors[take.donor].tensors}
        for name in matching([take.pattern], names, f"--take {take.pattern}={take.donor}"):
            mine, theirs = model.tensor(name), there.get(name)
            if theirs is None or theirs.shape != mine.shape:
                faults.append(Fault(str(take.donor), _other_shape(mine, theirs)))
                continue
            wanted = theirs.source_type if take.type is None else quant_type(take.type)
            # A glob such as `blk.3.*` means the matrices where types are concerned; vectors are copied.
            if not is_quantizable(theirs, model.architecture):
                wanted = theirs.source_type
            faults += _unfit(theirs, wanted)
            taken[name] = _Taken(numbers[take.donor], theirs, wanted)
    raise_faults(faults)
    return taken


def _other_shape(mine: Tensor, theirs: Tensor | None) -> str:
    if theirs is None:
        return f"has no tensor {mine.name}; take tensors from a file of the same model"
    shapes = ("×".join(map(str, one.shape)) for one in (theirs, mine))
    return "has {} as {}, the base as {}; take tensors from a file of the same model".format(mine.name, *shapes)


def _unfit(tensor: Tensor, wanted: QuantType) -> Iterator[Fault]:
    if wanted == tensor.source_type:
        return
    if not wanted.fits(tensor.row_length):
        yield Fault(tensor.name, f"rows of {tensor.row_length} weights can't be stored as {wanted.name}")
    elif needs_importance(wanted, tensor.name):
        yield Fault(tensor.name, f"{wanted.name} needs importance, which splicing does not use; name a larger type")
    elif wanted.name not in {known.name for known in raq_native.QUANT_TYPES}:
        yield Fault(tensor.name, f"raq has no quantizer for {wanted.name}")


def _lossy(model: ModelFile, taken: Mapping[str, _Taken], donors: Sequence[ModelFile]) -> tuple[str, ...]:
    """Tensors quantized from quantized weights, now or in a file that they come from."""
    before = [_marks(donor) for donor in donors]
    found = {name for name in _marks(model) if name not in taken}
    for name, one in taken.items():
        again = not one.is_copy and one.tensor.source_type.name not in UNQUANTIZED
        if again or name in before[one.number]:
            found.add(name)
    return tuple(tensor.name for tensor in model.tensors if tensor.name in found)


def _marks(model: ModelFile) -> frozenset[str]:
    found = model.value(LOSSY)
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def _metadata(
    model: ModelFile, taken: Mapping[str, _Taken], donors: Mapping[Path, ModelFile], lossy: Sequence[str]
) -> dict[str, Value]:
    chosen = {
        tensor: taken[tensor.name].wanted if tensor.name in taken else tensor.source_type for tensor in model.tensors
    }
    keys: dict[str, Value] = {"general.file_type": file_type_of(chosen).number, "raq.splice.base": _named(model)}
    for number, donor in enumerate(donors.values()):
        prefix = f"raq.splice.donor.{number}"
        keys[prefix] = _named(donor)
        keys[f"{prefix}.tensors"] = [f"{name}={one.wanted.name}" for name, one in taken.items() if one.number == number]
        own = {key: value.decode() for key, value in donor.metadata.items() if key.startswith(_PROVENANCE)}
        keys |= {f"{prefix}.{key}": value for key, value in own.items()}
    keys[LOSSY] = list(lossy)
    return keys


def _named(model: ModelFile) -> str:
    """The name and SHA-256 of a model's files."""
    return ", ".join(f"{readable(shard.name)} sha256:{file_digest(shard)}" for shard in model.shards)


def _copied(model: ModelFile, tensor: Tensor) -> Iterator[UInt8[np.ndarray, "rows size"]]:
    for _, first, last in row_chunks(tensor):
        yield model.stored(tensor, first, last)


def _quantized_again(
    donor: ModelFile, tensor: Tensor, wanted: QuantType, threads: int
) -> Iterator[UInt8[np.ndarray, "rows size"]]:
    for _, first, last in row_chunks(tensor):
        weights = np.ascontiguousarray(donor.weights(tensor, first, last))
        with refusals_named(tensor, weights, range(first, last)):
            yield raq_native.quantize(wanted.name, weights, None, threads=threads)
