"""Read texts from files: plain text, or records of chats and completions (.jsonl) rendered as text.

A record is one line of JSON in one of the common forms: `messages` (role, content, reasoning_content, tool_calls),
`conversations` (from, value), `prompt`/`completion`, `question`/`answer`, `instruction`/`input`/`output`, `text`.
Prompts are kept: a completion without its prompt causes different activations. Reasoning is put in <think> tags
before the answer, a tool call as JSON in <tool_call> tags.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from raq_client.engine.windows import Text
from raq_client.files import reading as files
from raq_solver.errors import Fault, InvalidInput, raise_faults

_PAIRS: Final = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
FORMS: Final = "messages, conversations, prompt and completion, question and answer, instruction and output, or text"


Renderer = Callable[[str, str], str]
"""Called with the lines of a .jsonl file and its name; returns the records as one text."""


def read_texts(paths: Sequence[Path], *, special: bool = False, chats: Renderer | None = None) -> list[Text]:
    """The texts in these files, each named by its path; `DOMAIN=FILE` also gives its domain.

    `special`: special tokens spelled out in the texts are those tokens. `chats` renders .jsonl files as a model's chat
    template does, which always spells special tokens out; without, they are rendered by `render_records`.
    Raises InvalidInput with the faults of all files.
    """
    found: list[Text] = []
    faults: list[Fault] = []
    for given in paths:
        path, domain = _named(given)
        try:
            templated = chats is not None and path.suffix == ".jsonl"
            found.append(Text(str(path), _content(path, chats or render_records), domain, special or templated))
        except InvalidInput as error:
            faults += error.faults
    raise_faults(faults)
    return found


def _named(given: Path) -> tuple[Path, str]:
    """A path and its domain. An equals sign in the name of an existing file belongs to the name."""
    domain, equals, name = str(given).partition("=")
    return (given, "") if not equals or not domain or given.exists() else (Path(name), domain)


def read_text(path: Path) -> str:
    """The text of a file, with its line ends as they are. Raises InvalidInput if it can't be read, or is not UTF-8."""
    return files.read_text(path, "text")


def _content(path: Path, render: Renderer) -> str:
    text = read_text(path)
    return render(text, str(path)) if path.suffix == ".jsonl" else text


def render_records(lines: str, where: str) -> str:
    r"""The records of a .jsonl file as text, separated by empty lines. Raises InvalidInput with every bad line.

    >>> render_records('{"prompt": "2+2?", "completion": "4"}\n{"text": "Hi."}', "chats.jsonl")
    '2+2?\n4\n\nHi.\n'
    """
    rendered: list[str] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines.split("\n"), start=1):  # str.splitlines would also split inside of strings
        if not line.strip():
            continue
        try:
            record = files.parse_json(line, f"{where}, line {number}")
        except InvalidInput as error:
            faults += error.faults
            continue
        text = _record(record) if isinstance(record, dict) else None
        if text is None:
            faults.append(Fault(f"{where}, line {number}", f"no known form of record; known are {FORMS}"))
        else:
            rendered.append(text)
    raise_faults(faults)
    return "\n\n".join(rendered) + "\n"


def _record(record: dict[str, Any]) -> str | None:
    turns = record.get("messages", record.get("conversations"))
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        return "\n".join(part for turn in turns if (part := _turn(turn)))
    for asked, answered in _PAIRS:
        if isinstance(record.get(asked), str) and isinstance(record.get(answered), str):
            return f"{record[asked]}\n{_with_reasoning(record, record[answered])}"
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str):
        parts = (record["instruction"], record.get("input") or "", _with_reasoning(record, record["output"]))
        return "\n".join(str(part) for part in parts if part)
    return record["text"] if isinstance(record.get("text"), str) else None


def _turn(turn: dict[str, Any]) -> str:
    role = turn.get("role", turn.get("from")) or ""
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts of several kinds; a text model only gets the text
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = _with_reasoning(turn, content if isinstance(content, str) else "")
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else call
        text = f"{text}\n<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>".lstrip()
    return f"{role}: {text}" if role and text else text


def _with_reasoning(holder: dict[str, Any], text: str) -> str:
    reasoning = holder.get("reasoning_content", holder.get("reasoning"))
    return f"<think>\n{reasoning}\n</think>\n{text}" if isinstance(reasoning, str) and reasoning else text
