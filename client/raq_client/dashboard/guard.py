"""Who may ask: the only layer between the network and the pages.

- The host must be one that the dashboard was started for: a page of another name that points here is refused.
- Everything but the style and scripts needs the token of this start, as cookie or header. The printed address carries
  it once; the cookie is sent to this site only, and scripts can't read it.
- A write (POST) needs the token as a header, which only our own pages can send, an `Origin` of ours if there is one,
  and JSON. So a form or script of another site can do nothing, even in a browser that has the cookie.
- Answers name no other source for anything (Content-Security-Policy), and may not be framed.
"""

import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raq_client.dashboard.refusal import Refusal

LARGEST_BODY: Final = 2**20
"""Bytes of the largest request."""
TOKEN_HEADER: Final = "x-raq-token"  # noqa: S105  # a name
OPEN_PATHS: Final = "/static/"
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Guard:
    """An ASGI application around another. `hosts` are the allowed values of Host, with port, in lower case."""

    app: ASGIApp
    token: str
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, _with_headers(send))
            return
        await self.app(scope, _limited(receive), _with_headers(send))

    def _refused(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self.hosts:
            return PlainTextResponse("this host name is not served here", 403)
        if method not in {"GET", "HEAD", "POST"}:
            return PlainTextResponse("method not allowed", 405)
        return self._refused_write(headers) if method == "POST" else self._refused_read(headers, scope)

    def _refused_read(self, headers: Headers, scope: Scope) -> Response | None:
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._is_token(asked):
            return self._welcome(scope)
        given = headers.get(TOKEN_HEADER, ""), self._cookie(headers)
        if scope["path"].startswith(OPEN_PATHS) or any(map(self._is_token, given)):
            return None
        what = "Open the address that raq dashboard printed when it started: it carries this start's token."
        return PlainTextResponse(what, 403)

    def _refused_write(self, headers: Headers) -> Response | None:
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self.hosts}:
            return PlainTextResponse("requests of other sites are refused", 403)
        if not self._is_token(headers.get(TOKEN_HEADER, "")):
            return PlainTextResponse("the token is missing or that of another start: reload the page", 403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return PlainTextResponse("send application/json", 415)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return PlainTextResponse(f"at most {LARGEST_BODY:,} bytes", 413, {"connection": "close"})
        return None

    def _welcome(self, scope: Scope) -> Response:
        """Keep the token as a cookie, and show the page by its address without it."""
        response = RedirectResponse(scope["path"] or "/", 303)
        response.set_cookie(self._cookie_name(Headers(scope=scope)), self.token, httponly=True, samesite="strict")
        return response

    def _cookie_name(self, headers: Headers) -> str:
        # Cookies know no ports: two dashboards on one machine must not overwrite each other's.
        return f"raq-{headers['host'].rpartition(':')[2]}"

    def _cookie(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name(headers))
        except CookieError:
            return ""
        return "" if found is None else found.value

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _limited(receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            raise Refusal(f"at most {LARGEST_BODY:,} bytes", 413)
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
