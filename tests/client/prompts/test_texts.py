"""Texts for a model: chats as its own template renders them, other texts as they are."""

import json
from pathlib import Path

import pytest

from raq_client.engine.texts import read_texts
from raq_client.prompts.chats import chat_of
from raq_client.prompts.template import require_template
from raq_client.prompts.texts import read_texts_for
from raq_solver.errors import InvalidInput
from support.chat_models import CHATML, with_template
from support.engine_models import MODEL

RECORDS = [
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
    {"messages": [{"role": "user", "content": "Again?"}, {"role": "assistant", "content": "5 <|im_end|>"}]},
]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS), encoding="utf-8")
    return path


def test_chats_are_rendered_by_the_models_template_and_other_files_are_not(tmp_path: Path, chats: Path) -> None:
    model = with_template(tmp_path / "chatml.gguf", CHATML)
    (tmp_path / "plain.txt").write_text("<|im_start|> is plain here")
    one, other = read_texts_for(model, [Path(f"talk={chats}"), tmp_path / "plain.txt"])
    template = require_template(model)
    found = [chat_of(record) for record in RECORDS]
    assert one.content == template.join(template.render(chat) for chat in found if chat is not None)
    assert (one.domain, one.special, other.special) == ("talk", True, False)
    assert other == read_texts([tmp_path / "plain.txt"])[0]


def test_without_a_template_records_are_plain_text(chats: Path) -> None:
    assert read_texts_for(MODEL, [chats]) == read_texts([chats])


def test_bad_lines_of_all_files_are_named(tmp_path: Path, chats: Path) -> None:
    model = with_template(tmp_path / "chatml.gguf", CHATML)
    chats.write_text(chats.read_text() + '{"foo": 1}\n')
    with pytest.raises(InvalidInput) as caught:
        read_texts_for(model, [chats, tmp_path / "none.txt"])
    assert [fault.where for fault in caught.value.faults] == [f"{chats}, line 3", str(tmp_path / "none.txt")]


def test_texts_that_are_tokenized_differently_have_different_digests(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<|im_end|>")
    plain, special = (read_texts([tmp_path / "a.txt"], special=each)[0] for each in (False, True))
    assert plain.digest() != special.digest()
