"""Two models on the same items: the exact test of McNemar, and the items that a difference of that size would need.

Only items that one model has right and the other wrong say anything about the difference. If the models are equally
good, each of these is as likely to favour the one as the other.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

SIGNIFICANT: Final = 0.05
POWER: Final = 0.8
"""Probability with which a difference should be seen, in `items_needed`."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Counts of items: right in both models, only in A, only in B, in neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def items(self) -> int:
        """All items."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def right_a(self) -> int:
        """Items that A has right."""
        return self.both + self.only_a

    @property
    def right_b(self) -> int:
        """Items that B has right."""
        return self.both + self.only_b

    def p_value(self) -> float:
        """The probability of a split at least as uneven if the models were equally good (exact, two-sided), 0 to 1.

        >>> round(Paired(50, 9, 1, 40).p_value(), 4)
        0.0215
        """
        differing, fewer = self.only_a + self.only_b, min(self.only_a, self.only_b)
        # Whole numbers: with thousands of items 2 to the power of them is beyond a float.
        outcomes: int = 2**differing
        return min(1.0, 2 * sum(math.comb(differing, count) for count in range(fewer + 1)) / outcomes)

    def items_needed(self) -> int | None:
        """Items that would show a difference of this size at 5 % in 4 of 5 attempts; None if there is no difference.

        >>> Paired(50, 12, 8, 30).items_needed()
        979

        Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample design,
        Biometrics 43 (1987), with the two-sided normal approximation.
        """
        if self.only_a == self.only_b:
            return None
        normal = NormalDist()
        discordant = (self.only_a + self.only_b) / self.items
        difference = abs(self.only_a - self.only_b) / self.items
        beyond = normal.inv_cdf(1 - SIGNIFICANT / 2) * math.sqrt(discordant)
        reach = normal.inv_cdf(POWER) * math.sqrt(max(discordant - difference**2, 0.0))
        return math.ceil((beyond + reach) ** 2 / difference**2)

    def as_data(self) -> dict[str, int | float | None]:
        """Counts, p-value and items needed, as plain data."""
        return {
            "items": self.items,
            "right_a": self.right_a,
            "right_b": self.right_b,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "p_value": self.p_value(),
            "items_needed": self.items_needed(),
        }


def paired(right_a: list[bool], right_b: list[bool]) -> Paired:
    """Counts from the results on the same items in the same order."""
    pairs = list(zip(right_a, right_b, strict=True))
    counts = [pairs.count(each) for each in ((True, True), (True, False), (False, True), (False, False))]
    return Paired(*counts)
