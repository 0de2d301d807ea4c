"""Words in styles. Texts are printed as they are: a name with brackets in it is no markup."""

from rich.text import Text


def dim(text: str) -> Text:
    """A text that stands back."""
    return Text(text, style="dim")


def worded(*parts: str | Text) -> Text:
    """Parts of one line, one after the other."""
    return Text.assemble(*parts)
