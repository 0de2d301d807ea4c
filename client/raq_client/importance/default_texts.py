"""The calibration text that comes with raq: five kinds, for users who have none of their own use."""

from importlib.resources import files
from typing import Final

from raq_client.engine.windows import Text

KINDS: Final = ("mathematics", "reasoning", "tools", "code", "prose")
"""Its kinds; `texts/SOURCES.md` says where each is from, and its licence."""


def default_texts() -> list[Text]:
    """About 64,000 characters of each kind, named by it.

    >>> [(text.name, len(text.content) > 50_000) for text in default_texts()][0]
    ('mathematics', True)
    """
    folder = files("raq_client.importance") / "texts"
    return [Text(kind, (folder / f"{kind}.txt").read_text(encoding="utf-8")) for kind in KINDS]
