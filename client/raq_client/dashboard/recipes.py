"""Build recipes of the folder: written from a form, checked by raq itself before a file changes, built by the queue."""

import json
import re
import secrets
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from raq_client.dashboard import saving
from raq_client.dashboard.ask import Asker
from raq_client.dashboard.commands import Command
from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal

ENDINGS: Final = (".toml", ".json")


def recipe_text(name: str, before: str, data: Mapping[str, Any]) -> str:
    """The text of a recipe with exactly these keys; comments and order of a TOML file before are kept.

    Raises Refusal if the text before is no TOML, or a value has no place in a recipe.
    """
    if name.endswith(".json"):
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    try:
        document = tomlkit.parse(before)
        _become(document, data)
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError) as error:
        raise Refusal(f"{name}: can't be written as TOML: {error}") from None


def _become(table: Any, data: Mapping[str, Any]) -> None:
    """Change a table to these keys, leaving alone what is equal already."""
    for key in [key for key in table if key not in data]:
        del table[key]
    for key, value in data.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), Mapping):
            _become(table[key], value)
        elif key not in table or tomlkit.item(table[key]).unwrap() != value:
            table[key] = value


def require_inside(folder: Folder, name: str, data: Any) -> None:
    """Raise Refusal if any text of a recipe would be a path that leads out of the folder, as raq would read it."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key != "description":
                require_inside(folder, name, value)
    elif isinstance(data, list):
        for value in data:
            require_inside(folder, name, value)
    elif isinstance(data, str) and data:
        beside = PurePosixPath(name).parent / data
        folder.path(data if data.startswith(("/", "-")) else str(beside))


async def new_text(folder: Folder, asker: Asker, name: str, data: Mapping[str, Any]) -> str:
    """The text that `recipe new` writes for a file of this name, with a comment for every key; empty for JSON.

    Keys of `data` stand where their examples stood.

    Raises Refusal with raq's own sentence, as where the model is not there.
    """
    if not name.endswith(".toml"):
        return ""
    path, model = folder.path(name), data.get("model")
    given = ["--model", str(PurePosixPath(name).parent / model)] if isinstance(model, str) and model else []
    text = await written(folder, asker, path, lambda trial: ["recipe", "new", trial, *given])
    root, mark, tables = text.partition("\n[")
    for key in [key for key, value in data.items() if not isinstance(value, Mapping)]:
        line = f"{key} = {_toml(data[key])}".replace("\\", r"\\")
        root = re.sub(rf"^# {re.escape(key)} = .*$", line, root, count=1, flags=re.MULTILINE)
    return root + mark + tables


async def written(folder: Folder, asker: Asker, path: Path, command: Callable[[str], list[str]]) -> str:
    """The text that a command writes into a file, which gets another folder for it and is removed again.

    `command` makes the arguments from the file's name. Raises Refusal with the command's own sentences.
    """
    try:
        # In a hidden folder, under its own name, which can go into the text.
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as hidden:
            trial = Path(hidden) / path.name
            answer = await asker.ask(command(trial.relative_to(folder.root).as_posix()), [trial])
            if answer.code:
                raise Refusal("\n".join(answer.errors))
            return trial.read_text(encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{path.name}: can't be written: {error.strerror or error}", 409) from None


def _toml(value: Any) -> str:
    try:
        return str(tomlkit.item(value).as_string())
    except (TOMLKitError, ValueError, TypeError) as error:
        raise Refusal(f"{value!r}: can't be written as TOML: {error}") from None


@contextmanager
def _trial_name(path: Path) -> Iterator[Path]:
    """A hidden name beside a file, with its ending, removed at the end."""
    trial = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield trial
    finally:
        trial.unlink(missing_ok=True)


async def checked(folder: Folder, asker: Asker, name: str, text: str) -> None:
    """Let raq read a recipe before it gets its name, in the folder that its paths are relative to.

    Raises Refusal with raq's own sentences, which name the keys.
    """
    if not name.endswith(ENDINGS):
        raise Refusal(f"{name}: a recipe's name ends in {' or '.join(ENDINGS)}")
    with _trial_name(folder.path(name)) as trial:
        try:
            trial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Refusal(f"{name}: can't be written: {error.strerror or error}", 409) from None
        named = trial.relative_to(folder.root).as_posix()
        answer = await asker.ask(["recipe", "show", named, "--json"], [trial])
        if answer.value is None:
            said = "\n".join(answer.errors) or "not a recipe"
            raise Refusal(said.replace(named, name))


def recipe_command(folder: Folder, name: str, *, force: bool) -> Command:
    """The command that builds a recipe, with its outputs as the recipe names them. Raises Refusal without the file."""
    path = folder.existing(name)
    text = saving.read_text(folder, name)
    try:
        content = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
        written = content["output"]["file"]
        manifest = content["output"].get("manifest", f"{written}.manifest.json")
        outputs = [str(PurePosixPath(name).parent / each) for each in (written, manifest)]
        stated = folder.path(outputs[0]), folder.path(outputs[1])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Command(("recipe", "build", name, "--json"), (name,), (), (f"{path.name}: not a build recipe",))
    there = () if force or not stated[0].exists() else (f"{outputs[0]}: exists; replace it, or change the recipe",)
    arguments = ("recipe", "build", name, "--json", *(["--force"] if force else []))
    return Command(arguments, (name,), tuple(outputs), there)
