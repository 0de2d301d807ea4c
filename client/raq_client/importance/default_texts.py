"""The calibration text that comes with raq: six kinds, for users who have none of their own use."""

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from raq_client.engine.windows import Text
from raq_client.prompts.texts import read_texts_for

_FILES: Final = {
    "mathematics": "mathematics.txt",
    "reasoning": "reasoning.txt",
    "tools": "tools.txt",
    "code": "code.txt",
    "chat": "chat.jsonl",
    "prose": "prose.txt",
}
KINDS: Final = tuple(_FILES)
"""Its kinds; `texts/SOURCES.md` says where each is from, and its licence."""


def default_texts(model: Path, library: Path | str | None = None) -> list[Text]:
    """About 60,000 characters of each kind, named by it; chats as `model` reads them (`read_texts_for`).

    Raises InvalidInput for a chat template that can't be used.
    """
    with as_file(files("raq_client.importance") / "texts") as folder:
        texts = read_texts_for(model, [folder / name for name in _FILES.values()], library=library)
    return [replace(text, name=kind) for kind, text in zip(_FILES, texts, strict=True)]
