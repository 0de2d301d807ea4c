"""What one request to a server and its answer say: chats and completions, kept in memory only.

OpenAI's API: an answer is one JSON object, or a stream of server-sent events with a part in each. Tools of several
parallel answers are kept apart by their index. Ollama's own API: a line of JSON for each part. Of an answer that broke
off, what had arrived counts: the model wrote it.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from raq_client.prompts.chats import Chat, chat_of

_OLLAMA: Final = ("/api/chat", "/api/generate")
_DAMAGED: Final = (ValueError, RecursionError)
"""What parsing JSON raises that is cut off, or made to break its reader."""
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


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt given as tokens of the served model, and the text that it answered."""

    prompt: tuple[int, ...]
    answer: str


Said = Chat | str | Continued


class UnreadableExchangeError(Exception):
    """The exchange holds no text that can be counted; the message says why, without any of the text."""


def is_counted(method: str, path: str) -> bool:
    """Whether exchanges with this method and path hold text of the model's.

    >>> is_counted("POST", "/v1/chat/completions"), is_counted("GET", "/v1/models")
    (True, False)
    """
    return method == "POST" and path.rstrip("/").endswith(("/completions", *_OLLAMA))


def texts_of(exchange: Exchange) -> list[Said]:
    """The chats of an exchange, or the texts of a completion: prompt and answer, one for each choice.

    Raises UnreadableExchangeError.
    """
    request = _object(exchange.request, "the request is no JSON object")
    path, answer = exchange.path.rstrip("/"), _decoded(exchange)
    choices = _lines_choice(answer) if path.endswith(_OLLAMA) else _choices(answer)
    if not choices:
        raise UnreadableExchangeError("the answer has no choices")
    if path.endswith(("/chat/completions", "/api/chat")):
        chat = chat_of(request)
        if chat is None:
            raise UnreadableExchangeError("the request has no messages")
        return [chat.answered(choice.message()) for choice in choices]
    if path.endswith("/api/generate"):
        return [_generated(request, choices[0])]
    prompts = _prompts(request.get("prompt"))
    if not prompts or len(choices) % len(prompts):
        raise UnreadableExchangeError("the prompt is no text, nor tokens")
    each = len(choices) // len(prompts)  # answers to one prompt stand together
    return [_continued(prompts[place // each], choice.content) for place, choice in enumerate(choices)]


def _prompts(given: object) -> list[str | tuple[int, ...]]:
    """The prompts of a completion: a text, tokens, or a list of either."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        return []
    if given and all(type(token) is int for token in given):
        return [tuple(given)]
    found = [_prompts(each) for each in given]
    return [prompts[0] for prompts in found] if all(len(prompts) == 1 for prompts in found) else []


def _continued(prompt: str | tuple[int, ...], answer: str) -> Said:
    return prompt + answer if isinstance(prompt, str) else Continued(prompt, answer)


def _generated(request: Mapping[str, Any], choice: "_Choice") -> Said:
    """What Ollama made of one prompt: a chat with one turn, if it was not to be taken as it is."""
    prompt = _text(request, "prompt")
    if request.get("raw") is True:
        return prompt + choice.content
    if request.get("suffix") or request.get("template") or request.get("context"):
        raise UnreadableExchangeError("the prompt has a suffix, template or context of its own")
    system = _text(request, "system")
    turns = ({"role": "system", "content": system},) if system else ()
    return Chat((*turns, {"role": "user", "content": prompt}, choice.message()))


@dataclass(slots=True)
class _Choice:
    """One of the answers to a request, put together from its parts."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, part: Mapping[str, Any]) -> None:
        """Add the message of a whole answer, or the delta of an event."""
        self.content += _text(part, "content")
        self.reasoning += _text(part, "reasoning_content") or _text(part, "reasoning") or _text(part, "thinking")
        for place, call in enumerate(part.get("tool_calls") or ()):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                if isinstance(function.get("arguments"), dict):  # Ollama's calls are whole, and have no number
                    self.calls[len(self.calls)] = {"type": "function", **call}
                    continue
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


def _lines_choice(answer: bytes) -> list[_Choice]:
    """The answer in Ollama's lines of JSON, if there is any."""
    choice, found = _Choice(), False
    for line in answer.decode("utf-8", "replace").split("\n"):
        try:
            part = json.loads(line) if line.strip() else None
        except _DAMAGED:
            break  # cut off within this line
        if isinstance(part, dict) and ("message" in part or "response" in part):
            message = part.get("message")
            given = {"content": part.get("response"), "thinking": part.get("thinking")}
            choice.add(message if isinstance(message, dict) else given)
            found = True
    return [choice] if found else []


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
            except _DAMAGED:
                return  # cut off within this event
            if isinstance(event, dict):
                yield event


def _object(data: bytes, otherwise: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except _DAMAGED:
        found = None
    if not isinstance(found, dict):
        raise UnreadableExchangeError(otherwise)
    return found
