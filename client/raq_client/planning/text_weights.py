"""Weights of the calibration's texts: what a model is for, changed without collecting again.

The Fisher information of a tensor is kept for each window (`FisherLevels`), so its losses on one text are its losses
times the mean level of that text's windows. Rounding is not changed by weights: importance is not kept by text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults
from raq_solver.profile import FisherLevels, Profile

TOO_FEW: Final = (
    "needs two domains or more: an importance file (-i) or saved profile (-p) for each, or one file collected from "
    "several texts with Fisher information"
)
_WEIGHTED: Final = ", texts weighted "
_LACKING: Final = "there is no Fisher information by text; collect importance again (raq-client imatrix collect)"


def parse_text_weights(texts: Sequence[str]) -> dict[str, float]:
    """The weights in `TEXT:WEIGHT` items. Raises InvalidInput with every item that is none.

    >>> parse_text_weights(["reasoning:2", "code:0.5"])
    {'reasoning': 2.0, 'code': 0.5}
    """
    found: dict[str, float] = {}
    faults = []
    for item in texts:
        name, _, number = item.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            faults.append(Fault(item, "is no weight of a text; write TEXT:WEIGHT, such as reasoning:2"))
        elif name in found:
            faults.append(Fault(item, f"{name} has a weight already"))
        found[name] = weight
    raise_faults(faults)
    return found


def texts_of(profile: Profile) -> tuple[str, ...]:
    """The names of the texts that Fisher information is of, in order; empty where it is not kept by window."""
    return () if profile.levels is None else tuple(dict.fromkeys(profile.levels.texts))


def weighted_texts(profile: Profile, weights: Mapping[str, float]) -> Profile:
    """The profile with losses of texts that count by these weights, and 1 those without; of a text all windows alike.

    Raises InvalidInput for names that are no text of the profile, weights of 0 alone, and profiles without levels.
    """
    levels, fisher, texts = profile.levels, profile.fisher, texts_of(profile)
    if levels is None or fisher is None:
        raise InvalidInput(Fault("--text-weight", _LACKING))
    what = f"no text of the calibration{{}}; there are {', '.join(texts)}"
    raise_faults([Fault(name, what.format(near_misses(name, texts))) for name in weights if name not in texts])
    of_window = np.array(levels.texts)
    counted = np.zeros(of_window.size)
    for text in texts:
        own = of_window == text
        if levels.weights[own].sum() > 0:
            counted[own] = levels.weights[own] * weights.get(text, 1.0) / levels.weights[own].sum()
    if not counted.sum() > 0:
        raise InvalidInput(Fault("--text-weight", "all weights are 0; give some text more"))
    factors = levels.levels @ counted / counted.sum()
    said = ", ".join(f"{text}:{weights.get(text, 1.0):g}" for text in texts)
    windows = profile.provenance.get("fisher", "").partition(_WEIGHTED)[0]
    return replace(
        profile,
        fisher=fisher.times(factors),
        levels=FisherLevels(levels.levels, levels.texts, counted * counted.size / counted.sum()),
        provenance={**profile.provenance, "fisher": f"{windows}{_WEIGHTED}{said}"},
    )


def by_text(profile: Profile) -> list[tuple[str, Profile]]:
    """For each text the profile with its losses alone. Raises InvalidInput if there are fewer than two texts."""
    texts = texts_of(profile)
    if len(texts) < 2:
        raise InvalidInput(Fault("--worst-case", TOO_FEW))
    return [(text, weighted_texts(profile, {each: float(each == text) for each in texts})) for text in texts]
