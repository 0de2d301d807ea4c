"""The whole road on a real model: every step, alone and together, here and by a server."""

import hashlib
import json
from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.recipes.overrides import read_overrides, resolve
from support.commands import client
from support.gguf_files import Reader


@pytest.fixture
def text(data: Path, tmp_path: Path) -> Path:
    """Some windows of text that the model has not seen."""
    path = tmp_path / "text.txt"
    path.write_text((data / "gsm8k.evaluation.txt").read_text(encoding="utf-8")[:3500], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def profile_path(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path) -> Path:
    path = tmp_path_factory.mktemp("profile") / "4m.profile.json"
    result = client("profile", model_path, "-i", imatrix_path, "-o", path, "--json")
    assert result.code == 0, result.err
    assert result.json["tensors"] == 39
    return path


def test_run_does_everything(tmp_path: Path, model_path: Path, imatrix_path: Path, text: Path) -> None:
    out = tmp_path / "out.gguf"
    result = client("run", model_path, "--budget", "5.0", "-i", imatrix_path, "-t", text, "-o", out, "--json")
    assert result.code == 0, result.err
    plan, file, check = (result.json[part] for part in ("plan", "file", "check"))
    assert plan["termination"] == "optimal"
    assert plan["gap"] <= 1e-9
    assert plan["bytes"] <= plan["capacity_bytes"] == 2_786_720
    assert file["tensor_bytes"] == plan["bytes"]
    assert out.stat().st_size == file["tensor_bytes"] + file["padding_bytes"] + file["header_bytes"]
    written = {tensor.name: tensor.tensor_type.name for tensor in Reader(out).tensors}
    assert written == plan["allocation"]
    assert 0 < check["overall"]["kl"]["value"] < 0.02
    assert check["overall"]["top1_agreement"]["value"] > 0.9


def test_the_text_report_has_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path, imatrix_path: Path, text: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    out = "out.gguf"  # a longer name might be broken in two
    result = client("run", model_path, "-b", "4.5bpw", "-i", imatrix_path, "-t", text, "-o", out, "--no-trial")
    assert result.code == 0, result.err
    for words in ("2,508,048 bytes", "proven bound", "KL divergence, mean", "same top token", "±", out):
        assert words in result.out
    assert "Traceback" not in result.err


def test_the_steps_alone_make_the_same_file(
    tmp_path: Path, model_path: Path, imatrix_path: Path, profile_path: Path
) -> None:
    plan, together, alone, by_lines = (tmp_path / name for name in ("plan.json", "a.gguf", "b.gguf", "c.gguf"))
    assert client("run", model_path, "-b", "4.2", "-i", imatrix_path, "-o", together).code == 0
    solved = client("solve", "-b", "4.2", "-p", profile_path, "--json")
    plan.write_text(solved.out, encoding="utf-8")
    assert client("quantize", model_path, "-a", plan, "-i", imatrix_path, "-o", alone).code == 0
    lines = tmp_path / "types.txt"
    lines.write_text(client("solve", "-b", "4.2", "-p", profile_path, "--format", "llama.cpp").out, encoding="utf-8")
    assert client("quantize", model_path, "-a", lines, "-i", imatrix_path, "-o", by_lines).code == 0
    assert tensor_bytes(together) == tensor_bytes(alone) == tensor_bytes(by_lines)


def tensor_bytes(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in Reader(path).tensors}


def test_llama_cpp_lines_name_every_quantizable_tensor_once(profile_path: Path, model_path: Path) -> None:
    result = client("solve", "-b", "5.0", "-p", profile_path, "--format", "llama.cpp")
    chosen = client("solve", "-b", "5.0", "-p", profile_path, "--json").json["allocation"]
    names = [tensor.name for tensor in open_model(model_path).tensors if is_quantizable(tensor)]
    lines = result.out.split()
    assert len(lines) == len(names)
    assert {n: q.name for n, q in resolve(read_overrides(result.out), names).items()} == {n: chosen[n] for n in names}
    assert "--pure" in result.err


def test_a_project_needs_only_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile_path: Path, server_address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    local = client("solve", "--budget", "5.7", "-p", profile_path, "--json").json
    settings = f'profile = "{profile_path}"\nserver = "{server_address}"\npin = ["output.weight=Q8_0"]\n'
    (tmp_path / "raq.toml").write_text(settings, encoding="utf-8")
    result = client("solve", "--budget", "5.7", "--json")
    assert result.code == 0, result.err
    assert result.json["allocation"]["output.weight"] == "Q8_0"
    assert result.json["loss"] >= local["loss"]


def test_a_server_answers_what_this_process_answers(
    profile_path: Path, server_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = client("solve", "-b", "4.2", "-p", profile_path, "--json").json
    there = client("solve", "-b", "4.2", "-p", profile_path, "--server", server_address, "--json").json
    monkeypatch.setenv("RAQ_SERVER", server_address)
    by_environment = client("solve", "-b", "4.2", "-p", profile_path, "--json").json
    for answer in (here, there, by_environment):
        answer.pop("seconds")
    assert here == there == by_environment


def test_a_second_run_is_answered_from_the_cache(
    tmp_path: Path, model_path: Path, imatrix_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = client("solve", "-b", "5", "-m", model_path, "-i", imatrix_path, "--types", "Q8_0,Q4_0", "--json")
    (stored,) = (tmp_path / "raq" / "measurements").iterdir()
    lines = stored.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 39
    # As after a crash: a few tensors done, one line cut short.
    stored.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20], encoding="utf-8")
    resumed = client("solve", "-b", "5", "-m", model_path, "-i", imatrix_path, "--types", "Q8_0,Q4_0", "--json")
    assert resumed.json["allocation"] == first.json["allocation"]
    assert resumed.json["loss"] == first.json["loss"]


def test_prediction_mixture_and_manifest_are_told(
    tmp_path: Path, model_path: Path, fisher_path: Path, text: Path
) -> None:
    out, manifest = tmp_path / "out.gguf", tmp_path / "manifest.json"
    arguments = (
        "run",
        model_path,
        "-b",
        "5.0",
        "-i",
        fisher_path,
        "-t",
        text,
        "-o",
        out,
        "--windows",
        "3",
        "--no-trial",
    )
    found = client(*arguments, "--against", "Q4_K_M", "--manifest", manifest, "--json")
    assert found.code == 0, found.err
    assert 0.3 < found.json["prediction"]["ratio"] < 3
    against = found.json["against"]
    assert against["allocation_bytes"] == found.json["file"]["tensor_bytes"] < against["mixture_bytes"]
    kept = json.loads(manifest.read_text(encoding="utf-8"))
    assert kept["outputs"] == {str(out): hashlib.sha256(out.read_bytes()).hexdigest()}
    assert set(kept["inputs"]) == {str(path) for path in (model_path, fisher_path, text)}
    assert kept["plan"]["allocation"] == found.json["plan"]["allocation"]
