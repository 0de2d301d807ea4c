"""The chat template in a model file, and chats rendered by it.

Rules
- The text is what llama-server's /apply-template gives for the same request (tests compare them), followed by the
  answer where the chat has one.
- A turn is given to the template as runtimes do: content as one text, arguments of a tool call as an object (as text to
  templates that can't take one), reasoning as `reasoning_content` (`thinking` to templates that read that).
- Where a template knows no reasoning, that of the last answer stands in <think> tags before its content: the model
  wrote it all the same. Of earlier turns it is left out, as llama-server does.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Template, TemplateError

from raq_client.engine.tokenizer import Tokenizer, vocabulary_of
from raq_client.models.model_file import ModelFile, open_model
from raq_client.prompts.chats import Chat, Message, plain_content, reasoning_of
from raq_client.prompts.environment import chat_environment
from raq_solver.errors import Fault, InvalidInput

KEY: Final = "tokenizer.chat_template"
_FOR_TOOLS: Final = f"{KEY}.tool_use"
_THINKING: Final = re.compile(r"\.thinking\b|\[['\"]thinking['\"]\]")
_ERRORS: Final = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError)
"""What a template may raise: it is a program that somebody wrote for messages of another form."""


def local_time() -> datetime:
    """The time now, on the clock of this machine's zone."""
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of a vocabulary: the begin and end tokens, and whether texts are given the begin token at their start."""

    begin: str
    end: str
    adds_begin: bool


class ChatTemplate:
    """A template and the words of its vocabulary; `where` names the model in errors.

    `for_tools` is the template for chats with tools, where a model has one of its own.
    Raises InvalidInput if the template is not Jinja.
    """

    def __init__(
        self,
        source: str,
        words: Words,
        where: str,
        now: Callable[[], datetime] = local_time,
        for_tools: str = "",
    ) -> None:
        self.source, self.words, self._where = source, words, where
        environment = chat_environment(now)
        try:
            self._template: Template = environment.from_string(source)
            self._tool_template = environment.from_string(for_tools) if for_tools else self._template
        except TemplateError as error:
            raise InvalidInput(Fault(where, f"its chat template is not Jinja: {error}")) from error
        self._reasoning_key = "thinking" if _THINKING.search(source) and "reasoning_content" not in source else None
        if "reasoning_content" in source:
            self._reasoning_key = "reasoning_content"
        self._object_arguments = self._takes_objects()

    def render(self, chat: Chat, where: str | None = None) -> str:
        """The text of a chat, its begin token left out if the tokenizer adds one; ends where an open answer begins.

        Raises InvalidInput, naming `where` the chat is from, if the template can't render it or refuses it.
        """
        try:
            text = self._run(chat)
        except _ERRORS as error:
            what = f"the chat template of {self._where} can't render it: {str(error) or type(error).__name__}"
            raise InvalidInput(Fault(where or "chat", what)) from error
        # Tokenizing adds the begin token; llama-server leaves it out of the text likewise, or there would be two.
        return text.removeprefix(self.words.begin) if self.words.adds_begin else text

    def corpus(self, records: Sequence[Chat | str], where: str) -> str:
        """The records as one text, tokenized with special tokens: each begins as it would alone.

        Raises InvalidInput for the first record that can't be rendered.
        """
        numbered = enumerate(records, start=1)
        return self.join(
            record if isinstance(record, str) else self.render(record, f"{where}, record {number}")
            for number, record in numbered
        )

    def join(self, texts: Iterable[str]) -> str:
        """Rendered texts as one: the begin token stands between them, the tokenizer itself begins the first."""
        return (self.words.begin if self.words.adds_begin else "").join(texts)

    def _run(self, chat: Chat) -> str:
        last = len(chat.messages) - 1
        return (self._tool_template if chat.tools else self._template).render(
            messages=[self._turn(turn, is_last=n == last) for n, turn in enumerate(chat.messages)],
            add_generation_prompt=chat.is_open,
            bos_token=self.words.begin,
            eos_token=self.words.end,
            **({"tools": list(chat.tools)} if chat.tools else {}),  # undefined without, as llama-server has it
            **chat.variables,
        )

    def _turn(self, message: Message, *, is_last: bool) -> dict[str, Any]:
        """A turn as the template is to have it."""
        turn = {key: value for key, value in message.items() if key not in {"reasoning", "reasoning_content"}}
        turn["content"] = plain_content(message)
        if reasoning := reasoning_of(message):
            if self._reasoning_key is not None:
                turn[self._reasoning_key] = reasoning
            elif is_last:
                turn["content"] = f"<think>\n{reasoning}\n</think>\n\n{turn['content']}"
        calls = turn.pop("tool_calls", None)
        if isinstance(calls, list) and calls:
            turn["tool_calls"] = [self._call(call) for call in calls if isinstance(call, dict)]
        return turn

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(call.get("function", call))
        arguments = function.get("arguments", {})
        if isinstance(arguments, str) and self._object_arguments:
            with suppress(json.JSONDecodeError):  # a model may have written something else: as it stands
                arguments = json.loads(arguments)
        elif not isinstance(arguments, str) and not self._object_arguments:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function["arguments"] = arguments
        return {"type": "function", **call, "function": function}

    def _takes_objects(self) -> bool:
        """Whether tool calls may have an object as arguments: a template made for text fails, or prints Python's."""
        self._object_arguments = True
        call = {"id": "call_1", "type": "function", "function": {"name": "probe", "arguments": {"key": "value"}}}
        asked = {"role": "user", "content": "probe"}
        try:
            text = self._run(Chat((asked, {"role": "assistant", "content": "", "tool_calls": [call]})))
        except _ERRORS:
            return False
        return "{'key'" not in text


def read_template(
    model: Path | str, library: Path | str | None = None, now: Callable[[], datetime] = local_time
) -> ChatTemplate | None:
    """The chat template in a model file; None if there is none.

    Raises InvalidInput if the file is no model, or its template not Jinja.
    """
    file = open_model(model)
    source, for_tools = (_text(file, key) for key in (KEY, _FOR_TOOLS))
    if not source:
        return None
    with vocabulary_of(file.shards[0], library) as vocabulary:
        return ChatTemplate(source, _words(file, vocabulary), str(model), now, for_tools)


def require_template(
    model: Path | str, library: Path | str | None = None, now: Callable[[], datetime] = local_time
) -> ChatTemplate:
    """The same; raises InvalidInput if the model has none."""
    found = read_template(model, library, now)
    if found is None:
        what = f"has no chat template ({KEY}); convert it again from a model that has one, or use plain text"
        raise InvalidInput(Fault(str(model), what))
    return found


def _text(file: ModelFile, key: str) -> str:
    found = file.value(key)
    return found if isinstance(found, str) else ""


def _words(file: ModelFile, vocabulary: Tokenizer) -> Words:
    begin, end = (_word(file, vocabulary, name) for name in ("bos", "eos"))
    return Words(begin, end, vocabulary.begin_token is not None)


def _word(file: ModelFile, vocabulary: Tokenizer, name: str) -> str:
    number = file.value(f"tokenizer.ggml.{name}_token_id")
    return vocabulary.text([number]) if isinstance(number, int) and number < vocabulary.size else ""
