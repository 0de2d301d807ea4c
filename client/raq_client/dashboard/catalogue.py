"""What is in the folder, as the pages show it: models, importance, recipes, manifests, each with its errors."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from raq_client.dashboard.ask import Asker
from raq_client.dashboard.folder import File, Folder
from raq_client.dashboard.jobs import Jobs
from raq_client.dashboard.refusal import Refusal

LARGEST_MANIFEST: Final = 32 * 2**20
_FACTS: Final = ("name", "architecture", "tensor_bytes", "weights", "bits_per_weight", "blocks", "experts", "context")


class Catalogue:
    """The files of a folder with what raq says about them. What is known of a file is kept until it changes."""

    def __init__(self, folder: Folder, asker: Asker, jobs: Jobs) -> None:
        self._folder, self._asker, self._jobs = folder, asker, jobs
        self._known: dict[tuple[str, int, float], dict[str, Any]] = {}
        self._reading = asyncio.Lock()

    async def listing(self) -> list[dict[str, Any]]:
        """Every file: name, kind, bytes, time of change, and the facts of models; an `error` where it can't be read."""
        async with self._reading:
            files = await asyncio.to_thread(self._folder.files)
            await self._inspect([each for each in files if each.kind == "gguf" and _key(each) not in self._known])
            for each in files:
                if each.kind == "recipe" and _key(each) not in self._known:
                    self._known[_key(each)] = await self.recipe(each.name)
            self._known = {key: value for key, value in self._known.items() if key in {_key(each) for each in files}}
        return [
            {"file": each.name, "kind": each.kind, "bytes": each.size, "changed": each.changed}
            | self._known.get(_key(each), {})
            for each in files
        ]

    async def recipe(self, name: str) -> dict[str, Any]:
        """What a recipe states and would write; with the `error` of one that can't be read."""
        answer = await self._asker.ask(["recipe", "show", name, "--json"], [self._folder.path(name)])
        if not isinstance(answer.value, dict):
            return {"error": "\n".join(answer.errors) or f"{name}: not a recipe"}
        stated = answer.value.get("recipe", answer.value)
        known = {key: answer.value[key] for key in ("bytes", "bits_per_weight", "loss") if key in answer.value}
        facts = {key: stated.get(key) for key in ("name", "description")}
        missing = answer.value.get("unresolved", [])
        return facts | known | {"recipe": stated, "is_build": "output" in stated, "unresolved": missing}

    async def _inspect(self, files: Sequence[File]) -> None:
        """Ask what new GGUF files hold, all in one question."""
        if not files:
            return
        paths = [self._folder.path(each.name) for each in files]
        answer = await self._asker.ask(["inspect", *(each.name for each in files), "--json"], paths)
        for each, found in zip(files, answer.unwrap(), strict=True):
            facts = {name: found[name] for name in _FACTS if name in found}
            error = {"error": found["error"]} if "error" in found else {}
            self._known[_key(each)] = {"kind": found["kind"]} | facts | error

    def manifests(self) -> list[dict[str, Any]]:
        """What manifests say about the files that they name: command, size, check, and whether the hash still holds.

        `hash` is same, differs, missing, or unknown until `verify` has read the file.
        """
        found = []
        for each in self._folder.files():
            if each.kind != "manifest":
                continue
            try:
                content = read_json(self._folder.path(each.name), LARGEST_MANIFEST)
                found += [
                    self._output(each, content, name, digest) for name, digest in content.get("outputs", {}).items()
                ]
            except (Refusal, AttributeError, TypeError, KeyError) as error:
                found.append({"manifest": each.name, "error": f"{each.name}: not a manifest of raq ({error})"})
        return found

    def _output(self, manifest: File, content: dict[str, Any], name: str, written: Any) -> dict[str, Any]:
        # A manifest names its file as the command did, from wherever that ran: the file of that name is beside it.
        beside = str(Path(manifest.name).parent / Path(name).name).removeprefix("./")
        digest = written["sha256"] if isinstance(written, dict) else str(written)
        check = (content.get("check") or {}).get("overall", {})
        plan = content.get("plan") or {}
        return {
            "manifest": manifest.name,
            "file": beside,
            "sha256": digest,
            "hash": self._hash_state(beside, digest),
            "command": content.get("command", []),
            "changed": manifest.changed,
            "predicted_loss": plan.get("loss"),
            "loss_source": plan.get("loss_source"),
            "windows": check.get("windows"),
            "kl": check.get("kl"),
            "top1_agreement": check.get("top1_agreement"),
            "perplexity": check.get("perplexity"),
        }

    def _hash_state(self, name: str, digest: str) -> str:
        try:
            state = self._folder.existing(name).stat()
        except Refusal:
            return "missing"
        known = self._jobs.digest(name, state.st_size, state.st_mtime)
        return "unknown" if known is None else "same" if known == digest else "differs"

    def verify(self) -> bool:
        """Read the files whose hash is unknown; whether there were any. Takes as long as reading them."""
        names = {each["file"] for each in self.manifests() if each.get("hash") == "unknown"}
        for name in sorted(names):
            path = self._folder.existing(name)
            state = path.stat()
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._jobs.keep_digest(name, state.st_size, state.st_mtime, digest)
        return bool(names)


def read_json(path: Path, most: int) -> Any:
    """A JSON file of at most `most` bytes. Raises Refusal if it is larger or no JSON."""
    try:
        if path.stat().st_size > most:
            raise Refusal(f"{path.name}: is larger than {most:,} bytes")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{path.name}: can't be read: {error}") from None


def _key(file: File) -> tuple[str, int, float]:
    return file.name, file.size, file.changed
