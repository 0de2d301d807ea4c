"""`raq-client init`: a commented raq.toml to start from."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import say
from raq_client.files.atomic_file import atomic_file
from raq_client.files.settings import EXAMPLES, FILE_NAME, MemorySettings, Settings
from raq_solver.errors import Fault, InvalidInput


def init(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="The model to write into it; else the only .gguf file here.", show_default=False
        ),
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a commented raq.toml into this folder.

    All commands use its values where a flag is missing.

    Example: raq-client init model-f16.gguf
    """
    target = Path(FILE_NAME)
    if target.exists() and not force:
        raise InvalidInput(Fault(FILE_NAME, "exists; give --force to replace it"))
    if model is not None and not model.is_file():
        raise InvalidInput(Fault(str(model), "there is no such file"))
    found = sorted(Path().glob("*.gguf"))
    named = model or (found[0] if len(found) == 1 else None)
    with atomic_file(target, force=force) as file:
        file.write(settings_text(named).encode())
    say(
        f"{FILE_NAME}: "
        + (f"model {named}" if named else "write your model into it")
        + "; then raq-client run -b 5.0 -o FILE"
    )


def settings_text(model: Path | None) -> str:
    """The text of a raq.toml with every key, commented out except the model."""
    lines = ["# Default options of raq-client in this folder. Flags override this file.", ""]
    for name, field in Settings.model_fields.items():
        if name == "memory":
            continue
        value = EXAMPLES[name] if name != "model" or model is None else f'"{model.as_posix()}"'
        sign = "" if name == "model" and model is not None else "# "
        lines += [f"# {field.description}", f"{sign}{name} = {value}", ""]
    lines += [f"# {Settings.model_fields['memory'].description}", "# [memory]"]
    lines += [
        f"# {name} = {EXAMPLES[name]}  # {field.description}" for name, field in MemorySettings.model_fields.items()
    ]
    return "\n".join(lines) + "\n"
