"""Writes the codebooks of the IQ formats as a C++ header, from the grids of the installed `gguf` package.

    python generate_codebooks.py HEADER

A codebook entry is a vector of 8 or 4 levels. The search adds up what the two halves of a vector explain. Entries are
sorted by the pattern of their first half: `start[p]` to `start[p + 1]` are those whose first half is pattern p,
`second` is the pattern of their other half, its partner, and `index` their place in the format's own order. Pattern p
has the levels p % L, p / L % L, ... for its weights, L being the number of levels. `words` has the levels of entries in
the format's order, four to a word. Where the first `odd_multiples` levels are the odd multiples of `unit`, a power of
two, the nearest one is found by rounding.

For processors the largest share of each pattern's partners is straight-line code. Maxima that several patterns need
are taken once: 192 for all of IQ2_S instead of 944. Partners are also bits, in `members`, and `place[p * patterns + q]`
is an entry's place in the format's order.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import quants

BITS = 32  # of a word of members
BOOKS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S")


def table(kind: str, name: str, values: np.ndarray) -> str:
    """One C++ array of whole numbers."""
    numbers = ", ".join(str(int(value)) for value in np.ravel(values))
    return f"RAQ_TABLE {kind} {name}[] = {{{numbers}}};\n"


def share_pairs(sets: list[set[int]], patterns: int) -> list[tuple[int, int]]:
    """Replace pairs of numbers in several sets, the commonest first, by numbers from `patterns` on; the pairs."""
    pairs: list[tuple[int, int]] = []
    while True:
        size = patterns + len(pairs)
        held = np.zeros((len(sets), size), dtype=np.int32)
        for row, numbers in zip(held, sets, strict=True):
            row[sorted(numbers)] = 1
        together = np.triu(held.T @ held, k=1)
        one, other = divmod(int(np.argmax(together)), size)
        if together[one, other] < 2:
            return pairs
        pairs.append((one, other))
        for numbers in sets:
            if {one, other} <= numbers:
                numbers -= {one, other}
                numbers.add(size)


def search_tables(first: np.ndarray, second: np.ndarray, patterns: int) -> str:
    """The partners of each pattern as bits, and the entry of two patterns; where there is none, the pattern's first."""
    words = -(-patterns // BITS)
    members = np.zeros((patterns, words), dtype=np.int64)
    place = np.zeros((patterns, patterns), dtype=np.int64)
    for p in np.unique(first):
        entries = np.flatnonzero(first == p)
        place[p] = entries[np.argmin(second[entries])]
        place[p, second[entries]] = entries
        for q in second[entries]:
            members[p, q // BITS] |= 1 << (q % BITS)
    return table("std::uint32_t", "members", members) + table("std::uint16_t", "place", place)


def largest(terms: list[str]) -> str:
    """The largest of some terms; its operations wait for each other as little as possible."""
    half = len(terms) // 2
    return terms[0] if half == 0 else f"larger({largest(terms[:half])}, {largest(terms[half:])})"


def visits(first: np.ndarray, second: np.ndarray, patterns: int) -> str:
    """Code that calls `visit` for every first half in its order with the largest share of its partners."""
    sets = [set(second[first == p].tolist()) for p in range(patterns)]
    pairs = share_pairs(sets, patterns)
    lines: list[str] = []
    taken: set[int] = set()

    def term(number: int) -> str:
        if number < patterns:
            return f"share[{number}]"
        if number not in taken:
            both = largest([term(each) for each in pairs[number - patterns]])
            lines.append(f"  const Float of{number} = {both};\n")
            taken.add(number)
        return f"of{number}"

    for p, numbers in enumerate(sets):
        if numbers:
            best = largest([term(number) for number in sorted(numbers)])
            lines.append(f"  visit({p}, {best});\n")
    return (
        "template <class Visit>\nRAQ_INLINE void partners(const Float* share, Visit visit) {\n"
        + "".join(lines)
        + "}\n"
        + search_tables(first, second, patterns)
    )


def book(name: str) -> str:
    """The tables of one codebook, in a namespace of its name."""
    source = getattr(quants, name)
    source.init_grid()
    grid = np.asarray(source.grid).reshape(source.grid_shape).astype(np.int64)
    levels = np.unique(grid)
    half, count = grid.shape[1] // 2, len(levels)
    odd = int(np.argmin(np.append(levels == levels[0] * (2 * np.arange(count) + 1), False)))
    digits = np.searchsorted(levels, grid)
    powers = count ** np.arange(half)
    first, second = digits[:, :half] @ powers, digits[:, half:] @ powers
    order = np.lexsort((second, first))
    start = np.searchsorted(first[order], np.arange(count**half + 1))
    return (
        f"namespace {name.lower()} {{\n"
        f"constexpr int entries = {len(grid)}, length = {grid.shape[1]}, level_count = {count}, "
        f"patterns = {count**half}, odd_multiples = {odd if odd > 3 else 0};\nconstexpr float unit = {levels[0]};\n"
        + table("float", "levels", levels)
        + table("std::uint16_t", "start", start)
        + table("std::uint8_t", "second", second[order])
        + table("std::uint16_t", "index", order)
        + table("std::uint32_t", "words", grid.astype("<i1").view("<u4"))
        + visits(first, second, count**half)
        + "}\n"
    )


def main(header: Path) -> None:
    """Write the header."""
    body = "\n".join(book(name) for name in BOOKS)
    header.write_text(
        "// Generated by generate_codebooks.py; never edited.\n#pragma once\n\n#include <cstdint>\n\n"
        '#include "common/portable.hpp"\n\n'
        f"namespace raq::RAQ_LEVEL {{\n\n{body}\n}}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
