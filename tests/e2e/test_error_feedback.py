"""Error feedback from the command line: Gram statistics collected, and used by every command that rounds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.compensation.gram_file import read_gram, write_gram
from raq_client.files.manifest import file_digest
from raq_client.files.profile_file import load_profile
from support.commands import client
from support.engine_models import rewrite
from support.gguf_files import Reader
from support.outputs import write_like

TYPES = ("--types", "Q3_K,Q4_K")
"""The same in all tests: errors with feedback are measured once, and come from the cache then."""


@pytest.fixture(scope="module")
def texts(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Text to calibrate with, and other text to check on."""
    folder = tmp_path_factory.mktemp("texts")
    calibration, held_out = folder / "calibration.txt", folder / "held-out.txt"
    calibration.write_text((data / "gsm8k.calibration.txt").read_text(encoding="utf-8")[:16000], encoding="utf-8")
    held_out.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:5000], encoding="utf-8")
    return calibration, held_out


@pytest.fixture(scope="module")
def gram(texts: tuple[Path, Path], model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gram")
    path = folder / "4m.gram"
    result = client(
        *("imatrix", "collect", model_path, "-t", texts[0], "-o", folder / "4m.imatrix.gguf", "--gram", path),
        *("--windows", 8, "--fisher", 0, "--threads", 1),
    )
    assert result.code == 0, result.err
    assert not list(folder.glob("*partial*"))
    return path


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_run_writes_a_nearer_file_of_the_same_size(
    texts: tuple[Path, Path], gram: Path, model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    common = ("run", model_path, "-b", "4.0", "-i", imatrix_path, "-t", texts[1], *TYPES, "--json")
    plain = client(*common, "-o", tmp_path / "plain.gguf", "--no-trial")
    fed = client(*common, "-o", tmp_path / "fed.gguf", "--gram", gram)
    assert (plain.code, fed.code) == (0, 0), plain.err + fed.err
    one, other = (each.json["check"]["overall"]["kl"]["value"] for each in (fed, plain))
    assert one < 0.9 * other
    assert fed.json["plan"]["bytes"] <= fed.json["plan"]["capacity_bytes"] == plain.json["plan"]["capacity_bytes"]
    ratio, error = fed.json["trial"]["feedback_gain"]
    assert 0 < error < 0.2
    assert ratio < 0.9
    assert f"error feedback: {ratio:.3f} ± {error:.3f}" in fed.err
    keys = Reader(tmp_path / "fed.gguf").fields
    assert "raq.gram.sha256" in keys
    assert "raq.gram.sha256" not in Reader(tmp_path / "plain.gguf").fields


def test_steps_alone_write_the_same_bytes(gram: Path, model_path: Path, imatrix_path: Path, tmp_path: Path) -> None:
    using = ("-i", imatrix_path, "--gram", gram)
    together, profile, plan, alone = (tmp_path / name for name in ("a.gguf", "profile.json", "plan.json", "b.gguf"))
    assert client("run", model_path, "-b", "4.2", *using, *TYPES, "-o", together).code == 0
    assert client("profile", model_path, *using, *TYPES, "-o", profile).code == 0
    plan.write_text(client("solve", "-b", "4.2", "-p", profile, "--json").out, encoding="utf-8")
    assert client("quantize", model_path, "-a", plan, *using, "-o", alone, "--threads", 1).code == 0
    one, other = (Reader(path) for path in (together, alone))
    for tensor, same in zip(one.tensors, other.tensors, strict=True):
        assert tensor.data.tobytes() == same.data.tobytes(), tensor.name


def test_a_profile_has_smaller_losses_where_feedback_is_used(
    gram: Path, model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    plain, fed = tmp_path / "plain.json", tmp_path / "fed.json"
    for path, more in ((plain, ()), (fed, ("--gram", gram))):
        assert client("profile", model_path, "-i", imatrix_path, "--types", "Q4_K", "-o", path, *more).code == 0
    one, other = load_profile(fed), load_profile(plain)
    column = [each.name for each in one.quant_types].index("Q4_K")
    before, after = (each.relative_errors[:, column] for each in (other, one))
    possible = np.isfinite(before)
    ratios = dict(
        zip(np.array([each.name for each in one.tensors])[possible], after[possible] / before[possible], strict=True)
    )
    changed = {name for name, ratio in ratios.items() if ratio < 1}
    assert changed > {f"blk.{block}.{role}.weight" for block in range(3) for role in ("attn_q", "attn_k", "ffn_up")}
    assert 0.05 < min(ratios.values()) < 0.9
    assert one.provenance["gram_sha256"]
    assert "gram" not in other.provenance


def test_raq_toml_names_the_statistics(
    gram: Path, model_path: Path, imatrix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f'model = "{model_path}"\nimatrix = "{imatrix_path}"\ngram = "{gram}"\nbudget = "4.6"\ntypes = ["Q4_K"]\n'
    (tmp_path / "raq.toml").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert client("run", "-o", "out.gguf", "--manifest", "m.json").code == 0
    inputs = json.loads((tmp_path / "m.json").read_text())["inputs"]
    assert inputs == {str(path): file_digest(path) for path in (model_path, imatrix_path, gram)}
    refused = client("run", "-o", gram, "--force")
    assert refused.code == 2
    assert str(gram) in refused.err


def test_files_are_merged_by_weight(gram: Path, imatrix_path: Path, tmp_path: Path) -> None:
    other = write_like(gram, tmp_path / "other.gram", 1)
    result = client("imatrix", "merge", f"{gram}:2", f"{other}:1", "-o", tmp_path / "both.gram")
    assert result.code == 0, result.err
    assert "16 windows" in result.err
    assert "are added up" not in result.err
    shorter = tmp_path / "shorter.gram"
    write_gram(replace(read_gram(gram), context=64, sequences=None, known_digest=""), shorter)
    result = client("imatrix", "merge", gram, shorter, "-o", tmp_path / "lengths.gram")
    assert result.code == 0, result.err
    assert "note: windows of 64 and 512 tokens are added up" in result.err
    mixed = client("imatrix", "merge", gram, imatrix_path, "-o", tmp_path / "mixed.gram")
    assert mixed.code == 2
    assert "can't be merged with Gram statistics" in mixed.err


def test_statistics_of_another_model_and_other_files_are_refused(
    gram: Path, imatrix_path: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raq_client.cli.run._texts", lambda *_: pytest.fail("the texts are read before"))
    other = rewrite(tmp_path / "other.gguf", lambda name, data: {name: data * data.dtype.type(1.5)})
    refused = client("run", other, "-b", "4.0", *TYPES, "--gram", gram, "-o", tmp_path / "x.gguf")
    assert refused.code == 2
    assert "another model" in refused.err
    no_gram = client("run", model_path, "-b", "4.0", *TYPES, "--gram", imatrix_path, "-o", tmp_path / "x.gguf")
    assert no_gram.code == 2
    assert "importance file" in no_gram.err
    assert not (tmp_path / "x.gguf").exists()


def test_a_pruned_model_needs_statistics_of_its_own(gram: Path, model_path: Path, tmp_path: Path) -> None:
    types = tmp_path / "types"
    types.write_text("blk.2.*=q4_k\n", encoding="utf-8")
    given = ("quantize", model_path, "-a", types, "--gram", gram, "-o", tmp_path / "pruned.gguf")
    refused = client(*given, "--prune-layers", "1")
    assert refused.code == 2
    assert "Gram statistics are of the whole model" in refused.err
    assert not (tmp_path / "pruned.gguf").exists()
