"""Chats, and the records of .jsonl files that hold them.

A record is one line of JSON in one of the forms that `raq_client.engine.texts` knows, or `prompt` alone: a chat whose
answer is still open. With `messages` there may be `tools` (their schemas) and `chat_template_kwargs` (variables for the
template), as in a request to an OpenAI-compatible server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raq_client.engine.texts import FORMS
from raq_client.files.reading import parse_json
from raq_solver.errors import Fault, InvalidInput, raise_faults

Message = Mapping[str, Any]
"""One turn: role, content and, of the model's turns, reasoning_content and tool_calls."""
_ROLES: Final = {"human": "user", "gpt": "assistant", "bot": "assistant"}
_PAIRS: Final = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: its turns, the schemas of its tools, and further variables of the template."""

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether the model's answer is still to come."""
        return not self.messages or self.messages[-1].get("role") != "assistant"

    def answered(self, answer: Message) -> "Chat":
        """The chat with an answer; one that the client began is continued."""
        if self.is_open:
            return Chat((*self.messages, answer), self.tools, self.variables)
        begun = self.messages[-1]
        whole = {**begun, **answer, "content": plain_content(begun) + plain_content(answer)}
        return Chat((*self.messages[:-1], whole), self.tools, self.variables)


def read_records(lines: str, where: str) -> list[Chat | str]:
    """The records of a .jsonl file: chats, and plain texts as they are. Raises InvalidInput with every bad line.

    >>> read_records('{"question": "2+2?", "answer": "4"}', "chats.jsonl")[0].messages[1]["content"]
    '4'
    """
    found: list[Chat | str] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            record = parse_json(line, place)
        except InvalidInput as error:
            faults += error.faults
            continue
        read = _record(record) if isinstance(record, dict) else None
        if read is None:
            faults.append(Fault(place, f"no known form of record; known are {FORMS}"))
        else:
            found.append(read)
    raise_faults(faults)
    if not found:
        raise InvalidInput(Fault(where, "holds no record"))
    return found


def chat_of(record: Mapping[str, Any]) -> Chat | None:
    """The chat in a record with `messages`, which may be a request to a server; None if there is none."""
    turns = record.get("messages")
    if not isinstance(turns, list) or not turns or not all(_is_turn(turn) for turn in turns):
        return None
    tools, variables = record.get("tools") or (), record.get("chat_template_kwargs") or {}
    if not isinstance(tools, list | tuple) or not isinstance(variables, dict):
        return None
    return Chat(tuple(turns), tuple(tools), variables)


def plain_content(message: Message) -> str:
    """The text of a turn: of several parts, those that are text, a line each, as llama-server has it."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and "text" in part)
    return content if isinstance(content, str) else ""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning of a turn, under whichever name; empty if there is none."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str)


def _record(record: dict[str, Any]) -> Chat | str | None:
    if "messages" in record:
        return chat_of(record)
    turns = record.get("conversations")
    if (
        isinstance(turns, list)
        and turns
        and all(isinstance(turn, dict) and isinstance(turn.get("from"), str) for turn in turns)
    ):
        return chat_of(
            {
                "messages": [
                    {"role": _ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")} for turn in turns
                ]
            }
        )
    for asked, answered in _PAIRS:
        if _are_texts(record, asked, answered):
            return _pair(record[asked], record[answered], record)
    if _are_texts(record, "instruction", "output"):
        parts = (record["instruction"], record.get("input") or "")
        return _pair("\n".join(str(part) for part in parts if part), record["output"], record)
    if _are_texts(record, "prompt"):
        return Chat(({"role": "user", "content": record["prompt"]},))
    return record["text"] if _are_texts(record, "text") else None


def _are_texts(record: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(record.get(key), str) for key in keys)


def _pair(asked: str, answered: str, holder: Mapping[str, Any]) -> Chat:
    answer = {"role": "assistant", "content": answered}
    if reasoning := reasoning_of(holder):
        answer["reasoning_content"] = reasoning
    return Chat(({"role": "user", "content": asked}, answer))


def questions(asked: Sequence[str]) -> list[Chat]:
    """A chat with an open answer for each question."""
    return [Chat(({"role": "user", "content": each},)) for each in asked]
