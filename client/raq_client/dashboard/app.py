"""The dashboard as an ASGI application: pages, their JSON, static files, behind the guard."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from raq_client.dashboard.api import Api
from raq_client.dashboard.ask import Asker
from raq_client.dashboard.catalogue import Catalogue
from raq_client.dashboard.folder import STATE, Folder
from raq_client.dashboard.guard import Guard
from raq_client.dashboard.hub import Hub
from raq_client.dashboard.jobs import Jobs
from raq_client.dashboard.queue import Queue
from raq_client.dashboard.refusal import Refusal

PAGES: Final = ("model", "plan", "build", "compare")
STATIC: Final = Path(__file__).parent / "static"
SECONDS_BETWEEN_LOOKS: Final = 3.0
"""How often the folder is looked at for new files."""


def make_app(root: Path, token: str, hosts: Iterable[str]) -> tuple[Guard, Callable[[], None]]:
    """The application for a folder, and what ends its streams and questions, so that no open page keeps it.

    `hosts` are the values of the Host header that are answered, with port; `token` is what every request needs.
    """
    folder = Folder(root)
    state = folder.root / STATE
    state.mkdir(exist_ok=True)
    (state / ".gitignore").write_text("*\n")
    hub, jobs, asker = Hub(), Jobs(state / "jobs.sqlite"), Asker(folder.root)
    queue = Queue(folder.root, state, jobs, hub.publish)
    catalogue = Catalogue(folder, asker, jobs)
    api = Api(folder, asker, catalogue, queue, hub)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asker.warm()
        works = [asyncio.create_task(work) for work in (queue.run(), _watch(folder, catalogue, hub))]
        yield
        hub.close()
        for work in works:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
        await asker.close()

    def end() -> None:
        hub.close()
        asker.end()

    app = Starlette(
        routes=[
            Route("/", _first_page),
            *(Route(f"/{page}", _page(page, folder, token)) for page in PAGES),
            *api.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _http_error},
        lifespan=lifespan,
    )
    return Guard(app, token, frozenset(each.lower() for each in hosts)), end


async def _first_page(_request: Request) -> Response:
    return RedirectResponse("/model", 303)


async def _watch(folder: Folder, catalogue: Catalogue, hub: Hub) -> None:
    """Say when the folder has changed; read files whose hash is not known."""
    before: Any = None
    while True:
        now = await asyncio.to_thread(folder.files)
        if before is not None and now != before:
            hub.publish("folder", {})
        before = now
        with suppress(Refusal, OSError):  # a file went away while it was read: at the next look
            if await asyncio.to_thread(catalogue.verify):
                hub.publish("folder", {})
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


_TEMPLATES: Final = Environment(
    loader=PackageLoader("raq_client.dashboard"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _page(name: str, folder: Folder, token: str) -> Any:
    async def page(_request: Request) -> Response:
        template = _TEMPLATES.get_template(f"{name}.html")
        return HTMLResponse(template.render(page=name, pages=PAGES, folder=folder.root.name, token=token))

    return page


async def _refused(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refusal) else 500
    return JSONResponse({"error": str(error)}, status)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "error"
    return JSONResponse({"error": detail}, status)
