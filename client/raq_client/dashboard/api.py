"""The JSON under the pages: questions, jobs, saving. What a command answered is passed on as it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from raq_client.dashboard import runner, saving
from raq_client.dashboard.ask import Asker
from raq_client.dashboard.catalogue import Catalogue, read_json
from raq_client.dashboard.commands import Command, command_for, question
from raq_client.dashboard.folder import Folder
from raq_client.dashboard.hub import Hub
from raq_client.dashboard.queue import Queue, shown
from raq_client.dashboard.recipes import checked, new_text, recipe_command, recipe_text, require_inside, written
from raq_client.dashboard.refusal import Refusal

LARGEST_PROFILE: Final = 256 * 2**20
LARGEST_RESULT: Final = 64 * 2**20
PAGE_OF_JOBS: Final = 30


@dataclass(frozen=True)
class Api:
    """The parts that answer."""

    folder: Folder
    asker: Asker
    catalogue: Catalogue
    queue: Queue
    hub: Hub

    def routes(self) -> list[Route]:
        """The paths and what answers them."""
        gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "folder": self.listing,
            "model": self.model,
            "profile": self.profile,
            "importance": self.importance,
            "paths": self.paths,
            "ratio": self.ratio,
            "manifests": self.manifests,
            "schema": self.schema,
            "bases": self.bases,
            "settings": self.settings,
            "jobs": self.jobs,
            "jobs/{number:int}/log": self.log,
            "jobs/{number:int}/result": self.result,
        }
        posts: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "frontier": self.frontier,
            "plan": self.plan,
            "presets": self.presets,
            "audit": self.audit,
            "card": self.card,
            "preflight": self.preflight,
            "save": self.save,
            "recipe": self.save_recipe,
            "jobs": self.add,
            "jobs/cancel": self.cancel,
            "jobs/retry": self.retry,
            "jobs/move": self.move,
        }
        return [
            *(Route(f"/api/{path}", answer, methods=["GET"]) for path, answer in gets.items()),
            *(Route(f"/api/{path}", _posted(answer), methods=["POST"]) for path, answer in posts.items()),
            Route("/events", self.events, methods=["GET"]),
        ]

    async def listing(self, _request: Request) -> Response:
        """The files of the folder."""
        return JSONResponse(await self.catalogue.listing())

    async def model(self, request: Request) -> Response:
        """A model: `inspect --tensors --json`."""
        name, path = self._file(request, "file")
        found = (await self.asker.ask(["inspect", name, "--tensors", "--json"], [path])).unwrap()[0]
        if "error" in found:
            raise Refusal(found["error"])
        return JSONResponse(found)

    async def profile(self, request: Request) -> Response:
        """A profile, as `profile` wrote it."""
        name, path = self._file(request, "file")
        found = await asyncio.to_thread(read_json, path, LARGEST_PROFILE)
        if not isinstance(found, dict) or found.get("format") != "raq-profile-1":
            raise Refusal(f"{name}: is not a profile")
        return JSONResponse(found)

    async def importance(self, request: Request) -> Response:
        """An importance file: `imatrix show --json`."""
        name, path = self._file(request, "file")
        return JSONResponse((await self.asker.ask(["imatrix", "show", name, "--json"], [path])).unwrap())

    async def paths(self, request: Request) -> Response:
        """Blocks by experts or roles: `imatrix paths --json`; with `against` how they differ from another file's."""
        name, path = self._file(request, "file")
        options, reads = [], [path]
        if request.query_params.get("against"):
            other, its_path = self._file(request, "against")
            options, reads = ["--contrast", other], [path, its_path]
        return JSONResponse((await self.asker.ask(["imatrix", "paths", name, *options, "--json"], reads)).unwrap())

    async def ratio(self, request: Request) -> Response:
        """Two importance files: `imatrix ratio --json`; with further `domain-part` and `general-part`, intervals."""
        (domain, one), (general, other) = self._file(request, "domain"), self._file(request, "general")
        arguments, reads = ["imatrix", "ratio", domain, general], [one, other]
        for part in ("domain-part", "general-part"):
            for name in request.query_params.getlist(part):
                arguments += [f"--{part}", name]
                reads.append(self.folder.existing(name))
        return JSONResponse((await self.asker.ask([*arguments, "--json"], reads)).unwrap())

    async def manifests(self, _request: Request) -> Response:
        """What the manifests of the folder say."""
        return JSONResponse(await asyncio.to_thread(self.catalogue.manifests))

    async def jobs(self, request: Request) -> Response:
        """Unfinished jobs in order, and a page of the finished ones; `before` a number asks for older ones."""
        before = request.query_params.get("before", "")
        done = self.queue.jobs.finished(PAGE_OF_JOBS + 1, int(before) if before.isdecimal() else None)
        return JSONResponse(
            {
                "unfinished": [self.queue.view(job) for job in self.queue.jobs.unfinished()],
                "finished": [self.queue.view(job) for job in done[:PAGE_OF_JOBS]],
                "more": len(done) > PAGE_OF_JOBS,
            }
        )

    async def log(self, request: Request) -> Response:
        """The whole log of a job, to download."""
        number = request.path_params["number"]
        path = self.queue.folder_of(number) / runner.EVENTS
        if not path.is_file():
            raise Refusal(f"job {number} has no log yet", 404)
        return FileResponse(path, media_type="text/plain; charset=utf-8", filename=f"raq-job-{number}.jsonl")

    async def result(self, request: Request) -> Response:
        """What a job's command printed, its `--json`."""
        number = request.path_params["number"]
        path = self.queue.folder_of(number) / runner.RESULT
        if not path.is_file() or not path.stat().st_size:
            raise Refusal(f"job {number} has printed nothing", 404)
        return JSONResponse(await asyncio.to_thread(read_json, path, LARGEST_RESULT))

    async def events(self, _request: Request) -> Response:
        """The stream of changes."""
        return StreamingResponse(self.hub.listen(), media_type="text/event-stream")

    async def frontier(self, fields: Mapping[str, Any]) -> Any:
        """The frontier under the constraints of the page: `sweep --with-table --json`."""
        span = [
            _word(fields, "from", "1"),
            "--to",
            _word(fields, "to", "9"),
            "--points",
            _word(fields, "points", "161"),
        ]
        without = {name: value for name, value in fields.items() if name != "budget"}
        return await self._asked(question(["sweep", "--from", *span, "--with-table"], without, self.folder))

    async def plan(self, fields: Mapping[str, Any]) -> Any:
        """The plan for a budget under the constraints of the page: `solve --json`."""
        return await self._asked(question(["solve"], fields, self.folder))

    async def presets(self, fields: Mapping[str, Any]) -> Any:
        """Budgets with a name, with their memory at a context: `suggest --presets --json`."""
        without = {name: value for name, value in fields.items() if name != "budget"}
        return await self._asked(question(["suggest", "--presets"], without, self.folder))

    async def audit(self, fields: Mapping[str, Any]) -> Any:
        """How far a file is from the best of its size: `audit FILE --json`."""
        name = _word(fields, "file", "")
        self.folder.existing(name)
        asked = question(["audit", name], {"profile": fields.get("profile", "")}, self.folder)
        return await self._asked(Command(asked.arguments, (*asked.reads, name)))

    async def card(self, fields: Mapping[str, Any]) -> Any:
        """The model card of a manifest's files, as `card` writes it; nothing is kept."""
        name, repository = _word(fields, "manifest", ""), _word(fields, "base_model", "")
        path = self.folder.existing(name).with_name("README.md")
        named = ["--base-model", repository] if repository else []
        text = await written(self.folder, self.asker, path, lambda trial: ["card", name, *named, "-o", trial])
        return {"text": text}

    async def preflight(self, fields: Mapping[str, Any]) -> Any:
        """For each action of the page, its command and what stands in the way; nothing is started."""
        wanted = fields.get("actions", {})
        if not isinstance(wanted, dict):
            raise Refusal("actions: must be an object")
        found = {}
        for action, given in wanted.items():
            command = self._checked(action, given if isinstance(given, dict) else {})
            found[action] = {
                "command": shown(command.arguments),
                "reasons": command.reasons,
                "writes": command.writes,
            }
        return found

    async def save(self, fields: Mapping[str, Any]) -> Any:
        """Save a plan. Without `replace` a file that is there is not touched, and the difference is shown."""
        name = _word(fields, "name", saving.SETTINGS)
        given = fields.get("fields", {})
        if not isinstance(given, dict):
            raise Refusal("fields: must be an object")
        asked = question(
            ["solve"], {key: value for key, value in given.items() if key in (*saving.KEYS, "profile")}, self.folder
        )
        plan = await self._asked(asked)  # the mistakes of the fields are errors now, in the command's words
        before = saving.read_text(self.folder, name)
        if name == saving.SETTINGS:
            after = saving.settings_text(before, {key: value for key, value in given.items() if key != "profile"})
        elif name.endswith(".plan.json"):
            after = saving.plan_text(plan)
        else:
            raise Refusal(f"{name}: name it {saving.SETTINGS}, or with the ending .plan.json")
        changes = saving.difference(before, after, name)
        saved = fields.get("replace") is True or not before
        if saved:
            saving.write(self.folder, name, after, replace=True)
            self.hub.publish("folder", {})
        return {"name": name, "saved": saved, "difference": changes, "plan": plan}

    async def save_recipe(self, fields: Mapping[str, Any]) -> Any:
        """Save a recipe, once raq reads it; a new one has the comments of `recipe new`.

        Without `replace` one that is there is not touched, and `difference` shows what would change.
        """
        name, data = _word(fields, "name", ""), fields.get("data", {})
        if not isinstance(data, dict):
            raise Refusal("data: must be an object")
        require_inside(self.folder, name, data)
        before = saving.read_text(self.folder, name)
        start = before or await new_text(self.folder, self.asker, name, data)
        after = recipe_text(name, start, data)
        await checked(self.folder, self.asker, name, after)
        changes = saving.difference(before, after, name)
        saved = fields.get("replace") is True or not before
        if saved:
            saving.write(self.folder, name, after, replace=True)
            self.hub.publish("folder", {})
        return {"name": name, "saved": saved, "difference": changes}

    async def schema(self, _request: Request) -> Response:
        """The schema of recipes: `recipe schema`."""
        return JSONResponse((await self.asker.ask(["recipe", "schema"])).unwrap())

    async def bases(self, _request: Request) -> Response:
        """What a recipe can start from, besides those of the folder: `recipe list --json`."""
        return JSONResponse((await self.asker.ask(["recipe", "list", "--json"])).unwrap())

    async def settings(self, _request: Request) -> Response:
        """The constraints that raq.toml of the folder adds where a page gives none of their kind."""
        return JSONResponse(saving.constraints_in(saving.read_text(self.folder, saving.SETTINGS)))

    async def add(self, fields: Mapping[str, Any]) -> Any:
        """Put a job into the queue."""
        action, given = _word(fields, "action", ""), fields.get("fields", {})
        command = self._checked(action, given if isinstance(given, dict) else {})
        if command.reasons:
            raise Refusal("; ".join(command.reasons), 409)
        return self.queue.view(self.queue.add(action, command.arguments, command.writes))

    async def cancel(self, fields: Mapping[str, Any]) -> Any:
        """End a job."""
        self.queue.cancel(_number(fields))
        return {}

    async def retry(self, fields: Mapping[str, Any]) -> Any:
        """Run a job's command again."""
        return self.queue.view(self.queue.retry(_number(fields)))

    async def move(self, fields: Mapping[str, Any]) -> Any:
        """Move a waiting job forward or back."""
        self.queue.move(_number(fields), -1 if fields.get("forward") is True else 1)
        return {}

    def _checked(self, action: str, fields: Mapping[str, Any]) -> Command:
        """The command of an action, with the reasons that lie in the queue too."""
        if action == "recipe":
            named = _word(fields, "recipe", "")
            command = (
                recipe_command(self.folder, named, force=fields.get("force") is True)
                if named
                else Command(("recipe", "build", "--json"), reasons=("choose a recipe",))
            )
        else:
            command = command_for(action, fields, self.folder)
        busy = {name: job.id for job in self.queue.jobs.unfinished() for name in job.output}
        taken = tuple(f"{name}: job {busy[name]} writes it" for name in command.writes if name in busy)
        return Command(command.arguments, command.reads, command.writes, (*command.reasons, *taken))

    async def _asked(self, command: Command) -> Any:
        paths = [self.folder.path(name) for name in command.reads]
        return (await self.asker.ask(command.arguments, paths)).unwrap()

    def _file(self, request: Request, parameter: str) -> tuple[str, Any]:
        name = request.query_params.get(parameter, "")
        return name, self.folder.existing(name)


def _posted(answer: Callable[[Mapping[str, Any]], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        try:
            fields = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise Refusal("the request is not JSON") from None
        if not isinstance(fields, dict):
            raise Refusal("the request must be a JSON object")
        return JSONResponse(await answer(fields))

    return answered


def _word(fields: Mapping[str, Any], name: str, default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str | int | float) or isinstance(value, bool) or str(value).startswith("-"):
        raise Refusal(f"{name}: must be a text")
    return str(value)


def _number(fields: Mapping[str, Any]) -> int:
    value = fields.get("id")
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refusal("id: must be the number of a job")
    return value
