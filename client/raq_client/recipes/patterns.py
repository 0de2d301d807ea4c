"""Patterns of tensor names, as used in recipes, rules and options.

A pattern is a shell glob over the whole name, with braces for alternatives and ranges:
`blk.{12..16}.ffn_{gate,up}.weight` matches ten names.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import Final

from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
MOST_GLOBS: Final = 100_000
"""Limit on what the braces of one pattern stand for; the largest models have some 60,000 tensors."""
_SHOWN: Final = 80


def expand(pattern: str) -> tuple[str, ...]:
    """Expand the braces of a pattern to a list of globs, in the written order.

    Raises InvalidInput for a pattern that stands for more than 100,000 globs.

    >>> expand("blk.{0..1}.ffn_{gate,up}.weight")[:3]
    ('blk.0.ffn_gate.weight', 'blk.0.ffn_up.weight', 'blk.1.ffn_gate.weight')
    """
    globs: tuple[str, ...] = (pattern,)
    while any(map(_BRACES.search, globs)):
        # Only as many are made as are allowed: {0..999999999} alone would fill the memory.
        globs = tuple(islice(chain.from_iterable(map(_first_expanded, globs)), MOST_GLOBS + 1))
        if len(globs) > MOST_GLOBS:
            what = f"its braces stand for more than {MOST_GLOBS:,} names; write * for what may be anything"
            raise InvalidInput(Fault(pattern[:_SHOWN], what))
    return globs


def _first_expanded(glob: str) -> Iterator[str]:
    """The globs that the first braces of this one stand for; the glob itself if it has none."""
    found = _BRACES.search(glob)
    if found is None:
        yield glob
        return
    span = _RANGE.fullmatch(found[1])
    parts = found[1].split(",") if span is None else map(str, range(int(span[1]), int(span[2]) + 1))
    before, after = glob[: found.start()], glob[found.end() :]
    yield from (before + part + after for part in parts)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches a whole name.

    >>> matches("blk.*.attn_{k,v}.weight", "blk.7.attn_v.weight"), matches("attn_v", "blk.7.attn_v.weight")
    (True, False)
    """
    return any(fnmatchcase(name, glob) for glob in expand(pattern))


def matching(patterns: Iterable[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names that match any of the patterns, in the order of the patterns, without duplicates.

    Raises InvalidInput with each glob that matches nothing; `where` is the place of these faults.
    """
    globs = list(dict.fromkeys(chain.from_iterable(expand(pattern) for pattern in patterns)))
    known = set(names)
    found: dict[str, None] = {}
    faults = []
    for glob in globs:
        # Fast path: most globs of long recipes are plain names.
        hits = [glob] if glob in known else [name for name in names if fnmatchcase(name, glob)]
        if not hits:
            faults.append(Fault(where, f"{glob} matches no tensor{near_misses(glob, names)}"))
        found |= dict.fromkeys(hits)
    raise_faults(faults)
    return tuple(found)
