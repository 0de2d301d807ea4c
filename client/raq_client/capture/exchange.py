"""What one request to an OpenAI-compatible server and its answer say: chats and completions, kept in memory only.

An answer is one JSON object, or a stream of server-sent events with a part in each. Tools of several parallel answers
are kept apart by their index. Of an answer that broke off, what had arrived counts: the model wrote it.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from raq_client.prompts.chats import Chat, chat_of

_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """The bytes of a request and of its answer, and the encoding of the answer's (Content-Encoding)."""

    path: str
    request: bytes
    answer: bytes
    encoding: str = ""


class UnreadableExchangeError(Exception):
    """The exchange holds no text that can be counted; the message says why, without any of the text."""


def is_counted(method: str, path: str) -> bool:
    """Whether exchanges with this method and path hold text of the model's.

    >>> is_counted("POST", "/v1/chat/completions"), is_counted("GET", "/v1/models")
    (True, False)
    """
    return method == "POST" and path.rstrip("/").endswith("/completions")


def texts_of(exchange: Exchange) -> list[Chat | str]:
    """The chats of an exchange, or the texts of a completion: prompt and answer, one for each choice.

    Raises UnreadableExchangeError.
    """
    request = _object(exchange.request, "the request is no JSON object")
    choices = _choices(_decoded(exchange))
    if not choices:
        raise UnreadableExchangeError("the answer has no choices")
    if exchange.path.rstrip("/").endswith("/chat/completions"):
        chat = chat_of(request)
        if chat is None:
            raise UnreadableExchangeError("the request has no messages")
        return [chat.answered(choice.message()) for choice in choices]
    prompt = request.get("prompt")
    if not isinstance(prompt, str):
        raise UnreadableExchangeError("the prompt is not one text")
    return [prompt + choice.content for choice in choices]


@dataclass(slots=True)
class _Choice:
    """One of the answers to a request, put together from its parts."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, part: Mapping[str, Any]) -> None:
        """Add the message of a whole answer, or the delta of an event."""
        self.content += _text(part, "content")
        self.reasoning += _text(part, "reasoning_content") or _text(part, "reasoning")
        for place, call in enumerate(part.get("tool_calls") or ()):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                number = call.get("index", place)
                known = self.calls.setdefault(number, {"type": "function", "function": {"name": "", "arguments": ""}})
                if isinstance(call.get("id"), str):
                    known["id"] = call["id"]
                for key in ("name", "arguments"):
                    known["function"][key] += _text(function, key)

    def message(self) -> dict[str, Any]:
        """The answer as a turn of the chat."""
        found: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            found["reasoning_content"] = self.reasoning
        if self.calls:
            found["tool_calls"] = [self.calls[number] for number in sorted(self.calls)]
        return found


def _text(holder: Mapping[str, Any], key: str) -> str:
    found = holder.get(key)
    return found if isinstance(found, str) else ""


def _decoded(exchange: Exchange) -> bytes:
    decode = _DECODERS.get(exchange.encoding.strip().lower())
    if decode is None:
        raise UnreadableExchangeError(f"the answer is encoded as {exchange.encoding}")
    try:
        return decode(exchange.answer)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableExchangeError(f"the answer's {exchange.encoding} is damaged or cut off") from error


def _choices(answer: bytes) -> list[_Choice]:
    found: dict[int, _Choice] = {}
    for part in _parts(answer):
        for place, each in enumerate(part.get("choices") or ()):
            if isinstance(each, dict):
                choice = found.setdefault(each.get("index", place), _Choice())
                message = each.get("message") or each.get("delta")
                choice.add(message if isinstance(message, dict) else {"content": each.get("text")})
    return [found[number] for number in sorted(found)]


def _parts(answer: bytes) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of an answer: one, or those of its events."""
    text = answer.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        yield _object(answer, "the answer is cut off")
        return
    for line in text.replace("\r", "\n").split("\n"):  # splitlines would also split at characters within a text
        if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
            try:
                event = json.loads(data)
            except json.JSONDecodeError:
                return  # cut off within this event
            if isinstance(event, dict):
                yield event


def _object(data: bytes, otherwise: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnreadableExchangeError(otherwise)
    return found
