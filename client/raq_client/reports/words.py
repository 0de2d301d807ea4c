"""Styled texts. They are never parsed as markup, so that names may have brackets."""

from rich.text import Text


def dim(text: str) -> Text:
    """A text in a dim style."""
    return Text(text, style="dim")


def worded(*parts: str | Text) -> Text:
    """Parts joined to one text."""
    return Text.assemble(*parts)
