"""Texts for a model: plain text, and chats rendered by the template of the model that will read them."""

from collections.abc import Sequence
from pathlib import Path

from raq_client.engine.texts import read_texts
from raq_client.engine.windows import Text


def read_texts_for(
    model: Path, paths: Sequence[Path], *, special: bool = False, library: Path | str | None = None
) -> list[Text]:
    """The texts in these files; .jsonl files are rendered by the chat template of `model`, if it has one.

    A path may be DOMAIN=FILE. `special`: special tokens spelled out in plain texts are those tokens, as they always are
    in rendered chats. Raises InvalidInput with the faults of all files.
    """
    if not any(path.suffix == ".jsonl" for path in paths):
        return read_texts(paths, special=special)
    from raq_client.prompts.chats import read_records
    from raq_client.prompts.template import read_template  # here: Jinja takes time to import

    template = read_template(model, library)
    if template is None:
        return read_texts(paths, special=special)
    render = template.corpus
    return read_texts(paths, special=special, chats=lambda lines, where: render(read_records(lines, where), where))
