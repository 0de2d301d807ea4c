"""Losses by Fisher information are those of the weights that a file would hold, and stay with the profile."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import raq_native
from raq_client.curvature.information import Fisher, InformedWindow
from raq_client.files.profile_file import load_profile, save_profile
from raq_client.importance.imatrix import Entry, Importance
from raq_client.models.model_file import ModelFile, open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing import measure
from raq_client.quantizing.measure import measure_profile
from raq_proto.convert.profile import profile_from_proto, profile_to_proto
from raq_solver.errors import InvalidInput
from raq_solver.profile import FisherLosses, Profile
from raq_solver.tensors import Tensor
from support.gguf_files import MODEL_4M, small_model

TYPES = ("Q8_0", "Q4_K")
EXPERTS, PLAIN, EMBEDDING = "blk.0.ffn_down_exps.weight", "blk.0.attn_q.weight", "token_embd.weight"


def _fisher(tensor: Tensor, random: np.random.Generator) -> Fisher:
    shape = tensor.matrices, tensor.rows // tensor.matrices
    return Fisher(
        random.lognormal(-7, 1, shape).astype(np.float32),
        random.lognormal(-7, 1, (tensor.matrices, tensor.row_length)).astype(np.float32),
        inputs=random.lognormal(-9, 1, 2).astype(np.float32),
    )


def _importance(model: ModelFile, names: tuple[str, ...]) -> Importance:
    """Of some tensors Fisher information, of all but the embedding sums."""
    random = np.random.default_rng(0)
    fisher = {name: _fisher(model.tensor(name), random) for name in names}
    counted = [tensor for tensor in model.tensors if len(tensor.shape) > 1 and tensor.name != EMBEDDING]
    entries = {
        tensor.name: Entry(
            random.random(tensor.matrices * tensor.row_length).astype(np.float32), np.ones(tensor.matrices, np.float32)
        )
        for tensor in counted
    }
    return Importance(entries, ("t",), 1, 512, "made up", fisher, 5)


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    return open_model(small_model(tmp_path / "m.gguf"))


def _by_definition(model: ModelFile, importance: Importance, name: str, quant_type: str | None) -> float:
    """Σ_ij r_i c_j ΔW_ij² / Σ r in float64, weights read back by gguf-py; ΔW = W where there is no quant type."""
    tensor, fisher = model.tensor(name), importance.fisher[name]
    weights = model.weights(tensor).reshape(tensor.matrices, -1, tensor.row_length)
    columns = importance.rounding(tensor)
    total = 0.0
    for matrix, values in enumerate(weights):
        change = values.astype(np.float64)
        if quant_type is not None:
            blocks = raq_native.quantize(quant_type, values, None if columns is None else columns[matrix])
            change -= gguf.dequantize(blocks, gguf.GGMLQuantizationType[quant_type]).astype(np.float64)
        r, c = fisher.rows[matrix].astype(np.float64), fisher.columns[matrix].astype(np.float64)
        total += r @ np.square(change) @ c / r.sum()
    return total


def _losses(profile: Profile) -> Mapping[str, Mapping[str, float]]:
    assert profile.fisher is not None
    names = [q.name for q in profile.quant_types]
    return {
        t.name: dict(zip(names, row, strict=True))
        for t, row in zip(profile.tensors, profile.fisher.losses, strict=True)
    }


def _energies(profile: Profile) -> Mapping[str, float]:
    assert profile.fisher is not None
    return {t.name: float(e) for t, e in zip(profile.tensors, profile.fisher.energies, strict=True)}


def test_losses_are_those_of_the_weights_in_a_file(model: ModelFile) -> None:
    names = (EXPERTS, PLAIN, EMBEDDING)
    importance = _importance(model, names)
    profile = measure_profile(model, importance, chosen_types(TYPES))
    losses, energies = _losses(profile), _energies(profile)
    for name in names:
        for quant_type in TYPES:
            expected = _by_definition(model, importance, name, quant_type)
            assert losses[name][quant_type] == pytest.approx(expected, rel=1e-4)
        assert losses[name]["F16"] == 0
        assert energies[name] == pytest.approx(_by_definition(model, importance, name, None), rel=1e-4)
    assert profile.provenance["fisher"] == "5 windows of 512 tokens"


def test_what_nothing_is_known_of_is_not_a_number(model: ModelFile) -> None:
    profile = measure_profile(model, _importance(model, (PLAIN,)), chosen_types(TYPES))
    losses, energies = _losses(profile), _energies(profile)
    assert {name for name, energy in energies.items() if not np.isnan(energy)} == {PLAIN}
    assert all(np.isnan(loss) for name, row in losses.items() for loss in row.values() if name != PLAIN)
    assert set(losses[PLAIN]) == {"F16", "F32", "I32", *TYPES}
    assert {name for name, loss in losses[PLAIN].items() if np.isnan(loss)} == {"F32", "I32"}


def test_costs_of_rounded_inputs_are_those_of_the_importance(model: ModelFile) -> None:
    importance = _importance(model, (EXPERTS, PLAIN))
    found = measure_profile(model, importance, chosen_types(TYPES)).fisher
    assert found is not None
    assert found.inputs is not None
    for tensor, inputs in zip(model.tensors, found.inputs, strict=True):
        known = importance.fisher.get(tensor.name)
        np.testing.assert_array_equal(inputs, np.full(2, np.nan) if known is None else np.asarray(known.inputs))
    older = {name: replace(each, inputs=None) for name, each in importance.fisher.items()}
    without = measure_profile(model, replace(importance, fisher=older), chosen_types(TYPES)).fisher
    assert without is not None
    assert without.inputs is None


def test_relative_errors_are_the_same_with_and_without(model: ModelFile) -> None:
    importance = _importance(model, (EXPERTS, PLAIN))
    plain = measure_profile(model, replace(importance, fisher={}), chosen_types(TYPES))
    found = measure_profile(model, importance, chosen_types(TYPES))
    np.testing.assert_allclose(found.relative_errors, plain.relative_errors, rtol=1e-5)
    np.testing.assert_allclose(found.energies, plain.energies, rtol=1e-5)
    assert plain.fisher is None
    assert "fisher" not in plain.provenance


def test_some_rows_tell_what_all_of_them_cost() -> None:
    model = open_model(MODEL_4M)
    names = ("blk.0.attn_q.weight", "blk.1.ffn_up.weight", "blk.2.attn_output.weight")
    random = np.random.default_rng(0)
    fisher = {name: _fisher(model.tensor(name), random) for name in names}
    for each in fisher.values():
        each.rows.setflags(write=True)
        each.rows[:] = random.uniform(0.8, 1.2, each.rows.shape)
    importance = Importance({}, fisher=fisher, fisher_windows=1)
    found = [_losses(measure_profile(model, importance, chosen_types(TYPES), rows=rows)) for rows in (None, 128)]
    for name in names:
        for quant_type in TYPES:
            assert found[1][name][quant_type] == pytest.approx(found[0][name][quant_type], rel=0.05)
            assert found[1][name][quant_type] != found[0][name][quant_type]


def test_a_cache_holds_them(model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importance = _importance(model, (EXPERTS, PLAIN))
    cache = tmp_path / "cache"
    first = measure_profile(model, importance, chosen_types(TYPES), cache=cache)
    (file,) = cache.iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["tensor"] for line in lines if line["fisher_energy"] is not None} == {EXPERTS, PLAIN}
    # Interrupted after all but two tensors, one line cut short: only those are measured again.
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:-2]) + kept[-2][:40])
    measured = []

    def watched(*arguments: object) -> measure.TensorErrors:
        measured.append(arguments[1])
        return original(*arguments)  # type: ignore[arg-type]

    original = measure.measure_tensor
    monkeypatch.setattr(measure, "measure_tensor", watched)
    again = measure_profile(model, importance, chosen_types(TYPES), cache=cache)
    assert again.digest() == first.digest()
    assert len(measured) == 2
    other = replace(importance, fisher={PLAIN: importance.fisher[PLAIN]})
    assert measure_profile(model, other, chosen_types(TYPES), cache=cache).digest() != first.digest()
    assert len(list(cache.iterdir())) == 2


def test_they_go_wherever_the_profile_goes(model: ModelFile, tmp_path: Path) -> None:
    profile = measure_profile(model, _importance(model, (EXPERTS, PLAIN)), chosen_types(TYPES))
    path = tmp_path / "p.json"
    save_profile(profile, path)
    for copy in (load_profile(path), profile_from_proto(profile_to_proto(profile))):
        assert copy.fisher is not None
        assert profile.fisher is not None
        np.testing.assert_array_equal(copy.fisher.losses, profile.fisher.losses)
        np.testing.assert_array_equal(copy.fisher.energies, profile.fisher.energies)
        assert copy.digest() == profile.digest()


def test_levels_by_window_go_wherever_the_profile_file_goes(model: ModelFile, tmp_path: Path) -> None:
    plain, random = _importance(model, (EXPERTS, PLAIN)), np.random.default_rng(3)
    fisher = {name: replace(each, levels=random.random(4).astype(np.float32)) for name, each in plain.fisher.items()}
    weights = (1.0, 1.5, 1.0, 0.5)
    windows = tuple(InformedWindow(text, weight) for text, weight in zip("abab", weights, strict=True))
    without = measure_profile(model, plain, chosen_types(TYPES))
    profile = measure_profile(
        model, replace(plain, fisher=fisher, fisher_windows=4, windows=windows), chosen_types(TYPES)
    )
    path = tmp_path / "p.json"
    save_profile(profile, path)
    copy = load_profile(path)
    assert without.levels is None
    for levels in (profile.levels, copy.levels):
        assert levels is not None
        assert (levels.texts, levels.weights.tolist()) == (("a", "b", "a", "b"), list(weights))
        np.testing.assert_allclose(levels.levels @ levels.weights, 4, rtol=1e-12)
        for row, tensor in zip(levels.levels, profile.tensors, strict=True):
            known = fisher.get(tensor.name)
            expected = np.ones(4)
            if known is not None and known.levels is not None:
                expected = 4 * known.levels / (known.levels @ np.array(weights))
            np.testing.assert_allclose(row, expected, rtol=1e-6)
    # No allocation depends on them.
    assert copy.digest() == profile.digest()
    assert profile.fisher is not None
    assert without.fisher is not None
    np.testing.assert_array_equal(profile.fisher.losses, without.fisher.losses)
    content = json.loads(path.read_text())
    del content["fisher_windows"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="some tensor has no fisher_levels for the 3 windows that it names"):
        load_profile(path)


def test_the_digest_tells_them_apart(model: ModelFile, tmp_path: Path) -> None:
    profile = measure_profile(model, None, chosen_types(TYPES))
    path = tmp_path / "p.json"
    save_profile(profile, path)
    assert "fisher" not in {
        key for row in json.loads(path.read_text())["tensors"] for key, value in row.items() if value
    }
    shape = profile.relative_errors.shape
    some = [
        FisherLosses(np.full(shape, loss), np.full(shape[0], energy)) for loss, energy in ((0.1, 1), (0.2, 1), (0.1, 2))
    ]
    digests = {replace(profile, fisher=each).digest() for each in (None, *some)}
    assert len(digests) == 4
    assert replace(profile, fisher=None).digest() == load_profile(path).digest()


def test_costs_of_rounded_inputs_in_part_or_alone_are_refused(model: ModelFile, tmp_path: Path) -> None:
    profile = measure_profile(model, _importance(model, (PLAIN,)), chosen_types(TYPES))
    path = tmp_path / "p.json"
    save_profile(profile, path)
    whole = path.read_text()
    content = json.loads(whole)
    content["tensors"][1]["fisher_inputs"] = [0.0]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="some tensor lacks fisher_inputs for scales of 32 and 256 inputs"):
        load_profile(path)
    content = json.loads(whole)
    for row in content["tensors"]:
        del row["fisher_losses"], row["fisher_energy"]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="has fisher_inputs, but no fisher_losses that they belong to"):
        load_profile(path)
    message = profile_to_proto(profile)
    del message.fisher_inputs[0]
    with pytest.raises(InvalidInput, match=r"fisher_inputs: has .* numbers"):
        profile_from_proto(message)
    message = profile_to_proto(profile)
    del message.fisher_losses[:], message.fisher_energies[:]
    with pytest.raises(InvalidInput, match=r"fisher_inputs: has .* need 0"):
        profile_from_proto(message)


def test_a_profile_that_holds_them_in_part_or_badly_is_refused(model: ModelFile, tmp_path: Path) -> None:
    profile = measure_profile(model, _importance(model, (PLAIN,)), chosen_types(TYPES))
    path = tmp_path / "p.json"
    save_profile(profile, path)
    content = json.loads(path.read_text())
    del content["tensors"][1]["fisher_losses"]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="some tensor lacks fisher_losses for the"):
        load_profile(path)
    message = profile_to_proto(profile)
    del message.fisher_energies[0]
    with pytest.raises(InvalidInput, match="fisher_energies"):
        profile_from_proto(message)
    shape = profile.relative_errors.shape
    for bad in (-1.0, np.inf):
        with pytest.raises(InvalidInput, match="a loss by Fisher information that is negative or infinite"):
            replace(profile, fisher=FisherLosses(np.full(shape, bad), np.zeros(shape[0])))
        with pytest.raises(InvalidInput, match="a loss by Fisher information that is negative or infinite"):
            replace(profile, fisher=FisherLosses(np.zeros(shape), np.full(shape[0], bad)))
    with pytest.raises(InvalidInput, match="arrays have shapes"):
        replace(profile, fisher=FisherLosses(np.zeros(shape[::-1]), np.zeros(shape[0])))
