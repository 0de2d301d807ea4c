"""A build recipe to start from, as text with a comment for every key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic.fields import FieldInfo

from raq_client.files.settings import EXAMPLES
from raq_client.recipes.build_recipe import (
    FORMAT,
    AutoRule,
    Benchmarks,
    BuildRecipe,
    Card,
    CheckSettings,
    Collecting,
    Outputs,
)

_MODEL: Final = "model-f16.gguf"
_STATED: Final = ("format", "name", "model", "budget", "output")
_TABLES: Final[Mapping[str, type[Collecting | AutoRule | CheckSettings | Benchmarks | Card]]] = {
    "importance": Collecting,
    "auto": AutoRule,
    "check": CheckSettings,
    "benchmarks": Benchmarks,
    "card": Card,
}
_LEFT_OUT: Final = ("memory", "profile", *_TABLES, *_STATED)
_EXAMPLES: Final = {
    **EXAMPLES,
    "description": '"what the file is for"',
    "overrides": '"overrides.txt"',
    "counting": '"resolved"',
    "moves": '"ratio"',
    "domain": '["reasoning.gguf"]',
    "general": '["general.gguf"]',
    "demote_below": "0.8",
    "promote_above": "1.1",
    "types_from": '"base"',
    "sequential": "true",
    "effort": '"best"',
    "runtime": '"ds4"',
    "importance.texts": '["calibration.txt"]',
    "importance.benchmarks": '["gsm8k:3", "humaneval:1"]',
    "importance.answers": "true",
    "importance.cap": "200",
    "importance.context": "512",
    "importance.windows": "100",
    "importance.fisher": "16",
    "importance.output_head": "true",
    "importance.parse_special": "true",
    "auto.rule": '"price"',
    "auto.unit": '"block"',
    "auto.most": "2",
    "auto.type": '"Q6_K"',
    "auto.families": '["blk.*.ffn_*"]',
    "auto.domain": '["reasoning.gguf"]',
    "auto.general": '["general.gguf"]',
    "auto.profile": '"model.profile.json"',
    "check.context": "512",
    "check.windows": "32",
    "check.max_kl": "0.02",
    "benchmarks.lock": '"raq-bench.lock.json"',
    "benchmarks.folder": '"benchmarks"',
    "benchmarks.registry": '"own.toml"',
    "benchmarks.names": '["gsm8k"]',
    "benchmarks.limit": "200",
    "benchmarks.max_tokens": "512",
    "benchmarks.run_code": "false",
    "card.file": '"README.md"',
    "card.base_model": '"org/model"',
    "card.by": '"name"',
    "card.license": '"apache-2.0"',
}
"""An example value for every key that is written as a comment."""


def new_recipe(path: Path, model: Path | None) -> str:
    """The text of a recipe for the file `path`: TOML with every key, or JSON without comments."""
    stem = path.stem
    named = (model or Path(_MODEL)).as_posix()
    recipe = BuildRecipe.model_validate(
        {
            "format": FORMAT,
            "name": stem,
            "model": named,
            "budget": "5.0",
            "output": {"file": f"{stem}.gguf"},
        }
    )
    return recipe.as_json() if path.suffix == ".json" else "\n".join(_lines(recipe)) + "\n"


def _lines(recipe: BuildRecipe) -> list[str]:
    lines = ["# A build recipe: raq-client recipe build FILE. Paths are relative to this file's folder.", ""]
    data = recipe.as_data()
    for name in _STATED[:-1]:
        lines += [f"# {BuildRecipe.model_fields[name].description}", f'{name} = "{data[name]}"', ""]
    for name, field in BuildRecipe.model_fields.items():
        if name not in _LEFT_OUT:
            lines += [f"# {field.description}", f"# {name} = {_EXAMPLES[name]}", ""]
    lines += ["# the files to write", "[output]", f'file = "{recipe.output.file.as_posix()}"']
    lines += [
        f'# manifest = "{recipe.output.manifest_path.as_posix()}"  # {Outputs.model_fields["manifest"].description}'
    ]
    for name, table in _TABLES.items():
        title = f"[[{name}]]" if name == "auto" else f"[{name}]"
        lines += [
            "",
            f"# {BuildRecipe.model_fields[name].description}",
            f"# {title}",
            *_table_lines(name, table.model_fields),
        ]
    return lines


def _table_lines(name: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    return [f"# {key} = {_EXAMPLES[f'{name}.{key}']}  # {field.description}" for key, field in fields.items()]
