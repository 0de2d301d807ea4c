"""Gram statistics of outputs, collected alone; and statistics like others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from raq_client.compensation.gram import Gram
from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.compensation.outputs import OutputsCollection, held_out_windows
from raq_client.curvature.passes import network_for, pass_back
from raq_client.engine import Engine
from raq_client.engine.windows import Text
from raq_client.models.model_file import ModelFile
from support.engine_models import TEXT

CONTEXT: Final = 64
TEXTS: Final = (Text("one", TEXT[:9000]),)


def add_outputs(
    gram: Gram,
    model: ModelFile,
    engine: Engine,
    windows: np.ndarray,
    *,
    memory: int,
    save: Callable[[Gram], Gram] | None = None,
) -> Gram:
    """The statistics with those of outputs from passes over these windows; arguments are those of the collection."""
    held_out = held_out_windows(gram, engine.begun(windows))
    collection = OutputsCollection(gram, model, len(windows), memory=memory, held_out=held_out, save=save)
    network, windows = network_for(model, engine, windows, begun=collection.begun > 0)
    pass_back(network, windows, [collection])
    return collection.gram


def write_like(source: Path, target: Path, number: int) -> Path:
    """A file of the same statistics of the same windows, in another order for every number: not the same file."""
    gram = read_gram(source)
    assert gram.sequences is not None
    write_gram(replace(gram, sequences=np.roll(gram.sequences, number, axis=0), known_digest=""), target)
    return target
