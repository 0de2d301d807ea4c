"""What a sample of rows says of a tensor is unbiased and as certain as it claims; all rows are no sample."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import raq_native
from raq_client.files.profile_file import load_profile, save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.quantizing.row_sample import RowSums, draw_rows, estimate_errors
from raq_proto.convert.profile import profile_from_proto, profile_to_proto
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import relative
from raq_solver.profile import Profile
from support.gguf_files import small_model

TYPES = ("Q2_K", "Q4_K", "IQ4_NL", "Q8_0")


@pytest.fixture(scope="module")
def full(model_path: Path, imatrix_path: Path) -> Profile:
    """The profile by all rows."""
    return measure_profile(open_model(model_path), read_importance(imatrix_path), chosen_types(TYPES))


@pytest.fixture
def sampled(model_path: Path, imatrix_path: Path) -> Callable[[int], Profile]:
    """Makes the profile by some rows of each matrix."""

    def made(rows: int) -> Profile:
        return measure_profile(open_model(model_path), read_importance(imatrix_path), chosen_types(TYPES), rows=rows)

    return made


def row_sums(model: ModelFile, name: str) -> np.ndarray:
    return raq_native.measure_rows(TYPES, np.ascontiguousarray(model.weights(model.tensor(name))))


@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.2.ffn_down.weight", "blk.3.ffn_up.weight"],
)
@pytest.mark.parametrize("count", [48, 128])
def test_estimates_are_unbiased_within_their_errors(name: str, count: int, model_path: Path) -> None:
    sums = row_sums(open_model(model_path), name)
    truth = sums[:, :, 0].sum(axis=1) / sums[0, :, 1].sum()
    scores = []
    for trial in range(300):
        draw = draw_rows(f"{name} {trial}", 0, sums.shape[1], count)
        found = estimate_errors([RowSums(draw, sums[:, draw.places, 0], sums[0, draw.places, 1])])
        scores.append((found.errors - truth) / found.standard_errors)
    z = np.array(scores)
    assert np.abs(z.mean(axis=0)).max() < 0.4
    assert (np.abs(z) < 2).mean() > 0.9
    assert 0.3 < np.square(z).mean() < 1.5


def test_a_sampled_profile_is_as_near_as_it_says(full: Profile, sampled: Callable[[int], Profile]) -> None:
    found = sampled(64)
    assert found.sampling_errors is not None
    measured = np.isfinite(full.relative_errors) & (found.sampling_errors > 0)
    assert measured.any(axis=1).sum() > 20
    z = (found.relative_errors[measured] - full.relative_errors[measured]) / found.sampling_errors[measured]
    assert abs(z.mean()) < 0.5
    assert (np.abs(z) < 2).mean() > 0.9
    exact = np.isfinite(full.relative_errors) & (found.sampling_errors == 0)
    assert np.array_equal(full.relative_errors[exact], found.relative_errors[exact])
    assert found.energies == pytest.approx(full.energies, rel=0.3)


def test_as_many_rows_as_there_are_is_no_sample(full: Profile, sampled: Callable[[int], Profile]) -> None:
    all_rows = sampled(10**6)
    assert all_rows.sampling_errors is not None
    assert not all_rows.sampling_errors.any()
    assert np.array_equal(full.relative_errors, all_rows.relative_errors)
    assert np.array_equal(full.energies, all_rows.energies)


def test_each_expert_is_sampled(tmp_path: Path) -> None:
    model = open_model(small_model(tmp_path / "m.gguf"))
    experts = [tensor.name for tensor in model.tensors].index("blk.0.ffn_down_exps.weight")
    full = measure_profile(model, None, chosen_types(("Q4_0",)))
    found = measure_profile(model, None, chosen_types(("Q4_0",)), rows=2)
    assert found.sampling_errors is not None
    column = [q.name for q in found.quant_types].index("Q4_0")
    away = abs(found.relative_errors[experts, column] - full.relative_errors[experts, column])
    assert 0 < away < 4 * found.sampling_errors[experts, column]


@pytest.mark.parametrize(("rows", "count"), [(2, 2), (7, 3), (100, 99), (4096, 256)])
def test_a_draw_has_one_row_of_each_stratum(rows: int, count: int) -> None:
    draw = draw_rows("any", 1, rows, count)
    assert draw.stands_for.sum() == rows
    ends = np.cumsum(draw.stands_for)
    assert ((ends - draw.stands_for <= draw.places) & (draw.places < ends)).all()
    assert np.array_equal(draw.places, draw_rows("any", 1, rows, count).places)


def test_the_sample_is_said_wherever_the_profile_goes(
    tmp_path: Path, full: Profile, sampled: Callable[[int], Profile]
) -> None:
    found = sampled(32)
    assert full.sampling_errors is None
    assert found.digest() != full.digest()
    save_profile(found, tmp_path / "p.json")
    for copy in (load_profile(tmp_path / "p.json"), profile_from_proto(profile_to_proto(found))):
        assert copy.digest() == found.digest()
        source = relative(copy).source
        assert "at most 32 rows of each matrix" in source
        assert "standard errors up to" in source
    assert "standard errors" not in relative(full).source


def test_a_sample_that_tells_no_spread_is_refused(model_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least 2 are needed"):
        measure_profile(open_model(model_path), None, chosen_types(TYPES), rows=1)
