"""OpenAI's API on the engine of this process: chats and completions, one answer at a time; an ASGI application.

Rules
- Greedy unless the request has a `temperature` above 0; then `top_p` and `seed` are followed. What else would change an
  answer (`n`, `logprobs`, `response_format`) is refused, not ignored; unknown keys are ignored, as OpenAI's servers do.
- Answers wait for their turn, at most MOST_WAITING of them; further requests get 503.
- A client that leaves ends its answer. What was written so far is observed like a whole answer.
- Bodies must be JSON by their content type: a page of another site can't send that without being asked first.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from anyio import CancelScope, to_thread
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from raq_client.capture.exchange import Exchange
from raq_client.engine.generate import Answer, Generator, drawn, most_probable
from raq_client.prompts.chats import chat_of
from raq_client.prompts.template import ChatTemplate
from raq_solver.errors import InvalidInput

MOST_WAITING: Final = 32
"""Requests that may wait for the one before them."""
MOST_BYTES: Final = 32 << 20
"""Bytes of a request."""
_CHAT: Final = "/v1/chat/completions"


class _Format(BaseModel):
    type: Literal["text"] = "text"


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Asked(BaseModel):
    """What a request may say about its answer."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: _Format | None = None
    echo: Literal[False] | None = None
    prompt: str | list[Annotated[int, Field(ge=0)]] | None = None


class _RefusedError(Exception):
    """A request that gets no answer: the status, and one sentence."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return JSONResponse({"error": {"message": str(self), "type": kind, "code": self.status}}, self.status)


class Endpoint:
    """Answers by `generator`, whose model is shown as `name`; `observe` gets each exchange after its answer."""

    def __init__(
        self, name: str, generator: Generator, template: ChatTemplate, observe: Callable[[Exchange], None]
    ) -> None:
        self._name, self._generator, self._template, self._observe = name, generator, template, observe
        self._turn, self._waiting = asyncio.Lock(), 0
        self._app = Starlette(
            routes=[
                Route(_CHAT, self._completions, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", lambda _: JSONResponse({"status": "ok"})),
            ]
        )
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.requests += 1
        await self._app(scope, receive, send)

    async def close(self) -> None:
        """Nothing is open between requests."""

    async def _models(self, _request: Request) -> Response:
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "raq"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _completions(self, request: Request) -> Response:
        try:
            self._make_sure_of_room()
            body = await _body(request)
            asked, record = _read(body)
            answer, size = self._begun(request.url.path == _CHAT, asked, record)
            self._make_sure_of_room()  # others came while the body did
        except _RefusedError as refused:
            return refused.response()
        except ClientDisconnect:
            return Response(status_code=400)
        form = _Form(request.url.path == _CHAT, self._name)
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            events = self._streamed(request.url.path, body, answer, form, size if usage else None)
            return _Streaming(events, self._turn.release)
        try:
            return await self._whole(request, body, answer, form, size)
        finally:
            self._turn.release()

    def _make_sure_of_room(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise _RefusedError(503, f"{MOST_WAITING} requests are waiting already; try again later")

    def _begun(self, is_chat: bool, asked: _Asked, record: Mapping[str, Any]) -> tuple[Answer, int]:  # noqa: FBT001
        """The answer to a request, and the number of tokens of its prompt. Raises _RefusedError."""
        try:
            prompt = self._prompt(is_chat, asked, record)
            most = asked.max_completion_tokens or asked.max_tokens or self._generator.length - len(prompt)
            stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
            choose = drawn(asked.temperature, asked.top_p or 1.0, asked.seed) if asked.temperature else most_probable
            if not len(prompt) or most < 1:
                what = "is empty" if most > 0 else f"fills the context of {self._generator.length} tokens"
                raise _RefusedError(400, f"the prompt {what}")
            return self._generator.begin(prompt, most=most, stops=stops, choose=choose), len(prompt)
        except InvalidInput as error:
            raise _RefusedError(400, "; ".join(fault.what for fault in error.faults)) from error

    def _prompt(self, is_chat: bool, asked: _Asked, record: Mapping[str, Any]) -> np.ndarray:  # noqa: FBT001
        if is_chat:
            chat = chat_of(record)
            if chat is None:
                raise _RefusedError(400, "messages: must be a list of turns, each with a role")
            if not chat.is_open:
                raise _RefusedError(400, "messages: the last turn must not be the assistant's")
            return self._generator.tokenize(self._template.render(chat), special=True)
        if asked.prompt is None:
            raise _RefusedError(400, "prompt: must be one text, or the tokens of one")
        if isinstance(asked.prompt, str):
            return self._generator.tokenize(asked.prompt, special=True)
        if any(token >= self._generator.vocabulary for token in asked.prompt):
            raise _RefusedError(400, f"prompt: has tokens that are none of the {self._generator.vocabulary}")
        return np.array(asked.prompt, np.int32)

    async def _whole(self, request: Request, body: bytes, answer: Answer, form: "_Form", size: int) -> Response:
        text = ""
        try:
            async for part in _parts(answer):
                text += part
                if await request.is_disconnected():
                    break
        except InvalidInput as error:
            return _RefusedError(500, "; ".join(fault.what for fault in error.faults)).response()
        response = JSONResponse(form.whole(text, answer, size))
        self._observe(Exchange(request.url.path, body, bytes(response.body)))
        return response

    async def _streamed(
        self, path: str, body: bytes, answer: Answer, form: "_Form", size: int | None
    ) -> AsyncGenerator[bytes]:
        """The events of an answer; with the number of the prompt's tokens, one with the usage too."""
        sent = [form.event({"role": "assistant", "content": ""})] if form.is_chat else []
        try:
            for event in sent:
                yield event
            async for part in _parts(answer):
                sent.append(form.event({"content": part}))
                yield sent[-1]
            yield form.event({}, "length" if answer.is_cut else "stop")
            if size is not None:
                yield form.usage(answer, size)
            yield b"data: [DONE]\n\n"
        except InvalidInput as error:
            what = {"error": {"message": "; ".join(fault.what for fault in error.faults), "type": "server_error"}}
            yield f"data: {json.dumps(what)}\n\n".encode()
        finally:
            self._observe(Exchange(path, body, b"".join(sent)))


