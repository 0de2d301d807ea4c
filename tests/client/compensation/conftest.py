"""A small model, loaded, with the statistics of its inputs over a few short windows."""

from collections.abc import Iterator

import numpy as np
import pytest

from raq_client import engine
from raq_client.compensation.collect import collect_gram
from raq_client.compensation.gram import Gram
from raq_client.engine import Engine
from raq_client.engine.windows import cut_windows
from raq_client.models.model_file import ModelFile, open_model
from support.engine_models import MODEL
from support.outputs import CONTEXT, TEXTS


@pytest.fixture(scope="module")
def loaded() -> Iterator[Engine]:
    with engine.load(MODEL, context=CONTEXT, threads=1, editable=True) as model:
        yield model


@pytest.fixture(scope="module")
def model() -> ModelFile:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def windows(loaded: Engine) -> np.ndarray:
    return cut_windows(loaded, TEXTS, 9)[0]


@pytest.fixture(scope="module")
def inputs(loaded: Engine, model: ModelFile) -> Gram:
    return collect_gram(loaded, model, TEXTS, windows=8)
