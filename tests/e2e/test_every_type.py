"""libllama loads and runs a file of every type that raq writes, and damages it as much as the type deserves."""

from pathlib import Path

import pytest

import raq_native
from raq_client.engine.windows import Text
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
from raq_solver.quant_types import CATALOGUE
from support.checks import check

TYPES = sorted(q.name for q in raq_native.QUANT_TYPES)
QUICK = {"Q2_K", "Q4_K", "IQ4_XS"}
# Mean KL divergence that a type of so many bits may cost this model at the most (all block matrices in that type).
MOST_KL = {1: 5.0, 2: 1.5, 3: 0.12, 4: 0.03, 5: 0.006, 6: 0.002, 8: 2e-4, 16: 1e-4, 32: 1e-6}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TYPES])
def test_llama_cpp_runs_it(name: str, model_path: Path, imatrix_path: Path, data: Path, tmp_path: Path) -> None:
    model, importance = open_model(model_path), read_importance(imatrix_path)
    types = {
        t.name: name if is_quantizable(t) and t.name.startswith("blk.") else t.source_type.name for t in model.tensors
    }
    out = tmp_path / "out.gguf"
    quantize_model(Quantization(model, Allocation(types), out, Rounding(importance)))
    text = Text("GSM8K test", (data / "gsm8k.evaluation.txt").read_text(encoding="utf-8"))
    report = check(model_path, out, [text], windows=2).overall
    assert 0 <= report.kl.value < MOST_KL[int(CATALOGUE[name].bits_per_weight)]
    assert not report.perplexity.value > 1000