class _Streaming(StreamingResponse):
    """An answer as events; its turn ends with it, also where the client leaves."""

    def __init__(self, events: AsyncGenerator[bytes], release: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events, self._release = events, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):  # a client that has left cancels this
                await self._events.aclose()
            self._release()


class _Form:
    """How answers look: those of a chat, or of a completion."""

    def __init__(self, is_chat: bool, model: str) -> None:  # noqa: FBT001
        self.is_chat = is_chat
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._rest = {"created": int(time.time()), "model": model}

    def whole(self, text: str, answer: Answer, size: int) -> dict[str, Any]:
        """An answer at once."""
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length" if answer.is_cut else "stop"}
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {"id": self._id, "object": kind, **self._rest, "choices": [choice], "usage": _usage(answer, size)}

    def event(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        """A part of an answer."""
        said = {"delta": delta} if self.is_chat else {"text": delta.get("content", "")}
        return self._event([{"index": 0, **said, "logprobs": None, "finish_reason": reason}])

    def usage(self, answer: Answer, size: int) -> bytes:
        """The last event where the request asked for it."""
        return self._event([], usage=_usage(answer, size))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        data = {"id": self._id, "object": kind, **self._rest, "choices": choices, **more}
        return f"data: {json.dumps(data)}\n\n".encode()


def _usage(answer: Answer, size: int) -> dict[str, int]:
    return {"prompt_tokens": size, "completion_tokens": answer.count, "total_tokens": size + answer.count}


async def _parts(answer: Answer) -> AsyncIterator[str]:
    """The parts of an answer, each made in a thread: other requests are read meanwhile."""
    parts: Iterator[str] = iter(answer)
    while (part := await to_thread.run_sync(next, parts, None)) is not None:
        yield part


async def _body(request: Request) -> bytes:
    """The body of a request. Raises _RefusedError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "the body must be JSON, with the header Content-Type: application/json")
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            raise _RefusedError(413, f"the request has more than {MOST_BYTES >> 20} MiB")
    return bytes(found)


def _read(body: bytes) -> tuple[_Asked, Mapping[str, Any]]:
    """A request. Raises _RefusedError, naming the keys that are not as they must be."""
    try:
        record = json.loads(body)
        if not isinstance(record, dict):
            raise _RefusedError(400, "the request must be a JSON object")
        return _Asked.model_validate(record), record
    except ValidationError as error:
        faults = (f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors())
        raise _RefusedError(400, "; ".join(faults)) from None
    except (ValueError, RecursionError):
        raise _RefusedError(400, "the request is no JSON") from None
