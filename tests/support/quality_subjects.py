"""What quality is measured on: a model, its importance, the texts to calibrate and to judge on, and the sizes.

`4M` and `18M` are judged on GSM8K test with importance from GSM8K train. `wikitext` repeats how `--target-bpw` of
llama.cpp's unmerged branch was measured on the 18M model: WikiText-2 test in its tokenised form, 80 windows, importance
from 200 windows of WikiText-2 valid. Its texts are named by RAQ_WIKITEXT_TEST and RAQ_WIKITEXT_VALID (docs/quality.md
says how to make them); without the latter importance is that of WikiText-2 train beside this checkout.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.importance.collect import collect
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.file_types import FILE_TYPES
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.recipes.mixtures import mixture
from raq_client.sensitivity.choices import choices_of
from raq_client.sensitivity.design import expected_of
from raq_client.sensitivity.measure import measure_sensitivities
from raq_solver.allocation import Allocation
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE

EVALUATIONS, WINDOWS = 40, 16
"""What `measured` may cost: runs of the model, and windows of 512 tokens in each."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with everything that comparing allocations needs.

    `windows` of `text` judge; `calibration` is what sensitivities and refining may see. `families` are the sets of
    quant types to choose from, `peers` mean KL divergences at some sizes that others reached: (mixture, best).
    """

    name: str
    model: ModelFile
    importance: Importance
    text: Text
    calibration: Text
    windows: int | None
    sizes: tuple[str, ...]
    cache: Path
    families: tuple[str, ...] = ("k",)
    peers: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def bench(self, windows: int = WINDOWS) -> TrialSetup:
        """What trials in memory run on."""
        return TrialSetup(self.model, self.model.path, self.importance, [self.calibration], windows)

    def profile(self, family: str) -> Profile:
        """Errors of all types of the family, with sensitivities from at most 40 runs of 8,192 tokens."""
        profile = measure_profile(self.model, self.importance, chosen_types(family.split(",")), cache=self.cache)
        found = measure_sensitivities(
            self.bench(),
            probe=CATALOGUE["Q3_K"],
            evaluations=EVALUATIONS,
            choices=choices_of(profile),
            expected=expected_of(profile),
            cache=self.cache,
        )
        return found.applied_to(profile)

    def mixture(self, size: str) -> Allocation:
        """llama.cpp's own allocation for a file type."""
        types = mixture(table_of(self.model), FILE_TYPES[size])
        return Allocation({tensor.name: quant_type.name for tensor, quant_type in types.items()})


SIZES = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
ALL_TYPES = "k,iq,IQ4_NL,Q5_1,Q5_0,Q4_1,Q4_0"
PEERS = {"Q2_K": (0.028932, 0.016451), "Q3_K_M": (0.007073, 0.004854), "Q4_K_M": (0.002487, 0.001949)}
"""Mean KL divergence of the mixture and of `--target-bpw` (branch at a50ddb660, 20 types), by llama-perplexity."""


@pytest.fixture(scope="module", params=["4M", "18M", "wikitext"])
def subject(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Each model and text in turn."""
    cache = tmp_path_factory.mktemp("cache")
    if request.param == "wikitext":
        return _wikitext(request.getfixturevalue("shared_data"), cache)
    text = _text("GSM8K test", data / "gsm8k.evaluation.txt")
    calibration = _text("GSM8K train", data / "gsm8k.calibration.txt")
    shared = data if request.param == "4M" else request.getfixturevalue("shared_data")
    models, imatrices = (shared, shared) if request.param == "4M" else (shared / "models", shared / "imatrix")
    model = open_model(models / f"wiki-math-{request.param}-f16.gguf")
    importance = read_importance(imatrices / f"wiki-math-{request.param}.gsm8k.imatrix.gguf")
    windows = None if request.param == "4M" else 80
    return Subject(request.param, model, importance, text, calibration, windows, SIZES, cache)


def _wikitext(shared: Path, cache: Path) -> Subject:
    if "RAQ_WIKITEXT_TEST" not in os.environ:
        pytest.skip("needs WikiText-2 test in its tokenised form: RAQ_WIKITEXT_TEST=FILE (docs/quality.md)")
    text = _text("WikiText-2 test", Path(os.environ["RAQ_WIKITEXT_TEST"]))
    model = open_model(shared / "models" / "wiki-math-18M-f16.gguf")
    if "RAQ_WIKITEXT_VALID" in os.environ:
        calibration = _text("WikiText-2 valid", Path(os.environ["RAQ_WIKITEXT_VALID"]))
        importance = collect(model.path, [calibration], windows=200)
    else:
        calibration = _text("WikiText-2 train", shared / "text" / "wikitext2.train.part.txt")
        importance = read_importance(shared / "imatrix" / "wiki-math-18M.wiki.imatrix.gguf")
    families = ("k", ALL_TYPES)
    return Subject("18M, WikiText-2", model, importance, text, calibration, 80, tuple(PEERS), cache, families, PEERS)


def _text(name: str, path: Path) -> Text:
    return Text(name, path.read_text(encoding="utf-8"))
