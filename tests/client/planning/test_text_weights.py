"""Weights of the calibration's texts: losses of parts make up the whole, and mistakes are named."""

import numpy as np
import pytest

from raq_client.planning.text_weights import by_text, parse_text_weights, texts_of, weighted_texts
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import loss_model
from raq_solver.profile import FisherLevels, FisherLosses, Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor

TEXTS = ("math", "code", "math", "code", "prose", "math", "code")
WEIGHTS = (1.0, 2.0, 0.5, 1.0, 3.0, 0.0, 1.0)
SHARES = {"math": 1.5, "code": 4.0, "prose": 3.0}


@pytest.fixture
def profile() -> Profile:
    random = np.random.default_rng(0)
    tensors = tuple(Tensor(f"blk.{block}.attn_q.weight", (256, 4), CATALOGUE["F16"]) for block in range(4))
    losses, energies = random.lognormal(size=(4, 2)), random.lognormal(size=4)
    inputs = random.lognormal(size=(4, 2))
    losses[3], energies[3], inputs[3] = np.nan, np.nan, np.nan
    raw = random.lognormal(size=(4, 7))
    raw[2], raw[3] = 0, np.nan
    return Profile(
        tensors,
        (CATALOGUE["Q8_0"], CATALOGUE["Q4_K"]),
        np.full((4, 2), 0.01),
        np.ones(4),
        np.full(4, np.nan),
        np.full(4, np.nan),
        {"fisher": "7 windows of 64 tokens"},
        fisher=FisherLosses(losses, energies, inputs),
        levels=FisherLevels(raw, TEXTS, np.array(WEIGHTS)),
    )


def test_the_weighted_mean_of_the_texts_is_the_whole(profile: Profile) -> None:
    assert texts_of(profile) == ("math", "code", "prose")
    parts = dict(by_text(profile))
    assert profile.fisher is not None
    for kind in ("losses", "energies", "inputs"):
        mean = sum(share * getattr(parts[text].fisher, kind) for text, share in SHARES.items()) / sum(SHARES.values())
        np.testing.assert_allclose(mean, getattr(profile.fisher, kind), rtol=1e-12)
    again = weighted_texts(profile, SHARES)
    assert again.fisher is not None
    np.testing.assert_allclose(again.fisher.losses, profile.fisher.losses, rtol=1e-12)


def test_one_texts_losses_are_by_its_own_windows(profile: Profile) -> None:
    assert profile.fisher is not None
    assert profile.levels is not None
    prose = dict(by_text(profile))["prose"]
    assert prose.fisher is not None
    np.testing.assert_allclose(prose.fisher.losses, profile.fisher.losses * profile.levels.levels[:, 4:5], rtol=1e-12)
    # What nothing is known of stays as it is.
    np.testing.assert_array_equal(prose.fisher.losses[2:], profile.fisher.losses[2:])


def test_weights_twice_are_those_of_the_second_time(profile: Profile) -> None:
    wanted = {"math": 2.0, "code": 1.0, "prose": 0.5}
    one, other = weighted_texts(profile, wanted), weighted_texts(weighted_texts(profile, {"prose": 9.0}), wanted)
    assert one.fisher is not None
    assert other.fisher is not None
    np.testing.assert_allclose(one.fisher.losses, other.fisher.losses, rtol=1e-12)
    assert "7 windows of 64 tokens, texts weighted math:2, code:1, prose:0.5" in loss_model("fisher")(one).source
    assert one.provenance["fisher"] == other.provenance["fisher"]
    assert one.digest() != profile.digest()


def test_mistakes_are_named(profile: Profile) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_text_weights(["math", "code:x", ":1", "a:-1", "b:nan", "c:1", "c:2"])
    assert [fault.where for fault in error.value.faults] == ["math", "code:x", ":1", "a:-1", "b:nan", "c:2"]
    assert parse_text_weights(["a:b:0.5"]) == {"a:b": 0.5}
    with pytest.raises(InvalidInput, match=r"coed: no text of the calibration \(did you mean code\?\); there are math"):
        weighted_texts(profile, {"coed": 1.0})
    with pytest.raises(InvalidInput, match="all weights are 0"):
        weighted_texts(profile, dict.fromkeys(SHARES, 0.0))
    bare = Profile(
        *(getattr(profile, n) for n in ("tensors", "quant_types", "relative_errors", "energies")), *[np.ones(4)] * 2
    )
    with pytest.raises(InvalidInput, match="--text-weight: there is no Fisher information by text"):
        weighted_texts(bare, {"math": 1.0})
    with pytest.raises(InvalidInput, match="needs two domains or more"):
        by_text(bare)
