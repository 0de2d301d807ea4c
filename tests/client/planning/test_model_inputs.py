"""What is measured, saved and planned knows the model that it is of."""

import json
from pathlib import Path

import numpy as np
import pytest

from raq_client.files.profile_file import save_profile
from raq_client.models.model_file import open_model
from raq_client.planning.model_inputs import ModelInputs
from raq_solver.errors import InvalidInput
from support.commands import client
from support.gguf_files import small_model

TENSOR = "blk.0.attn_q.weight"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_model(tmp_path / "model.gguf")


def change_the_middle(path: Path) -> None:
    """Other weights in rows 64 to 191 of a matrix of 256 rows: neither its first bytes change nor its last."""
    model = open_model(path)
    tensor = model.tensor(TENSOR)
    rows = model.stored(tensor, 64, 192).tobytes()
    content = path.read_bytes()
    others = np.random.default_rng(5).standard_t(2, size=(128, 256)).astype("<f2").tobytes()
    path.write_bytes(content.replace(rows, others))


def test_a_model_that_changed_is_measured_again(model: Path) -> None:
    types = ("Q4_K", "Q8_0")
    before = ModelInputs(model, types=types).profile()
    change_the_middle(model)
    after = ModelInputs(model, types=types).profile()
    fresh = ModelInputs(model, types=types, cached=False).profile()
    row = [tensor.name for tensor in after.tensors].index(TENSOR)
    assert (after.relative_errors[row] != before.relative_errors[row]).any()
    np.testing.assert_array_equal(after.relative_errors, fresh.relative_errors)
    assert after.digest() == fresh.digest() != before.digest()


def test_a_saved_profile_is_used_with_its_own_model_only(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "model.profile.json"
    save_profile(ModelInputs(model, types=("Q4_K", "Q8_0")).profile(), saved)
    both = ModelInputs(model, profile_path=saved)
    assert both.profile().digest() == ModelInputs(profile_path=saved).profile().digest()
    change_the_middle(model)
    with pytest.raises(InvalidInput, match=r"model\.profile\.json: was measured on a model with other weights than"):
        ModelInputs(model, profile_path=saved).profile()
    older = json.loads(saved.read_text())
    del older["provenance"]["model_sha256"]
    saved.write_text(json.dumps(older))
    assert ModelInputs(model, profile_path=saved).profile(), "one from before that key can't be compared"


def test_a_plan_for_other_weights_is_said(model: Path, tmp_path: Path) -> None:
    solved = client("solve", "-m", model, "-b", "9", "--types", "Q4_K,Q8_0", "--json")
    assert solved.code == 0, solved.err
    plan, out = tmp_path / "plan.json", tmp_path / "out.gguf"
    plan.write_text(solved.out)
    assert "other weights" not in client("quantize", model, "-a", plan, "-o", out).err
    change_the_middle(model)
    again = client("quantize", model, "-a", plan, "-o", out, "--force")
    assert again.code == 0
    assert f"note: {plan} was made for a model with other weights: its losses" in again.err
