"""Time to measure a model's errors on all rows, and on a sample of them.

Run: pytest -m bench tests/bench/bench_profile.py -s
"""

import time

import numpy as np
import pytest

from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from support.machine import header
from support.paths import SHARED

pytestmark = pytest.mark.bench

MODEL = SHARED / "models" / "wiki-math-18M-f16.gguf"
IMATRIX = SHARED / "imatrix" / "wiki-math-18M.wiki.imatrix.gguf"


@pytest.mark.skipif(not MODEL.exists(), reason="needs the shared model")
@pytest.mark.parametrize("types", ["k", "k,iq,legacy"])
def test_full_and_sampled(types: str) -> None:
    model, importance = open_model(MODEL), read_importance(IMATRIX)
    offered = chosen_types(tuple(types.split(",")))
    header(f"wiki-math-18M, {len(offered)} types, processor time")
    full = None
    for rows in (None, 256, 64):
        start = time.process_time()
        found = measure_profile(model, importance, offered, rows=rows)
        taken = time.process_time() - start
        full = full or found
        measured = np.isfinite(full.relative_errors) & (full.relative_errors > 0)
        away = np.abs(found.relative_errors[measured] / full.relative_errors[measured] - 1)
        stated = found.sampling_shares[measured]
        print(
            f"rows {rows or 'all'}: {taken:.2f} s; away from the full measurement: median {np.median(away):.2%}, "
            f"largest {away.max():.2%}; standard error: median {np.median(stated):.2%}, largest {stated.max():.2%}"
        )
