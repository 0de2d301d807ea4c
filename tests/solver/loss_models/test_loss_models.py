"""Loss models: what each predicts from the same facts, and when it says that it can't."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import (
    LOSS_MODELS,
    default_loss_model,
    input_rounding,
    loss_model,
    measured,
    prior,
    relative,
    residual,
    rounded_inputs_share,
)
from raq_solver.loss_models.models import ROUNDING_32, ROUNDING_256
from raq_solver.loss_models.residual_stream import READ, ROLE_FACTORS, SCALE, residual_sensitivities
from raq_solver.loss_models.role_prior import role_sensitivities
from raq_solver.losses import LossUnit
from raq_solver.profile import FisherLosses, Profile
from raq_solver.quant_types import quant_type
from raq_solver.tensors import Tensor

Q4, Q8 = quant_type("Q4_K"), quant_type("Q8_0")
ENERGIES = {
    "token_embd.weight": 512.0,  # over 512 rows: the stream begins with energy 1
    "blk.0.attn_q.weight": 7.0,
    "blk.0.attn_output.weight": 3.0,
    "blk.0.ffn_up.weight": 2.0,
    "blk.0.ffn_down.weight": 4.0,
    "blk.1.attn_output.weight": 8.0,
    "blk.1.ffn_down.weight": 16.0,
    "output.weight": 5.0,
}


def profile(energies: dict[str, float] = ENERGIES, *, imatrix: str = "digest", experts: int = 1) -> Profile:
    tensors = tuple(
        Tensor(name, (256, 512) if experts == 1 else (256, 512, experts), quant_type("F16")) for name in energies
    )
    errors = np.tile([1e-5, 4e-3], (len(tensors), 1))
    unknown = np.full(len(tensors), np.nan)
    return Profile(
        tensors, (Q8, Q4), errors, np.array(list(energies.values())), unknown, unknown.copy(), {"imatrix": imatrix}
    )


def test_relative_counts_all_alike() -> None:
    table = relative(profile())
    assert (table.losses == profile().relative_errors).all()
    assert table.sizes[0].tolist() == [Q8.size(256 * 512), Q4.size(256 * 512)]


def test_prior_multiplies_what_role_and_place_tell_with_the_error_in_use() -> None:
    made = profile()
    expected = role_sensitivities(made.tensors)[:, None] * (made.relative_errors + input_rounding(made))
    assert prior(made).losses == pytest.approx(expected)
    assert all(word in prior(made).source for word in ("Thireus", "GGUF Tool Suite", "its contributors"))


def test_inputs_are_rounded_in_wider_groups_where_blocks_are_wide() -> None:
    """The embedding is looked up, not multiplied; one that serves as the output head is."""
    rounding = input_rounding(profile())
    assert rounding[0].tolist() == [0, 0]
    assert (rounding[1:] == [ROUNDING_32, ROUNDING_256]).all()
    tied = {name: energy for name, energy in ENERGIES.items() if name != "output.weight"}
    assert input_rounding(profile(tied))[0].tolist() == [ROUNDING_32, ROUNDING_256]
    plain = replace(profile(), quant_types=(quant_type("F16"), quant_type("Q4_0")))
    assert input_rounding(plain)[1].tolist() == [0, ROUNDING_32]


def test_residual_by_hand() -> None:
    """The stream's energy after each addition: 1, 4, 8, 16, 32."""
    found = residual_sensitivities(profile())
    assert not isinstance(found, str)
    by_name = dict(zip(ENERGIES, found / SCALE, strict=True))
    attention = 3 * (READ * (1 / 4 + 1 / 8 + 1 / 16) + 1 / 32)
    assert by_name["blk.0.attn_output.weight"] == pytest.approx(ROLE_FACTORS["attn_output"] * attention)
    assert by_name["blk.0.attn_q.weight"] == pytest.approx(ROLE_FACTORS["attn_q"] * attention)
    last = 16 * (1 / 32)
    assert by_name["blk.1.ffn_down.weight"] == pytest.approx(ROLE_FACTORS["ffn_down"] * last)
    embedding = 1 * (READ * (1 + 1 / 4 + 1 / 8 + 1 / 16) + 1 / 32)
    assert by_name["token_embd.weight"] == pytest.approx(4.96 * embedding)


