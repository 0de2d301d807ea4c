"""Suggestions as text to keep: lines for raq.toml, or a recipe of the base and its moves."""

import json
from collections.abc import Iterable, Sequence

from raq_client.recipes.recipe_file import FORMAT, Base, Expected, Move, Recipe
from raq_client.suggestions.raises import Move as Change
from raq_client.suggestions.suggest import Suggestion
from raq_solver.tensor_names import block_of, local_name

_WIDTH = 100
"""Characters of a pattern up to which blocks are listed in it."""


def settings_fragment(found: Suggestion) -> str:
    """Lines for raq.toml: the size with the chosen raises as budget, and the raised types as floors.

    The budget is in single bytes, which are those of tensor data. A floor lets the solver choose a larger type too; all
    else it chooses anew within the budget.
    """
    lines = [f"# {title(found)}", f"budget = {_quoted(f'{found.after.size}B')}", "floor = ["]
    for after, names in _by_type(found.moves).items():
        lines += [f"  {_quoted(f'{pattern}={after}')}," for pattern in patterns(names)]
    return "\n".join([*lines, "]"]) + "\n"


def recipe_of(found: Suggestion, base: Base, name: str = "suggested") -> Recipe:
    """A recipe with the chosen raises as moves from the base; `raq-client recipe verify` checks it."""
    by_types: dict[tuple[str, str], list[str]] = {}
    for move in found.moves:
        by_types.setdefault((move.before, move.after), []).append(move.tensor)
    return Recipe(
        format=FORMAT,
        name=name,
        description=title(found),
        base=base,
        moves=tuple(
            Move(
                tensors=patterns(names),
                before=(before,),
                type=after,
                reason=f"suggested by {found.question.rule.value}",
            )
            for (before, after), names in by_types.items()
        ),
        expected=Expected(tensor_bytes=found.after.size),
    )


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as the text of a TOML file, without unset keys."""
    data = recipe.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    lists = {key: value for key, value in data.items() if isinstance(value, list) and value}
    lines = [f"{key} = {_quoted(value)}" for key, value in data.items() if isinstance(value, str)]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *_pairs(table)]
    for key, rows in lists.items():
        for row in rows:
            lines += ["", f"[[{key}]]", *_pairs(row)]
    return "\n".join(lines) + "\n"


def patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns that match exactly these tensors of a model: one for a role in several blocks.

    >>> patterns(["blk.1.attn_v.weight", "blk.2.attn_v.weight", "blk.3.attn_v.weight", "output.weight"])
    ('blk.{1..3}.attn_v.weight', 'output.weight')
    """
    blocks: dict[str, list[int]] = {}
    plain = []
    for name in names:
        if block_of(name) < 0:
            plain.append(name)
        else:
            blocks.setdefault(local_name(name), []).append(block_of(name))
    found = []
    for local, numbers in blocks.items():
        found += [f"blk.{run}.{local}" for run in _runs(sorted(numbers))]
    return (*found, *plain)


def title(found: Suggestion) -> str:
    """One line on what is suggested, by which rule, and what it costs and saves."""
    question, added = found.question, found.after.size - found.start.size
    target = "" if question.quant_type is None else f" to {question.quant_type}"
    return (
        f"raise {', '.join(one.raised.unit.name for one in found.chosen)}{target} (by {question.rule.value}): "
        f"{added:+,} bytes, predicted loss {found.start.loss:.4g} to {found.after.loss:.4g}"
    )


def _runs(numbers: Sequence[int]) -> list[str]:
    """Block numbers as parts of patterns: a range where all follow one another, else lists."""
    if len(numbers) == 1:
        return [str(numbers[0])]
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return [f"{{{numbers[0]}..{numbers[-1]}}}"]
    listed: list[list[int]] = [[]]
    for number in numbers:
        if len(",".join(map(str, listed[-1]))) > _WIDTH:
            listed.append([])
        listed[-1].append(number)
    return [f"{{{','.join(map(str, part))}}}" if len(part) > 1 else str(part[0]) for part in listed]


def _by_type(moves: Iterable[Change]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for move in moves:
        found.setdefault(move.after, []).append(move.tensor)
    return found


def _pairs(table: dict[str, object]) -> list[str]:
    return [f"{key} = {_quoted(value)}" for key, value in table.items()]


def _quoted(value: object) -> str:
    """A text, number, truth value or list of texts as TOML, whose literals for these are those of JSON."""
    return json.dumps(value, ensure_ascii=False)
