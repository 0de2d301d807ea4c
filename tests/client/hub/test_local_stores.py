"""Models of Ollama and LM Studio by the names that these programs give them."""

import hashlib
import json
from pathlib import Path

import pytest

from raq_client.models.sources import local_model
from raq_solver.errors import InvalidInput
from support.commands import client
from support.gguf_files import MODEL_4M


def ollama_store(folder: Path, name: str, data: bytes) -> Path:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest},
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00"},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    blob = folder / "blobs" / digest.replace(":", "-")
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(data)
    return blob


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("ollama:qwen3:8b", "registry.ollama.ai/library/qwen3/8b"),
        ("ollama:qwen3", "registry.ollama.ai/library/qwen3/latest"),
        ("ollama:me/tiny:f16", "registry.ollama.ai/me/tiny/f16"),
        ("ollama:hf.co/org/repo:Q4_K_M", "hf.co/org/repo/Q4_K_M"),
    ],
)
def test_ollamas_manifest_leads_to_its_blob(
    name: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    blob = ollama_store(tmp_path, stored, b"GGUF")
    assert local_model(name) == blob
    assert local_model(Path(name)) == local_model(name)


def test_what_ollama_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with pytest.raises(InvalidInput, match="ollama pull qwen3:8b"):
        local_model("ollama:qwen3:8b")
    with pytest.raises(InvalidInput, match="not a name"):
        local_model("ollama:../../etc/passwd")
    ollama_store(tmp_path, "registry.ollama.ai/library/qwen3/8b", b"GGUF").unlink()
    with pytest.raises(InvalidInput, match="is missing"):
        local_model("ollama:qwen3:8b")
    for damage in ("[]", "[" * 100_000, "9" * 5_000):
        (tmp_path / "manifests/registry.ollama.ai/library/qwen3/8b").write_text(damage)
        with pytest.raises(InvalidInput, match="no manifest"):
            local_model("ollama:qwen3:8b")


def test_lm_studios_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".lmstudio" / "models" / "org" / "tiny"
    folder.mkdir(parents=True)
    for quant in ("Q4_K_M", "F16"):
        (folder / f"tiny-{quant}.gguf").write_bytes(MODEL_4M.read_bytes())
    assert local_model("lmstudio:org/tiny:q4_k_m") == folder / "tiny-Q4_K_M.gguf"
    assert local_model("lmstudio:org/tiny") == folder / "tiny-F16.gguf"
    shown = client("inspect", "lmstudio:org/tiny", "--json")
    assert shown.json[0]["kind"] == "model"
    with pytest.raises(InvalidInput, match="no such model"):
        local_model("lmstudio:org/other")
    with pytest.raises(InvalidInput, match="not a name"):
        local_model("lmstudio:../..")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "models").mkdir(parents=True)
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{elsewhere}\n")
    with pytest.raises(InvalidInput, match="elsewhere"):
        local_model("lmstudio:org/tiny")
