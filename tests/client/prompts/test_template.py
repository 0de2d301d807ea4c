"""Chats rendered by a model's template, against llama.cpp's server as the witness."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raq_client.engine.tokenizer import vocabulary_of
from raq_client.prompts.chats import Chat, chat_of
from raq_client.prompts.template import ChatTemplate, Words, read_template, require_template
from raq_solver.errors import InvalidInput
from support.chat_models import CHATML, TEMPLATES, with_template
from support.engine_models import MODEL
from support.llama_server import llama_server, post

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather, <now> & “here”.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Köln", "days": 2}'},
}
CHATS: dict[str, dict[str, Any]] = {
    "question": {"messages": [{"role": "user", "content": ' Grüße 🙂, 2 < 3 & "x"? '}]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    "turns": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Ho\n"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ]
    },
    "tools": {
        "tools": [TOOL],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 3}'},
        ],
    },
    "special": {"messages": [{"role": "user", "content": "what is <|im_end|> for?"}]},
    "no thinking": {
        "messages": [{"role": "user", "content": "Hi"}],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "reasoning": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "reasoning_content": "I ask.", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        ]
    },
}


@pytest.fixture(scope="module", params=list(TEMPLATES))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    model = with_template(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", TEMPLATES[request.param])
    with llama_server(model) as address:
        yield model, address


def test_a_chat_is_rendered_and_tokenized_as_the_server_does(served: tuple[Path, str]) -> None:
    model, address = served
    template = require_template(model)
    with vocabulary_of(model) as vocabulary:
        for which, request in CHATS.items():
            chat = chat_of(request)
            assert chat is not None
            expected = post(address, "/apply-template", request)["prompt"]
            assert template.render(chat) == expected, which
            tokens = post(address, "/tokenize", {"content": expected, "add_special": True, "parse_special": True})
            assert vocabulary.tokenize(expected, special=True).tolist() == tokens["tokens"], which


def _template(source: str, **options: Any) -> ChatTemplate:
    return ChatTemplate(source, Words("<s>", "</s>", adds_begin=True), "model.gguf", **options)


ANSWERED = Chat(
    (
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning": "easy"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes", "reasoning_content": "hm", "tool_calls": []},
    )
)


def test_reasoning_goes_where_the_template_reads_it() -> None:
    """Of a template that knows none, only that of the last answer is kept, in tags."""
    assert _template(CHATML).render(ANSWERED).count("<think>") == 1
    assert _template(CHATML).render(ANSWERED).endswith("assistant\n<think>\nhm\n</think>\n\nYes<|im_end|>\n")
    qwen = _template(TEMPLATES["qwen"]).render(ANSWERED)
    assert "<|im_start|>assistant\n4<|im_end|>" in qwen
    assert qwen.endswith("<think>\nhm\n</think>\n\nYes<|im_end|>\n")
    harmony = _template("{% for m in messages %}{{ m.thinking }}|{{ m.content }};{% endfor %}")
    assert harmony.render(ANSWERED) == "|2+2?;easy|4;|Sure?;hm|Yes;"


def test_arguments_of_calls_are_objects_unless_the_template_needs_text() -> None:
    call = {"function": {"name": "f", "arguments": {"a": "ü"}}}
    chat = Chat(({"role": "user", "content": ""}, {"role": "assistant", "content": "", "tool_calls": [call]}))
    head = "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    tail = "{% endfor %}{% endfor %}"
    wanted = '{"a": "ü"}'
    for body in (
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments }}",
        "{{ '' + c.function.arguments }}",
    ):
        assert _template(head + body + tail).render(chat) == wanted, body
    broken = {"function": {"name": "f", "arguments": "{not JSON"}}
    chat = Chat(({"role": "user", "content": ""}, {"role": "assistant", "content": "", "tool_calls": [broken]}))
    assert _template(head + "{{ c.function.arguments }}" + tail).render(chat) == "{not JSON"


def test_the_globals_of_transformers_are_there() -> None:
    day = datetime(2024, 7, 26, tzinfo=UTC)
    source = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }} {{ {'b': '<é>', 'a': 1} | tojson }}{{ eos_token }}"
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    )
    assert _template(source, now=lambda: day).render(ANSWERED) == '26 Jul 2024 {"b": "<é>", "a": 1}</s>2+2?'


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "can't render it: roles must alternate"),
        ("{{ messages[0].content + 1 }}", "can't render it: "),
        ("{{ messages.append(1) }}", "can't render it: "),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "can't render it: "),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_sentence(source: str, said: str) -> None:
    with pytest.raises(InvalidInput, match="x, record 1: the chat template of model.gguf " + said):
        _template(source).corpus([ANSWERED], "x")


def test_no_template_and_no_jinja(tmp_path: Path) -> None:
    assert read_template(MODEL) is None
    with pytest.raises(InvalidInput, match="has no chat template"):
        require_template(MODEL)
    with pytest.raises(InvalidInput, match="its chat template is not Jinja"):
        read_template(with_template(tmp_path / "bad.gguf", "{% for %}"))


def test_a_model_may_have_a_template_for_tools() -> None:
    template = _template("plain", for_tools="tools {{ tools | length }}")
    chat = Chat(({"role": "user", "content": ""},), ({}, {}))
    assert (template.render(chat), template.render(ANSWERED)) == ("tools 2", "plain")


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_corpus_has_the_tokens_of_its_chats_one_after_another(name: str, tmp_path: Path) -> None:
    model = with_template(tmp_path / "model.gguf", TEMPLATES[name])
    chats = [chat for request in CHATS.values() if (chat := chat_of(request)) is not None]
    template = require_template(model)
    with vocabulary_of(model) as vocabulary:
        apart = [token for chat in chats for token in vocabulary.tokenize(template.render(chat), special=True).tolist()]
        together = vocabulary.tokenize(template.corpus(chats, "chats"), special=True).tolist()
        assert together == apart
        assert apart.count(vocabulary.begin_token) == len(chats)
        assert vocabulary.tokenize("<|im_end|>", special=True).size == 2
        assert vocabulary.tokenize("<|im_end|>").size > 2
