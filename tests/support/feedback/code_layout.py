"""Where a block holds the code of each of its weights, and which values the codes stand for.

Found by probing instead of written down once more: a bit of a block that changes exactly one weight is a bit of that
weight's code. So every type with one code per weight is covered by the same few lines; types that code several weights
together (codebooks, ternary) have none.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, UInt8

import raq_native
from raq_solver.quant_types import CATALOGUE

_PROBES: Final = 8
_TABLE_BITS: Final = 4
"""Codes of at most this many bits may stand for values of a table; wider ones are linear."""


@dataclass(frozen=True, eq=False)
class CodeLayout:
    """The codes of one type: `byte` and `shift` of every code bit of every weight, the lowest first.

    Linear codes are worth base + step × code, where `lowest` is the least code (negative for two's complement).
    """

    name: str
    byte: Int32[np.ndarray, "weights bits"]
    shift: Int32[np.ndarray, "weights bits"]
    linear: bool
    lowest: int

    @property
    def codes(self) -> int:
        """Number of codes of a weight."""
        return 1 << int(self.byte.shape[1])

    def grid(
        self, blocks: UInt8[np.ndarray, "rows bytes"]
    ) -> tuple[Float32[np.ndarray, "weights rows"], Float32[np.ndarray, "weights rows"]]:
        """Base and step of the linear codes of every weight, by the scales that the blocks hold."""
        zero, one = (self._values(blocks, code) for code in (0, 1))
        return zero, one - zero

    def table(self, blocks: UInt8[np.ndarray, "rows bytes"]) -> Float32[np.ndarray, "codes weights rows"]:
        """The value of every code of every weight."""
        return np.stack([self._values(blocks, code) for code in range(self.codes)])

    def write(
        self, blocks: UInt8[np.ndarray, "rows bytes"], codes: Int32[np.ndarray, "weights rows"]
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """The blocks with other codes; scales stay."""
        found: UInt8[np.ndarray, "rows bytes"] = blocks & self._kept()
        for bit in range(self.byte.shape[1]):
            values = ((codes >> bit) & 1).astype(np.uint8)
            for weight in range(len(self.byte)):
                found[:, self.byte[weight, bit]] |= values[weight] << np.uint8(self.shift[weight, bit])
        return found

    def _kept(self) -> UInt8[np.ndarray, " bytes"]:
        mask = np.full(CATALOGUE[self.name].bytes_per_block, 255, np.uint8)
        np.bitwise_and.at(mask, self.byte.ravel(), ~(1 << self.shift.ravel()).astype(np.uint8))
        return mask

    def _values(self, blocks: UInt8[np.ndarray, "rows bytes"], code: int) -> Float32[np.ndarray, "weights rows"]:
        codes = np.full((len(self.byte), len(blocks)), code, np.int32)
        return np.ascontiguousarray(raq_native.dequantize(self.name, self.write(blocks, codes), len(self.byte)).T)


@cache
def code_layout(name: str) -> CodeLayout | None:
    """The layout of a type's codes; None for types that do not have one code per weight."""
    quant_type = CATALOGUE[name]
    if quant_type.weights_per_block == 1:
        return None
    bits = _code_bits(name)
    if not bits or len({len(each) for each in bits}) != 1:
        return None
    byte, shift = (np.array([[bit[part] for bit in each] for each in bits], np.int32) for part in (0, 1))
    return _ordered(CodeLayout(name, byte, shift, linear=False, lowest=0))


def _code_bits(name: str) -> list[list[tuple[int, int]]]:
    """The bits (byte, shift) that change one weight and no other, by weight; empty where some weight has none."""
    length, size = CATALOGUE[name].weights_per_block, CATALOGUE[name].bytes_per_block
    random = np.random.default_rng(0)
    owner = np.full(8 * size, -1)
    for _ in range(_PROBES):
        block = raq_native.quantize(
            name, random.normal(size=(1, length)).astype(np.float32), np.ones(length, np.float32)
        )
        flipped = np.repeat(block.reshape(1, size), 8 * size, axis=0)
        flipped[np.arange(8 * size), np.arange(8 * size) // 8] ^= (1 << (np.arange(8 * size) % 8)).astype(np.uint8)
        before, after = (raq_native.dequantize(name, each, length) for each in (block.reshape(1, size), flipped))
        changed = ~(after == before)  # NaN, from scales that became one, counts as a change
        count, where = changed.sum(axis=1), changed.argmax(axis=1)
        other = (count > 1) | ((count == 1) & (owner >= 0) & (owner != where))
        owner = np.where(other | (owner == -2), -2, np.where(count == 1, where, owner))
    found: list[list[tuple[int, int]]] = [[] for _ in range(length)]
    for bit in np.flatnonzero(owner >= 0).tolist():
        found[owner[bit]].append((bit // 8, bit % 8))
    return found if all(found) else []


def _ordered(draft: CodeLayout) -> CodeLayout:
    """The layout with its bits from the least significant to the most, and whether its codes are linear."""
    random = np.random.default_rng(1)
    length, bits = draft.byte.shape
    weights = random.normal(size=(1, length)).astype(np.float32)
    block = raq_native.quantize(draft.name, weights, np.ones(length, np.float32)).reshape(1, -1)
    zero = draft._values(block, 0)[:, 0]
    worth = np.stack([draft._values(block, 1 << bit)[:, 0] - zero for bit in range(bits)], axis=1)
    order = np.argsort(np.abs(worth), axis=1, kind="stable")
    byte, shift = (np.take_along_axis(each, order, axis=1) for each in (draft.byte, draft.shift))
    worth = np.take_along_axis(worth, order, axis=1)
    with np.errstate(all="ignore"):  # tables may hold two zeros
        steps = worth / worth[:, :1]
    powers = 2.0 ** np.arange(bits)
    signed = np.append(powers[:-1], -powers[-1])
    for lowest, expected in ((0, powers), (-(1 << bits >> 1), signed)):
        if np.allclose(steps, expected, rtol=1e-3):
            return CodeLayout(draft.name, byte, shift, linear=True, lowest=lowest)
    # A table: the bits of a code are one field of a byte, so their places give the order.
    place = np.argsort(8 * draft.byte + draft.shift, axis=1, kind="stable")
    byte, shift = (np.take_along_axis(each, place, axis=1) for each in (draft.byte, draft.shift))
    return CodeLayout(draft.name, byte, shift, linear=False, lowest=0)