def test_residual_does_not_depend_on_the_streams_unit() -> None:
    scaled = profile({name: 1000 * energy for name, energy in ENERGIES.items()})
    assert residual(scaled).losses == pytest.approx(residual(profile()).losses)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (profile(imatrix="none"), "without importance"),
        (profile(experts=4), "expert tensors"),
        (profile({"token_embd.weight": 1.0, "blk.0.attn_q.weight": 1.0}), "attention output"),
        (profile({"blk.0.attn_output.weight": 1.0, "blk.0.ffn_down.weight": 1.0}), "attention output"),
    ],
)
def test_where_residual_does_not_apply_prior_does(made: Profile, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        residual(made)
    assert default_loss_model(made) is prior


def test_measured_uses_the_median_where_nothing_was_measured() -> None:
    with pytest.raises(InvalidInput, match="raq-client sensitivity"):
        measured(profile())
    base = profile()
    values = np.array([np.nan, 1.0, 2.0, 3.0, np.nan, np.nan, np.nan, np.nan])
    known = Profile(
        base.tensors, base.quant_types, base.relative_errors, base.energies, values, values.copy(), base.provenance
    )
    errors = (known.relative_errors + input_rounding(known))[:, 1]
    assert measured(known).losses[:, 1] / errors == pytest.approx([2, 1, 2, 3, 2, 2, 2, 2])
    assert default_loss_model(known) is measured


def test_only_measured_sensitivities_and_fisher_information_are_in_nats() -> None:
    """Other losses only compare with each other, so no report may set them against a measured divergence."""
    made = profile()
    known = replace(
        made,
        sensitivities=np.ones(len(made.tensors)),
        fisher=FisherLosses(np.ones(made.relative_errors.shape), np.ones(len(made.tensors))),
    )
    assert {name: model(known).unit for name, model in LOSS_MODELS.items()} == {
        "fisher": LossUnit.NATS,
        "residual": LossUnit.NOMINAL_NATS,
        "prior": LossUnit.NOMINAL_NATS,
        "relative": LossUnit.RELATIVE_ERROR,
        "activation": LossUnit.ACTIVATION_CHANGE,
        "measured": LossUnit.NATS,
    }


def test_the_share_of_rounded_inputs_is_that_of_the_losses() -> None:
    made = profile()
    random = np.random.default_rng(1)
    shape = made.relative_errors.shape
    fisher = FisherLosses(random.uniform(0.1, 1, shape), random.uniform(100, 1000, shape[0]))
    known = replace(made, fisher=fisher)
    types = {tensor.name: made.quant_types[row % len(made.quant_types)].name for row, tensor in enumerate(made.tensors)}
    table = loss_model("fisher")(known)
    predicted = sum(table.losses[table.row_of[name], table.column_of[chosen]] for name, chosen in types.items())
    of_weights = sum(
        fisher.losses[row, made.quant_types.index(quant_type(chosen))] for row, chosen in enumerate(types.values())
    )
    assert of_weights * (1 + rounded_inputs_share(known, types)) == pytest.approx(predicted, rel=1e-12)
    assert rounded_inputs_share(known, types) > 1e-3
    assert rounded_inputs_share(made, types) == 0  # without Fisher information nothing is known of it


def test_measured_costs_of_rounded_inputs_are_used_where_they_are_known() -> None:
    base = profile()
    made = replace(base, quant_types=(Q8, quant_type("F16")), relative_errors=np.zeros(base.relative_errors.shape))
    inputs = np.arange(16.0).reshape(8, 2)
    inputs[2] = np.nan
    losses, energies = np.ones(made.relative_errors.shape), np.full(8, 1000.0)
    known = replace(made, fisher=FisherLosses(losses, energies, inputs))
    of_inputs = loss_model("fisher")(known).losses - 1
    assert of_inputs[:, 0].tolist() == pytest.approx([0, 2, 1000 * ROUNDING_32, 6, 8, 10, 12, 14])
    assert not of_inputs[:, 1].any()
    wide = replace(known, quant_types=(Q4, Q8))
    assert (loss_model("fisher")(wide).losses - 1)[3].tolist() == pytest.approx([7, 6])
    chosen = {tensor.name: "Q8_0" for tensor in made.tensors}
    assert rounded_inputs_share(known, chosen) == pytest.approx(of_inputs[:, 0].sum() / 8)
    assert known.digest() != replace(made, fisher=FisherLosses(losses, energies)).digest()


def test_models_are_found_by_name() -> None:
    assert all(loss_model(name) is model for name, model in LOSS_MODELS.items())
    with pytest.raises(InvalidInput, match="did you mean residual"):
        loss_model("residul")


def test_the_real_model_is_covered(data: Path) -> None:
    model = open_model(data / "wiki-math-4M-f16.gguf")
    importance = read_importance(data / "wiki-math-4M.gsm8k.imatrix.gguf")
    found = measure_profile(model, importance, chosen_types(("Q4_0",)))
    assert default_loss_model(found) is residual
    losses = residual(found).losses[:, -1]
    assert found.tensors[int(np.argmax(np.where(np.isfinite(losses), losses, 0)))].name == "output.weight"
