"""Chats from records: every form, every fault."""

import json
from typing import Any

import pytest

from raq_client.prompts.chats import Chat, read_records
from raq_solver.errors import InvalidInput


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"question": "1+1?", "answer": "2"}, [("user", "1+1?"), ("assistant", "2")]),
        ({"prompt": "Say", "completion": "said"}, [("user", "Say"), ("assistant", "said")]),
        ({"instruction": "Add", "input": "1 1", "output": "2"}, [("user", "Add\n1 1"), ("assistant", "2")]),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        ({"prompt": "Say"}, [("user", "Say")]),
        ({"messages": [{"role": "system", "content": "x"}]}, [("system", "x")]),
    ],
)
def test_forms(record: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    (chat,) = read_records(json.dumps(record), "x")
    assert isinstance(chat, Chat)
    assert [(turn["role"], turn["content"]) for turn in chat.messages] == turns
    assert chat.is_open == (turns[-1][0] != "assistant")


def test_plain_texts_stay_as_they_are() -> None:
    assert read_records('{"text": "as it is"}', "x") == ["as it is"]


def test_reasoning_and_tools_are_kept() -> None:
    (chat,) = read_records('{"prompt": "a", "completion": "b", "reasoning": "c"}', "x")
    assert isinstance(chat, Chat)
    assert chat.messages[1]["reasoning_content"] == "c"
    (chat,) = read_records('{"messages": [{"role": "user", "content": ""}], "tools": [{"a": 1}]}', "x")
    assert isinstance(chat, Chat)
    assert chat.tools == ({"a": 1},)


def test_every_bad_line_is_named() -> None:
    lines = '{"messages": []}\n\n{"messages": [{"content": "no role"}]}\nnot json\n[1]\n{"text": "ok"}'
    with pytest.raises(InvalidInput) as caught:
        read_records(lines, "file.jsonl")
    assert [fault.where for fault in caught.value.faults] == [f"file.jsonl, line {n}" for n in (1, 3, 4, 5)]
    with pytest.raises(InvalidInput, match="holds no record"):
        read_records("\n", "file.jsonl")


def test_an_answer_ends_a_chat_and_continues_one_that_the_client_began() -> None:
    asked = {"role": "user", "content": "a"}
    answer = {"role": "assistant", "content": "c"}
    assert Chat((asked,)).answered(answer).messages == (asked, answer)
    begun = {"role": "assistant", "content": "b"}
    assert Chat((asked, begun)).answered(answer).messages[1]["content"] == "bc"
