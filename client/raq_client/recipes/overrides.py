r"""Read and write llama.cpp's overrides: `--tensor-type-file` lines `PATTERN=TYPE`.

llama-quantize lower-cases a pattern, searches it anywhere in the name as an ECMAScript regular expression, and uses the
first match; words are separated by white space, a pattern ends at the first `=`. So `output.weight` alone would also
match every `attn_output.weight`: patterns written here are escaped and anchored, `^output\.weight$`.
Tensors without a match get their type from the file type's mixture, which shifts when other tensors are overridden. The
text written here therefore has a line for every quantizable tensor and is meant for `--pure` with the base type.
Source: tools/quantize/quantize.cpp and src/llama-quant.cpp of llama.cpp 0c1e57098.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raq_client.models.file_types import FILE_TYPES, FileType, commonest_type
from raq_client.models.quantizable import is_quantizable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import UNQUANTIZED, QuantType, quant_type
from raq_solver.tensors import Tensor

_SPECIAL: Final = frozenset("^$\\.*+?()[]{}|")
_LONGEST_WORD: Final = 60
"""Characters shown of a word that is no override: it may be a whole file of another kind."""


@dataclass(frozen=True, slots=True)
class Override:
    """One line: tensors whose name contains a match of `pattern` get this type."""

    pattern: str
    quant_type: QuantType

    def matches(self, name: str) -> bool:
        """Whether llama.cpp would apply the line to the tensor of that name.

        >>> override = read_overrides("output.weight=Q6_K")[0]
        >>> override.matches("blk.0.attn_output.weight")
        True
        """
        return re.search(self.pattern.lower(), name) is not None

    def __str__(self) -> str:
        return f"{self.pattern}={self.quant_type.name}"


def exact_pattern(name: str) -> str:
    r"""A pattern that matches exactly this name: anchored, escaped, and unaffected by lower-casing.

    Capitals, `=` and white space can't be written in a pattern; a dot (any character) is used instead.

    >>> print(exact_pattern("blk.0.ffn_up.weight"))
    ^blk\.0\.ffn_up\.weight$
    """
    return f"^{''.join(_escaped(character) for character in name)}$"


def overrides_for(types: Mapping[Tensor, QuantType], architecture: str = "") -> tuple[Override, ...]:
    """An override for every quantizable tensor, in file order. Raises InvalidInput if a pattern matches two names."""
    quantizable = {tensor.name: chosen for tensor, chosen in types.items() if is_quantizable(tensor, architecture)}
    overrides = [Override(exact_pattern(name), chosen) for name, chosen in quantizable.items()]
    loose = [(override, name) for override, name in zip(overrides, quantizable, strict=True) if name != name.lower()]
    faults = [
        Fault(name, f"llama.cpp's patterns can't tell it from {other}")
        for override, name in loose
        for other in quantizable
        if other != name and override.matches(other)
    ]
    raise_faults(faults)
    return tuple(overrides)


def override_text(overrides: Iterable[Override]) -> str:
    """The text of a `--tensor-type-file`, which can't contain comments."""
    return "".join(f"{override}\n" for override in overrides)


def pure_base(types: Mapping[Tensor, QuantType], architecture: str = "") -> FileType:
    """The file type to pass to llama-quantize with `--pure`: the one of the commonest quantized type.

    It must be quantized (with F16 llama-quantize ignores all overrides) and have a name in llama-quantize.
    """
    possible = {
        tensor: chosen
        for tensor, chosen in types.items()
        if is_quantizable(tensor, architecture) and chosen.name not in UNQUANTIZED and _named(chosen) is not None
    }
    named = _named(commonest_type(possible)) if possible else None
    return named or FILE_TYPES["Q8_0"]


def read_overrides(text: str) -> tuple[Override, ...]:
    """Read `PATTERN=TYPE` words. Raises InvalidInput with a fault for each word that llama-quantize would refuse."""
    overrides = []
    faults = []
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.split():
            try:
                overrides.append(_override(word))
            except InvalidInput as error:
                shown = word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}…"
                faults += [Fault(f"line {number}", f"{shown}: {fault.what}") for fault in error.faults]
    raise_faults(faults)
    return tuple(overrides)


def resolve(overrides: Sequence[Override], names: Iterable[str]) -> dict[str, QuantType]:
    """The type of each name with a matching override; the first match wins.

    >>> types = resolve(read_overrides("ffn_down=Q6_K ffn=Q4_K"), ["blk.0.ffn_down.weight", "blk.0.ffn_up.weight"])
    >>> [each.name for each in types.values()]
    ['Q6_K', 'Q4_K']
    """
    # Compiled once: Python caches only a few hundred patterns, and there may be a line for each of 1,300 tensors.
    compiled = [(re.compile(override.pattern.lower()), override.quant_type) for override in overrides]
    return {
        name: first
        for name in names
        if (first := next((chosen for pattern, chosen in compiled if pattern.search(name)), None)) is not None
    }


def _override(word: str) -> Override:
    pattern, separator, type_name = word.partition("=")
    if not pattern or not separator:
        raise InvalidInput(Fault(word, "not PATTERN=TYPE (llama.cpp knows no comments)"))
    with warnings.catch_warnings():
        # Python warns about POSIX classes such as [[:digit:]], to which it gives another meaning.
        warnings.simplefilter("error")
        try:
            re.compile(pattern.lower())
        except (re.error, Warning) as error:
            raise InvalidInput(Fault(word, f"not a regular expression: {error}")) from None
    return Override(pattern, quant_type(type_name))


def _named(chosen: QuantType) -> FileType | None:
    """The file type with this base, if llama-quantize accepts its name (not for NVFP4)."""
    found = (file_type for file_type in FILE_TYPES.values() if file_type.base == chosen and chosen.name != "NVFP4")
    return next(found, None)


def _escaped(character: str) -> str:
    if character.isupper() or character.isspace() or character == "=":
        return "."
    return f"\\{character}" if character in _SPECIAL else character
