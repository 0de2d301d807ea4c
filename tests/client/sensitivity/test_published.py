"""Published tables: read with their known faults, and turned into sensitivities."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.reference_errors import NOTE, error_of_published, reference_error, reference_profile
from raq_client.sensitivity.published import import_sensitivities, read_published
from raq_solver.errors import InvalidInput
from raq_solver.loss_models import default_loss_model, measured
from raq_solver.loss_models.role_prior import CREDIT
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor

TYPES = chosen_types(("Q8_0", "Q4_K", "Q2_K"))
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FLOOR = 0.0004


def _profile(blocks: int = 12) -> Profile:
    names = [f"blk.{block}.{role}.weight" for block in range(blocks) for role in ROLES]
    tensors = [Tensor(name, (512, 512), CATALOGUE["BF16"]) for name in (*names, "token_embd.weight", "output.weight")]
    return reference_profile(ModelTable("m", "llama", tuple(tensors)), TYPES)


def _write(path: Path, rows: dict[str, dict[str, float | str]]) -> Path:
    names = list(next(iter(rows.values())))
    lines = [",".join(["QTYPE", *names])]
    lines += [",".join([quant_type, *(str(row[name]) for name in names)]) for quant_type, row in rows.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _truth(profile: Profile) -> dict[str, float]:
    """Sensitivities of a factor for each role, and one that falls with depth."""
    random = np.random.default_rng(5)
    found = {}
    for tensor in profile.tensors:
        parts = tensor.name.split(".")
        role, depth = (parts[2], int(parts[1])) if parts[0] == "blk" else (parts[0], 0)
        factor = 0.1 if role == "output" else 0.01 * (1 + 3 * (ROLES.index(role) if role in ROLES else 5)) / (1 + depth)
        found[tensor.name] = factor * float(np.exp(random.normal(0, 0.1)))
    return found


def test_a_table_made_from_sensitivities_gives_them_back(tmp_path: Path) -> None:
    profile = _profile()
    truth = _truth(profile)
    row = {name: FLOOR + value * reference_error("Q2_K") for name, value in truth.items()}
    found = import_sensitivities(read_published(_write(tmp_path / "t.csv", {"q2_k_r4": dict(row)})), profile)
    miss = np.log(found.profile.sensitivities / np.array([truth[t.name] for t in profile.tensors]))
    assert np.sqrt(np.square(miss).mean()) < np.log(list(truth.values())).std() / 2
    clear = [row[tensor.name] > 4 * FLOOR for tensor in profile.tensors]
    assert sum(clear) > 20
    assert np.abs(miss[clear]).max() < 0.25  # the noise granted is the floor, a quarter of the least of these
    assert found.floors["q2_k_r4"] == pytest.approx(FLOOR, rel=0.3)
    assert (found.matched, found.filled, found.failed) == (len(truth), 0, 0)
    table = measured(found.profile)
    assert "Thireus" in table.source
    assert NOTE in table.source
    assert default_loss_model(found.profile) is measured


def test_by_role_all_tensors_of_a_role_have_their_mean(tmp_path: Path) -> None:
    profile = _profile()
    row = {name: value + FLOOR for name, value in _truth(profile).items()}
    read = read_published(_write(tmp_path / "t.csv", {"q2_k": dict(row)}))
    alone, together = (import_sensitivities(read, profile, by_role=by_role).profile for by_role in (False, True))
    for role in ROLES:
        at = [index for index, tensor in enumerate(profile.tensors) if f".{role}." in tensor.name]
        assert together.sensitivities[at] == pytest.approx([alone.sensitivities[at].mean()] * 12)
    assert together.provenance["sensitivity"].endswith("by role")


def test_what_was_measured_together_is_one_evaluation(tmp_path: Path) -> None:
    profile = _profile()
    row = {name: value + FLOOR for name, value in _truth(profile).items()}
    both = {name: value for name, value in row.items() if not name.startswith("blk.3.attn_k")}
    both["blk.3.attn_k.weight"] = both["blk.3.attn_v.weight"]  # as the tables write a bundle of the two
    one = import_sensitivities(read_published(_write(tmp_path / "a.csv", {"q2_k": dict(row)})), profile).profile
    two = import_sensitivities(read_published(_write(tmp_path / "b.csv", {"q2_k": dict(both)})), profile).profile
    at = [tensor.name for tensor in profile.tensors].index
    pair = [at("blk.3.attn_k.weight"), at("blk.3.attn_v.weight")]
    assert two.sensitivities[pair].sum() == pytest.approx(one.sensitivities[pair[1]], rel=0.15)


def test_failures_and_zeros_are_no_numbers(tmp_path: Path) -> None:
    profile = _profile()
    row: dict[str, float | str] = {name: value + FLOOR for name, value in _truth(profile).items()}
    row["blk.2.ffn_up.weight"], row["blk.4.ffn_up.weight"], row["blk.5.ffn_up.weight"] = 404, 0, ""
    read = read_published(_write(tmp_path / "t.csv", {"iq1_kt": row, "iq1_bn": row, "made_up": row}))
    found = import_sensitivities(read, profile)
    assert (found.filled, found.failed, found.unused) == (3, 3, ("iq1_bn", "made_up"))
    by_name = {t.name: s for t, s in zip(profile.tensors, found.profile.sensitivities, strict=True)}
    assert by_name["blk.2.ffn_up.weight"] < by_name["output.weight"]
    assert (found.profile.sensitivities > 0).all()
    assert found.profile.provenance["sensitivity_credit"] == CREDIT
    assert all(word in CREDIT for word in ("Thireus", "GGUF Tool Suite", "its contributors"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no table of per-tensor"),
        ("name,shape\na,2\n", "is no table of per-tensor"),
        ("QTYPE,a,a\nq2_k,1,1\n", "distinct tensor names"),
        ("QTYPE,output.weight\n", "has no row of values"),
        ("QTYPE,output.weight\nq2_k,1,2\n", "q2_k: has 2 values for 1 tensors"),
        ("QTYPE,output.weight\nq2_k,nan\n", "output.weight: 'nan' is not a KL divergence"),
        ("QTYPE,output.weight\nq2_k,-1\n", "'-1' is not a KL divergence"),
        ("QTYPE,blk.99.attn_q.weight\nq2_k,1\n", "it is of another model"),
        ("QTYPE,output.weight\nq9_z,1\n", "only rows of types with unknown errors: q9_z"),
    ],
)
def test_what_is_no_table_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=expected):
        import_sensitivities(read_published(path), _profile(1))
    with pytest.raises(InvalidInput, match="can't be read"):
        read_published(tmp_path / "none.csv")


@given(st.sampled_from(["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_S", "IQ2_XS"]))
def test_reference_errors_lie_between_theory_and_uniform_steps(name: str) -> None:
    """No code of R bits has less than 2^-2R on Gaussians (rate-distortion); a plain grid has about 6 times that."""
    least = 4.0 ** -float(CATALOGUE[name].bits_per_weight)
    assert least < reference_error(name) < 6 * least


def test_types_of_other_programs_have_errors_by_their_bits() -> None:
    assert error_of_published("q2_K_r4") == reference_error("Q2_K")
    other, below, above = (error_of_published(name) for name in ("iq2_ks", "iq2_xs", "iq2_xxs"))
    assert other is not None
    assert below is not None
    assert above is not None
    assert below < other < above
    assert error_of_published("q5_made_up") is None


def test_a_profile_of_shapes_says_where_its_errors_are_from(data: Path, shapes: Path) -> None:
    table = read_table(shapes / "qwen36_27b_tensors.csv")
    profile = reference_profile(table, TYPES)
    published = read_published(data / "qwen36_27b.kld.csv")
    found = import_sensitivities(published, profile)
    assert (found.matched, found.filled) == (498, 0)
    assert profile.provenance["errors"] == NOTE
    assert NOTE in default_loss_model(profile)(profile).source
    assert int(profile.weights.sum()) == table.weights
