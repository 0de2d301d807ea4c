"""Models that Ollama and LM Studio have downloaded: their files by the names these programs give them."""

import json
import os
from pathlib import Path
from typing import Final

from raq_client.hub.names import LM_STUDIO, OLLAMA, chosen_files
from raq_solver.errors import Fault, InvalidInput

_MODEL_LAYER: Final = "application/vnd.ollama.image.model"


def ollama_model(text: str) -> Path:
    """The GGUF file of `ollama:[namespace/]name[:tag]`, in OLLAMA_MODELS or ~/.ollama/models.

    Raises InvalidInput if Ollama does not have it.
    """
    folder = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")
    name, _, tag = text.removeprefix(OLLAMA).partition(":")
    parts = name.split("/")
    if not name or ".." in parts or "" in parts:
        raise InvalidInput(Fault(text, "not a name of a model; write ollama:name[:tag], e.g. ollama:qwen3:8b"))
    usual = ["registry.ollama.ai", "library"]
    host = [*usual[: max(0, 3 - len(parts))], *parts]
    manifest = folder.joinpath("manifests", *host, tag or "latest")
    if not manifest.is_file():
        what = f"Ollama has no such model in {folder}; download it with ollama pull {text.removeprefix(OLLAMA)}"
        raise InvalidInput(Fault(text, what))
    try:
        layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer["mediaType"] == _MODEL_LAYER]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(Fault(str(manifest), f"is no manifest of Ollama: {error!r}")) from error
    if len(digests) != 1:
        raise InvalidInput(
            Fault(text, f"consists of {len(digests)} GGUF files; name the file itself, in {folder}/blobs")
        )
    blob = folder / "blobs" / digests[0].replace(":", "-")
    if blob.name != Path(digests[0].replace(":", "-")).name or not blob.is_file():
        raise InvalidInput(Fault(text, f"its file {blob} is missing; download it again with ollama pull"))
    return blob


def lm_studio_model(text: str) -> Path:
    """The GGUF file of `lmstudio:publisher/repo[:FILE|QUANT]` in LM Studio's folder of models.

    Raises InvalidInput if LM Studio does not have it.
    """
    repo, _, wanted = text.removeprefix(LM_STUDIO).partition(":")
    root = _lm_studio_home() / "models"
    folder = root / repo
    if repo.count("/") != 1 or ".." in repo.split("/"):
        raise InvalidInput(Fault(text, "not a name of a model; write lmstudio:publisher/repo[:FILE|QUANT]"))
    if not folder.is_dir():
        raise InvalidInput(Fault(text, f"LM Studio has no such model in {root}"))
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    chosen = chosen_files(text, files, wanted)
    if not chosen:
        raise InvalidInput(Fault(text, f"{folder} holds no GGUF file"))
    return folder / chosen[0]


def _lm_studio_home() -> Path:
    """LM Studio's folder: the one that its pointer file names, else ~/.lmstudio, or the older one."""
    pointer = Path.home() / ".lmstudio-home-pointer"
    if pointer.is_file():
        return Path(pointer.read_text(encoding="utf-8").strip())
    older = Path.home() / ".cache" / "lm-studio"
    usual = Path.home() / ".lmstudio"
    return older if older.is_dir() and not usual.is_dir() else usual
