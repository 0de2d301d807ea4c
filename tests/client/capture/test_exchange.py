"""What exchanges say: whole answers, streams, broken and foreign ones."""

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.capture.exchange import Continued, Exchange, UnreadableExchangeError, is_counted, texts_of
from raq_client.prompts.chats import Chat

CHAT = "/v1/chat/completions"
REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def _exchange(answer: bytes, request: Any = REQUEST, path: str = CHAT, encoding: str = "") -> Exchange:
    return Exchange(path, json.dumps(request).encode(), answer, encoding)


def _events(*deltas: dict[str, Any], ending: str = "\n\n") -> bytes:
    lines = [json.dumps({"choices": [{"index": 0, "delta": delta}]}, ensure_ascii=False) for delta in deltas]
    return b": ping\n\n" + "".join(f"data: {line}{ending}" for line in [*lines, "[DONE]"]).encode()


def _answer(exchange: Exchange) -> Any:
    (chat,) = texts_of(exchange)
    assert isinstance(chat, Chat)
    assert chat.messages[:-1] == tuple(REQUEST["messages"])
    return chat.messages[-1]


@given(parts=st.lists(st.text(), min_size=1), ending=st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]))
def test_a_stream_says_what_one_answer_would(parts: list[str], ending: str) -> None:
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "".join(parts)}}]}
    streamed = _answer(_exchange(_events(*({"content": part} for part in parts), ending=ending)))
    assert streamed == _answer(_exchange(json.dumps(whole).encode()))
    assert streamed["content"] == "".join(parts)


def test_reasoning_and_calls_are_put_together_from_their_parts() -> None:
    deltas = (
        {"role": "assistant", "content": None, "reasoning_content": "I "},
        {"reasoning_content": "ask."},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    )
    answer = _answer(_exchange(_events(*deltas)))
    assert answer["reasoning_content"] == "I ask."
    assert [call["function"] for call in answer["tool_calls"]] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]


def test_each_choice_is_a_chat_and_a_completion_a_text() -> None:
    choices = [{"index": n, "message": {"content": str(n)}} for n in range(3)]
    chats = texts_of(_exchange(json.dumps({"choices": choices}).encode()))
    assert [chat.messages[-1]["content"] for chat in chats if isinstance(chat, Chat)] == ["0", "1", "2"]
    text = json.dumps({"choices": [{"index": 0, "text": " there"}]}).encode()
    assert texts_of(_exchange(text, {"prompt": "Hi"}, "/v1/completions")) == ["Hi there"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([5, 6], [Continued((5, 6), "0"), Continued((5, 6), "1")]),
        (["a", "b"], ["a0", "b1"]),
        ([[5], [6, 7]], [Continued((5,), "0"), Continued((6, 7), "1")]),
    ],
)
def test_prompts_may_be_tokens_or_several(prompt: Any, said: Any) -> None:
    answer = json.dumps({"choices": [{"index": 1, "text": "1"}, {"index": 0, "text": "0"}]}).encode()
    assert texts_of(_exchange(answer, {"prompt": prompt}, "/v1/completions")) == said


@given(parts=st.lists(st.text(), min_size=1))
def test_lines_of_ollama_say_what_one_answer_would(parts: list[str]) -> None:
    lines: list[dict[str, Any]] = [{"message": {"role": "assistant", "content": part}, "done": False} for part in parts]
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    lines.append({"message": {"content": "", "thinking": "Hm", "tool_calls": [call, call]}, "done": False})
    lines.append({"message": {"content": ""}, "done": True, "eval_count": 3})
    answer = _answer(_exchange("".join(f"{json.dumps(line)}\n" for line in lines).encode(), path="/api/chat"))
    assert (answer["content"], answer["reasoning_content"]) == ("".join(parts), "Hm")
    assert [each["function"] for each in answer["tool_calls"]] == [call["function"]] * 2
    (text,) = texts_of(
        _exchange(
            "\n".join(json.dumps({"response": part}) for part in parts).encode(),
            {"prompt": "Hi", "raw": True},
            "/api/generate",
        )
    )
    assert text == "Hi" + "".join(parts)


def test_a_prompt_to_ollama_is_a_chat_of_one_turn_and_a_cut_line_is_left_out() -> None:
    answer = b'{"response": "Ho", "done": false}\n{"response": " ho", "do'
    (chat,) = texts_of(_exchange(answer, {"prompt": "Hi", "system": "Be kind."}, "/api/generate"))
    assert isinstance(chat, Chat)
    assert [turn["content"] for turn in chat.messages] == ["Be kind.", "Hi", "Ho"]


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_answers_are_read(encoding: str, encode: Any) -> None:
    data = encode(_events({"content": "Ho"}))
    assert _answer(_exchange(data, encoding=encoding))["content"] == "Ho"
    with pytest.raises(UnreadableExchangeError, match="damaged or cut off"):
        texts_of(_exchange(data[:12], encoding=encoding))


def test_of_an_answer_that_broke_off_counts_what_had_arrived() -> None:
    data = _events({"content": "Ho"}, {"content": " ho"})
    assert _answer(_exchange(data[: data.index(b" ho")]))["content"] == "Ho"


@pytest.mark.parametrize(
    ("exchange", "why"),
    [
        (_exchange(b""), "no choices"),
        (_exchange(b'{"choices": [{"mess'), "cut off"),
        (_exchange(b'{"choices": ' + b"[" * 100_000), "cut off"),
        (_exchange(b'{"choices": ' + b"9" * 5_000 + b"}"), "cut off"),
        (_exchange(b"data: " + b"[" * 100_000), "no choices"),
        (_exchange(b"[" * 100_000, path="/api/chat"), "no choices"),
        (_exchange(b'{"choices": []}'), "no choices"),
        (_exchange(_events({"content": "x"}), {"prompt": "x"}), "no messages"),
        (_exchange(_events({"content": "x"}), []), "no JSON object"),
        (_exchange(_events({"content": "x"}), {"prompt": [1, "2"]}, "/v1/completions"), "no text, nor tokens"),
        (_exchange(_events({"content": "x"}), {"prompt": ["a", "b"]}, "/v1/completions"), "no text, nor tokens"),
        (_exchange(_events({"content": "x"}), {}, "/v1/completions"), "no text, nor tokens"),
        (_exchange(b'{"error": "no such model"}', path="/api/chat"), "no choices"),
        (_exchange(b'{"response": "x"}', {"prompt": "a", "suffix": "b"}, "/api/generate"), "of its own"),
        (_exchange(b"x", encoding="br"), "encoded as br"),
    ],
)
def test_others_are_left_out_with_a_reason(exchange: Exchange, why: str) -> None:
    with pytest.raises(UnreadableExchangeError, match=why):
        texts_of(exchange)


def test_only_posts_for_completions_are_counted() -> None:
    assert is_counted("POST", "/api/v1/chat/completions/")
    assert not is_counted("POST", "/v1/embeddings")
    assert not is_counted("OPTIONS", CHAT)
