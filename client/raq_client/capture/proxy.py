"""The observing reverse proxy: an ASGI application that forwards every request to one server and every answer back.

Rules
- Bodies are forwarded byte for byte, answers as they come. Of the headers only those of a connection change (RFC 9110,
  7.6.1) and Host; the rest keep their order and spelling.
- No time limit and no retry of its own: a slow server is the client's to wait for.
- Where the server can't be reached the client gets 502; where it breaks off, the client's connection breaks off too.
- `observe` gets an exchange after its answer has ended; a failure in there must not reach the client.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import httpx
from anyio import CancelScope
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from raq_client.capture.exchange import Exchange, is_counted

MOST_OBSERVED: Final = 32 << 20
"""Bytes of a request or an answer above which an exchange is forwarded, but not observed."""
_CONNECT_SECONDS: Final = 10.0
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_OK: Final = 200

Headers = list[tuple[bytes, bytes]]


class Proxy:
    """An ASGI application in front of `upstream`, the address of a server. Call `close` in the end."""

    def __init__(self, upstream: str, observe: Callable[[Exchange], None], trouble: Callable[[str], None]) -> None:
        self._upstream, self._observe, self._trouble = upstream.rstrip("/"), observe, trouble
        # A new connection for each request: one that is kept may be closed by the server just when it is used again.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            follow_redirects=False,
        )
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        assert scope["type"] == "http", "the server is run without lifespan and websockets"
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        response = await self._answer(request, body)
        await response(scope, receive, send)

    async def close(self) -> None:
        """Close what is open to the server."""
        await self._client.aclose()

    async def _answer(self, request: Request, body: bytes) -> Response:
        target = f"{self._upstream}{request.scope['raw_path'].decode('latin-1')}"
        query = request.scope["query_string"].decode("latin-1")
        sent = httpx.Request(
            request.method,
            f"{target}?{query}" if query else target,
            headers=_forwarded(request.headers.raw, also=(b"host",)),
            content=body or None,
        )
        try:
            answer = await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            what = f"{self._upstream} can't be reached: {str(error) or type(error).__name__}"
            self._trouble(what)
            return JSONResponse({"error": {"message": what, "type": "upstream_unreachable", "code": 502}}, 502)
        self.requests += 1
        response = StreamingResponse(self._passing(request, body, answer), answer.status_code)
        response.raw_headers = _forwarded(answer.headers.raw)
        return response

    async def _passing(self, request: Request, body: bytes, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The bytes of an answer as they come; they are observed in the end, also where it comes too soon."""
        watched = answer.status_code == _OK and is_counted(request.method, request.url.path)
        kept: list[bytes] = []
        size = len(body)
        try:
            async for part in answer.aiter_raw():
                size += len(part)
                if watched and size <= MOST_OBSERVED:
                    kept.append(part)
                yield part
        except httpx.HTTPError as error:
            self._trouble(f"{self._upstream} broke off an answer: {str(error) or type(error).__name__}")
            raise
        finally:
            if watched and size <= MOST_OBSERVED:
                encoding = answer.headers.get("content-encoding", "")
                self._observe(Exchange(request.url.path, body, b"".join(kept), encoding))
            with CancelScope(shield=True):  # a client that has left cancels this
                await answer.aclose()


def _forwarded(headers: Iterable[tuple[bytes, bytes]], also: tuple[bytes, ...] = ()) -> Headers:
    """The headers without those of the connection, and without those that it names."""
    listed = list(headers)
    named = {
        each.strip().lower() for name, value in listed if name.lower() == b"connection" for each in value.split(b",")
    }
    dropped = _OF_CONNECTIONS | named | set(also)
    return [(name, value) for name, value in listed if name.lower() not in dropped]
