"""What stands in place of a model file: names of models elsewhere, and folders of safetensors.

Rules
- `open_model`, `evaluable` and `read_table` resolve names here, so that every command and the Python API take them.
- A name becomes a file the first time it is opened, after a command has checked its other arguments.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raq_client.files.names import address_in, is_model_name
from raq_client.hub.local_stores import lm_studio_model, ollama_model
from raq_client.hub.names import HUB, LM_STUDIO, OLLAMA, parse_hub_name
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.hub.download import Found


def local_model(path: Path | str) -> Path:
    """The file that a path or name leads to; a model of a hub is downloaded into the hub's cache if it is not there.

    A folder of safetensors becomes a GGUF file in the user's cache; any other path is returned as it is.
    Raises InvalidInput if the name leads nowhere, or the download fails.
    """
    text = str(path)
    if not is_model_name(text):
        return _file(Path(path))
    if (address := address_in(text)) is not None:
        what = "only profile and quantize read a model from a server; download the file, and give that"
        raise InvalidInput(Fault(address, what))
    if text.startswith(OLLAMA):
        return ollama_model(text)
    if text.startswith(LM_STUDIO):
        return lm_studio_model(text)
    from raq_client.hub.download import download

    def check(folder: Path, files: Sequence[str]) -> None:
        importlib.import_module("raq_client.models.conversion_keys").check_before_weights(folder, files)

    return _file(download(found_on_hub(text), check))


def is_here(path: Path | str) -> bool:
    """Whether a path or name leads to a file of this machine without a download. Raises as `find` does."""
    text = str(path)
    if not text.startswith(HUB):
        return True
    found = found_on_hub(text)
    from raq_client.hub.download import is_downloaded

    return is_downloaded(found)


def pinned(path: Path | str) -> str | None:
    """The name at its commit, `hf:org/repo@sha:file`, of a model of a hub; None for any other path or name.

    Raises InvalidInput as `find` does.
    """
    text = str(path)
    return str(found_on_hub(text)) if text.startswith(HUB) else None


def is_safetensors_folder(path: Path) -> bool:
    """Whether a folder holds a model in safetensors files."""
    return path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _file(path: Path) -> Path:
    """The path itself, or the converted model of a folder of safetensors."""
    if not is_safetensors_folder(path):
        return path
    # By name: opening a model may convert one, and converting opens the file that was written.
    file: Path = importlib.import_module("raq_client.models.convert").converted(path)
    return file


def found_on_hub(text: str) -> "Found":
    """The model that a name `hf:…` means. Raises InvalidInput if raq[hub] is not installed, and as `find` does."""
    assert text.startswith(HUB), "other names are not of a hub"
    name = parse_hub_name(text)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InvalidInput(Fault(text, "reading from a model hub needs more packages: pip install 'raq[hub]'"))
    from raq_client.hub.download import find

    return find(name)
