"""What 8-bit inputs add to the damage of quantized weights: the constants of loss_models.input_rounding.

KL divergence of all matrices in one type, by file (ggml's kernels round inputs) and in memory (floating-point inputs),
over the sum of the measured sensitivities (tests/data) of what is multiplied. Run:

    pytest -m bench -s tests/bench/bench_rounding.py
"""

from pathlib import Path

import pytest

from raq_client import engine
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_solver.allocation import Allocation
from raq_solver.loss_models.models import ROUNDING_32, ROUNDING_256
from raq_solver.quant_types import CATALOGUE
from support.checks import check
from support.machine import header
from support.published_models import own_models

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

WINDOWS = {"4M": 16, "18M": 4}


@pytest.mark.parametrize("name", ["4M", "18M"])
def test_rounding(name: str, request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> None:
    folder = data if name == "4M" else request.getfixturevalue("shared_data")
    path = folder / ("" if name == "4M" else "models") / f"wiki-math-{name}-f16.gguf"
    importance = read_importance(folder / ("" if name == "4M" else "imatrix") / f"wiki-math-{name}.gsm8k.imatrix.gguf")
    model = open_model(path)
    text = Text("GSM8K test", (data / "gsm8k.evaluation.txt").read_text(encoding="utf-8"))
    own = next(each for each in own_models(data) if each.name.endswith(f"-{name}"))
    single = {group[0]: float(kl) / own.error for group, kl in zip(own.groups, own.values, strict=True)}
    multiplied = sum(single.values()) - single["token_embd.weight"]
    header(f"error from rounded inputs, wiki-math-{name}, {WINDOWS[name]} windows")
    for type_name, used in (("Q6_K", ROUNDING_256), ("Q8_0", ROUNDING_32)):
        with Trial(TrialSetup(model, path, importance, [text], WINDOWS[name])) as trial:
            inside = float(trial.run(dict.fromkeys(single, CATALOGUE[type_name])).scores.kl.mean())
        types = {t.name: type_name if t.name in single else t.source_type.name for t in model.tensors}
        quantize_model(Quantization(model, Allocation(types), tmp_path / "all.gguf", Rounding(importance)), force=True)
        with engine.load(path) as baseline:
            outside = check(baseline, tmp_path / "all.gguf", [text], windows=WINDOWS[name]).overall.kl
        found = (outside.value - inside) / multiplied
        print(f"{type_name}: in memory {inside:.6f}, by file {outside.value:.6f}; {found:.2e}, used {used:.1e}")
        assert used / 2 < found < 2 * used
