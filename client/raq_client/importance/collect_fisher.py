"""Add Fisher information to an importance, from a few windows spread over the same texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Int32

from raq_client.curvature.fisher import collect_fisher
from raq_client.curvature.information import Fisher
from raq_client.engine import Engine
from raq_client.engine.windows import Progress, Text, cut_windows
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile

DEFAULT_FISHER_WINDOWS: Final = 16
"""Default number of windows for Fisher information. The effect of more windows: docs/quality.md."""


def add_fisher(
    importance: Importance,
    model: ModelFile,
    engine: Engine,
    texts: Sequence[Text],
    count: int,
    *,
    limit: int | None = None,
    save: Callable[[Importance], None] | None = None,
    progress: Progress | None = None,
) -> Importance:
    """The importance with Fisher information of `count` windows, chosen among the first `limit` of each text.

    Continues from the Fisher information that `importance` already has. Raises InvalidInput if the architecture is not
    supported, the computed logits differ from libllama's, or a text is too short.
    """
    windows = chosen_windows(cut_windows(engine, texts, limit), count)
    start = importance.fisher, min(importance.fisher_windows, len(windows))
    found = collect_fisher(
        model,
        engine,
        windows,
        start=start,
        save=None if save is None else lambda fisher, done: save(_with(importance, fisher, done)),
        progress=progress,
    )
    return _with(importance, found, len(windows))


def _with(importance: Importance, fisher: Mapping[str, Fisher], windows: int) -> Importance:
    return replace(importance, fisher=fisher, fisher_windows=windows)


def chosen_windows(
    cut: Sequence[Int32[np.ndarray, "windows context"]], count: int
) -> Int32[np.ndarray, "windows context"]:
    """At most `count` windows, evenly spread over each text, alternating between texts."""
    each = -(-count // len(cut))
    spread = [text[np.linspace(0, len(text) - 1, min(each, len(text))).round().astype(int)] for text in cut]
    turns = [text[turn] for turn in range(each) for text in spread if turn < len(text)]
    return np.stack(turns[:count])
