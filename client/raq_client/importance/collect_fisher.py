"""Add Fisher information to an importance, from a few windows spread over the same texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

import numpy as np
from jaxtyping import Int32

from raq_client.curvature.fisher import collect_fisher
from raq_client.curvature.information import Fisher, InformedWindow
from raq_client.curvature.passes import Collection
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
    beside: Sequence[Collection] = (),
) -> Importance:
    """The importance with Fisher information of `count` windows, chosen among the first `limit` of each text.

    Continues from the Fisher information that `importance` already has. `beside` is collected from the same passes.
    Raises InvalidInput if the architecture is not
    supported, the computed logits differ from libllama's, or a text is too short.
    """
    cut = cut_windows(engine, texts, limit)
    windows, informed = chosen_windows(cut, count), informed_windows(cut, texts, count)
    start = importance.fisher, min(importance.fisher_windows, len(windows))
    found = collect_fisher(
        model,
        engine,
        windows,
        start=start,
        save=None if save is None else lambda fisher, done: save(with_fisher(importance, fisher, informed[:done])),
        progress=progress,
        beside=beside,
    )
    return with_fisher(importance, found, informed)


def with_fisher(importance: Importance, fisher: Mapping[str, Fisher], windows: Sequence[InformedWindow]) -> Importance:
    """The importance with this Fisher information of these windows; an older beginning has no levels to go with."""
    kept = all(each.levels is not None for each in fisher.values())
    return replace(importance, fisher=fisher, fisher_windows=len(windows), windows=tuple(windows) if kept else ())


def chosen_windows(
    cut: Sequence[Int32[np.ndarray, "windows context"]], count: int
) -> Int32[np.ndarray, "windows context"]:
    """At most `count` windows, evenly spread over each text, alternating between texts."""
    return np.stack([cut[text][window] for text, window in _chosen(cut, count)])


def informed_windows(
    cut: Sequence[Int32[np.ndarray, "windows context"]], texts: Sequence[Text], count: int
) -> tuple[InformedWindow, ...]:
    """For each of the chosen windows the domain of its text, or else the name of the file without its ending."""
    names = [text.domain or PurePath(text.name).stem for text in texts]
    return tuple(InformedWindow(names[text]) for text, _ in _chosen(cut, count))


def _chosen(cut: Sequence[Int32[np.ndarray, "windows context"]], count: int) -> list[tuple[int, int]]:
    """The text and the number of each chosen window."""
    each = -(-count // len(cut))
    spread = [np.linspace(0, len(text) - 1, min(each, len(text))).round().astype(int).tolist() for text in cut]
    turns = [(text, spread[text][turn]) for turn in range(each) for text in range(len(cut)) if turn < len(spread[text])]
    return turns[:count]
