"""Calibration text from records: every form, every fault."""

import json
from pathlib import Path

import pytest

from raq_client.engine.texts import read_texts, render_records
from raq_solver.errors import InvalidInput


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"text": "plain"}, "plain"),
        ({"question": "1+1?", "answer": "2"}, "1+1?\n2"),
        ({"prompt": "Say", "completion": "said", "reasoning": "hm"}, "Say\n<think>\nhm\n</think>\nsaid"),
        ({"instruction": "Add", "input": "1 1", "output": "2"}, "Add\n1 1\n2"),
        ({"instruction": "Add", "input": None, "output": "2"}, "Add\n2"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "human: a\ngpt: b"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                    {"role": "assistant", "reasoning_content": "why", "content": "ho"},
                ]
            },
            "user: hi\nassistant: <think>\nwhy\n</think>\nho",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}]},
            'assistant: <tool_call>\n{"name": "f"}\n</tool_call>',
        ),
    ],
)
def test_forms(record: dict[str, object], text: str) -> None:
    assert render_records(json.dumps(record), "x") == text + "\n"


def test_every_bad_line_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        render_records('{"text": "ok"}\n\n{"foo": 1}\nnot json\n[1]', "file.jsonl")
    assert [fault.where for fault in caught.value.faults] == [f"file.jsonl, line {n}" for n in (3, 4, 5)]


def test_gsm8k_as_published(data: Path) -> None:
    (text,) = read_texts([data / "gsm8k.train.head.jsonl"])
    assert text.content.startswith("Natalia sold clips to 48 of her friends")
    assert "#### 72\n\n" in text.content


def test_all_unreadable_files_at_once(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput) as caught:
        read_texts([tmp_path / "none.txt", tmp_path / "binary.txt"])
    assert len(caught.value.faults) == 2


def test_a_text_may_say_its_domain(tmp_path: Path) -> None:
    path, odd = tmp_path / "a.txt", tmp_path / "x=y.txt"
    path.write_text("one", encoding="utf-8")
    odd.write_text("two", encoding="utf-8")
    plain, named, other = read_texts([path, Path(f"math={path}"), odd])
    assert (plain.name, plain.domain, named.name, named.domain) == (str(path), "", str(path), "math")
    assert (other.name, other.domain) == (str(odd), "")
    with pytest.raises(InvalidInput, match=r"none\.txt: can't be read"):
        read_texts([Path("math=none.txt")])


def test_line_ends_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_texts([path])[0].content == "one\r\ntwo\rthree\n", "as llama-perplexity reads it"


def test_only_a_line_feed_ends_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}\n'.encode())
    assert read_texts([path])[0].content == "a\u2028b\u0085c\n\nd\n"
