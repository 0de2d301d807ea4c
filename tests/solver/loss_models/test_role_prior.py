"""The prior by role and place: what it says of names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_solver.loss_models.role_prior import (
    CREDIT,
    FIRST,
    LAST,
    ROLES,
    SCALE,
    SLOPE,
    TIED,
    last_block,
    role_sensitivities,
)
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensor_names import block_of, role_of
from raq_solver.tensors import Tensor


def logs(*names: str) -> dict[str, float]:
    tensors = [Tensor(name, (256, 256), CATALOGUE["BF16"]) for name in names]
    return dict(zip(names, (np.log(role_sensitivities(tensors)) - SCALE).tolist(), strict=True))


def test_effects_by_hand() -> None:
    found = logs(
        "token_embd.weight", *(f"blk.{n}.ffn_up.weight" for n in range(5)), "blk.4.attn_q.weight", "output.weight"
    )
    usual = ROLES["ffn_up"]
    assert found["token_embd.weight"] == pytest.approx(ROLES["token_embd"])
    assert found["output.weight"] == pytest.approx(ROLES["output"])
    assert found["blk.0.ffn_up.weight"] == pytest.approx(usual + FIRST["feed-forward"])
    assert found["blk.1.ffn_up.weight"] == found["blk.3.ffn_up.weight"] == pytest.approx(usual)
    assert found["blk.4.ffn_up.weight"] == pytest.approx(usual + LAST["feed-forward"])
    assert found["blk.4.attn_q.weight"] == pytest.approx(ROLES["attn_q"] + LAST["attention"])
    assert logs("token_embd.weight", "blk.0.ffn_up.weight")["token_embd.weight"] == pytest.approx(TIED)


def test_models_with_experts_lean_towards_early_blocks() -> None:
    found = logs(*(f"blk.{n}.ffn_{part}_exps.weight" for n in range(9) for part in ("up", "down")))
    middle = [found[f"blk.{n}.ffn_up_exps.weight"] for n in range(1, 8)]
    assert np.diff(middle) == pytest.approx([SLOPE["feed-forward"] / 8] * 6)


def test_the_block_that_predicts_further_tokens_is_not_the_last() -> None:
    names = ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight", "blk.2.nextn.eh_proj.weight"]
    assert last_block(names) == 1
    assert last_block(["output.weight"]) == -1


def test_roles_like_known_ones_and_unknown_ones() -> None:
    found = logs("blk.1.ssm_ba.weight", "blk.1.ssm_beta.weight", "blk.1.unheard_of.weight", "blk.2.attn_q.weight")
    assert found["blk.1.ssm_ba.weight"] == found["blk.1.ssm_beta.weight"]
    assert found["blk.1.unheard_of.weight"] == 0


def test_places() -> None:
    assert (block_of("blk.12.attn_q.weight"), role_of("blk.12.attn_q.weight")) == (12, "attn_q")
    assert (block_of("blk.1.ssm_a"), role_of("blk.1.ssm_a")) == (1, "ssm_a")
    assert (block_of("output.weight"), role_of("output.weight")) == (-1, "output")


def test_the_credit_that_the_licence_asks_for() -> None:
    assert all(word in CREDIT for word in ("Thireus", "GGUF Tool Suite", "its contributors"))


@given(
    roles=st.lists(st.sampled_from([*ROLES, "x"]), min_size=1, unique=True),
    blocks=st.integers(1, 90),
    tied=st.booleans(),
)
def test_every_model_gets_finite_sensitivities_above_zero(roles: list[str], blocks: int, *, tied: bool) -> None:
    names = [f"blk.{block}.{role}.weight" for block in range(blocks) for role in roles]
    names += ["token_embd.weight"] + ([] if tied else ["output.weight"])
    found = role_sensitivities([Tensor(name, (256, 256), CATALOGUE["BF16"]) for name in names])
    assert np.isfinite(found).all()
    assert (found > 0).all()
