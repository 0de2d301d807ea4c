"""One stream of server-sent events for every open page."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from raq_client.dashboard.refusal import Refusal

MOST_PAGES: Final = 64
"""Pages that can listen at once."""
_WAITING: Final = 256
"""Messages that a page may be behind before its stream is cut; it connects again and asks for everything."""
_SECONDS_BETWEEN_SIGNS: Final = 15.0


class Hub:
    """Hands messages to the pages that listen."""

    def __init__(self) -> None:
        self._pages: set[asyncio.Queue[str | None]] = set()
        self.is_closed = False

    def publish(self, event: str, value: Any) -> None:
        """Send a message to every page; must be called in the event loop's thread."""
        text = f"event: {event}\ndata: {json.dumps(value, allow_nan=False)}\n\n"
        for page in list(self._pages):
            if page.full():
                self._pages.discard(page)
                page.get_nowait()  # makes room for the end of the stream
                page.put_nowait(None)
            else:
                page.put_nowait(text)

    def close(self) -> None:
        """End all streams, and refuse new ones."""
        self.is_closed = True
        for page in self._pages:
            if page.full():
                page.get_nowait()
            page.put_nowait(None)
        self._pages.clear()

    def listen(self) -> AsyncIterator[str]:
        """The messages from now on, and a sign of life in between. Raises Refusal if too many pages listen."""
        if self.is_closed or len(self._pages) >= MOST_PAGES:
            raise Refusal(f"{len(self._pages)} pages are listening already; close some", 503)
        page: asyncio.Queue[str | None] = asyncio.Queue(_WAITING)
        self._pages.add(page)
        return self._messages(page)

    async def _messages(self, page: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            yield "retry: 1000\nevent: hello\ndata: {}\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(page.get(), _SECONDS_BETWEEN_SIGNS)
                except TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._pages.discard(page)
