"""The picture of a release: measured KL divergence over bits per weight, as SVG, with labels that never overlap."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from raq_client.publishing.release import Landmark, Release
from raq_client.publishing.rendering import template

WIDTH: Final = 720
HEIGHT: Final = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 18, 18, 52
_CHARACTER: Final = 6.6
"""Width of a character of a monospaced font of 11 pixels."""
_LINE: Final = 13
_RADIUS: Final = 4
_MOST_TICKS: Final = 7
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured file or mixture: bits per weight, KL divergence in nats and its standard error (NaN: unknown)."""

    name: str
    bits: float
    kl: float
    error: float
    is_mixture: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y downwards."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: "Box") -> bool:
        """Whether the two share any area."""
        apart = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not (apart or self.y + self.height <= other.y or other.y + other.height <= self.y)

    def within(self, other: "Box") -> bool:
        """Whether this one lies in the other."""
        across = other.x <= self.x and self.x + self.width <= other.x + other.width
        return across and other.y <= self.y and self.y + self.height <= other.y + other.height


FRAME: Final = Box(_LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)


@dataclass(frozen=True, slots=True)
class Placed:
    """A mark in the picture: its point, the ends of its error bar, and its label, None if there was no room for one."""

    mark: Mark
    x: float
    y: float
    low: float
    high: float
    label: Box | None


def marks_of(release: Release) -> tuple[Mark, ...]:
    """What can be drawn of a release: files and mixtures whose KL divergence was measured and is above 0."""
    files = [
        Mark(quant.name, quant.bits_per_weight, quant.measured.kl.value, quant.measured.kl.error)
        for quant in release.quants
        if quant.measured is not None
    ]
    mixtures = [
        Mark(mark.name, mark.bits_per_weight, mark.kl, _error(mark), is_mixture=True) for mark in release.landmarks
    ]
    return tuple(mark for mark in (*files, *mixtures) if mark.kl > 0 and math.isfinite(mark.kl))


def _error(mark: Landmark) -> float:
    return math.nan if mark.measured is None else mark.measured.kl.error


def draw(marks: Sequence[Mark]) -> str:
    """The picture of at least one mark, as SVG."""
    across = _linear([mark.bits for mark in marks])
    ends = [end for mark in marks for end in (mark.kl, *_bar(mark))]
    up = _logarithmic(ends)
    placed = place(marks, across, up)
    files = sorted((one for one in placed if not one.mark.is_mixture), key=lambda one: one.x)
    return template("frontier.svg.jinja").render(
        width=WIDTH,
        height=HEIGHT,
        frame=FRAME,
        radius=_RADIUS,
        across=[(across.pixel(value), f"{value:g}") for value in across.ticks],
        up=[(up.pixel(value), f"{value:g}") for value in up.ticks],
        placed=placed,
        line=[(one.x, one.y) for one in files],
        has_mixtures=any(mark.is_mixture for mark in marks),
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to pixels, with the values at which it has ticks."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        at = math.log(value) if self.logarithmic else value
        return round(self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def place(marks: Sequence[Mark], across: Axis, up: Axis) -> tuple[Placed, ...]:
    """The marks as points, each with a label beside it that covers no other label, no point and no line."""
    points = [(across.pixel(mark.bits), up.pixel(mark.kl)) for mark in marks]
    taken = [Box(x - _RADIUS, y - _RADIUS, 2 * _RADIUS, 2 * _RADIUS) for x, y in points]
    files = sorted(point for mark, point in zip(marks, points, strict=True) if not mark.is_mixture)
    taken += [box for start, end in pairwise(files) for box in _along(start, end)]
    placed = []
    for mark, (x, y) in zip(marks, points, strict=True):
        label = next((box for box in _places(x, y, len(mark.name)) if _is_free(box, taken)), None)
        taken += [] if label is None else [label]
        low, high = _bar(mark)
        placed.append(Placed(mark, x, y, up.pixel(low), up.pixel(high), label))
    return tuple(placed)


def _along(start: tuple[float, float], end: tuple[float, float]) -> Iterator[Box]:
    """Boxes of a few pixels that cover a line."""
    (x, y), (across, down) = start, (end[0] - start[0], end[1] - start[1])
    steps = max(1, math.ceil(max(abs(across), abs(down)) / _RADIUS))
    width, height = abs(across) / steps, abs(down) / steps
    for step in range(steps):
        at = (step + 0.5) / steps
        yield Box(x + at * across - width / 2 - 1, y + at * down - height / 2 - 1, width + 2, height + 2)


def _is_free(box: Box, taken: Sequence[Box]) -> bool:
    return box.within(FRAME) and not any(box.meets(other) for other in taken)


def _places(x: float, y: float, characters: int) -> Iterator[Box]:
    """Where the label of a point may lie: nearest first, above and to the right before below and to the left."""
    width = characters * _CHARACTER
    for gap in range(_RADIUS + 3, HEIGHT, _LINE):
        for left in (x + _RADIUS + 3, x - width / 2, x - _RADIUS - 3 - width):
            for top in (y - gap - _LINE / 2, y - _LINE / 2, y + gap - _LINE / 2):
                yield Box(round(left, 2), round(top, 2), width, _LINE)


def _bar(mark: Mark) -> tuple[float, float]:
    """The ends of a mark's error bar; a lower end that is not above 0 is drawn at a tenth of the value."""
    error = 0.0 if math.isnan(mark.error) else mark.error
    return max(mark.kl - error, mark.kl / 10), mark.kl + error


def _linear(values: Sequence[float]) -> Axis:
    room = max(0.08 * (max(values) - min(values)), 0.1)
    low, high = min(values) - room, max(values) + room
    return Axis(low, high, FRAME.x, FRAME.x + FRAME.width, logarithmic=False, ticks=_even(low, high))


def _logarithmic(values: Sequence[float]) -> Axis:
    room = max(0.08 * (math.log(max(values)) - math.log(min(values))), 0.1)
    low, high = math.log(min(values)) - room, math.log(max(values)) + room
    powers = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    ticks = [step * 10.0**power for power in powers for step in _STEPS]
    ticks = [value for value in ticks if low <= math.log(value) <= high]
    if len(ticks) > _MOST_TICKS:
        ticks = [value for value in ticks if f"{value:e}".startswith("1.0")]
    found = tuple(ticks) if len(ticks) > 1 else _even(math.exp(low), math.exp(high))
    return Axis(low, high, FRAME.y + FRAME.height, FRAME.y, logarithmic=True, ticks=found)


def _even(low: float, high: float) -> tuple[float, ...]:
    """Round numbers at equal distances between two ends, at least two and at most _MOST_TICKS + 1."""
    power = math.floor(math.log10((high - low) / _MOST_TICKS))
    steps = (step * 10.0**each for each in (power, power + 1) for step in _STEPS)
    step = next(step for step in steps if (high - low) / step <= _MOST_TICKS)
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    return tuple(float(f"{number * step:.10g}") for number in numbers)
