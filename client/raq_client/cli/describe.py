"""The reference of a command, from its options as Typer reads them."""

from typing import Any, Final

from raq_client.cli.reference import Parameter, Reference

METAVARS: Final = {
    "<int>": "N",
    "<int range>": "N",
    "<float>": "NUMBER",
    "<float range>": "NUMBER",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "FILE",
    "<Path>": "FILE",
    "<file>": "FILE",
    "<list[Path]>": "FILE",
    "<bool>": "",
}
"""What to print in place of a Python type, where an option has no metavar of its own."""


def described(called: Any) -> Reference:
    """The reference of the command of a Typer context."""
    positions, panels = [], dict[str, list[Parameter]]()
    for each in called.command.get_params(called):
        record = each.get_help_record(called)
        if record is None:  # hidden
            continue
        is_option = each.param_type_name == "option"
        name = _named(record[0]) if is_option else record[0].split()[0]
        if not is_option:
            positions.append(name.strip("[]") if each.required else f"[{name.strip('[]')}]")
        panel = getattr(each, "rich_help_panel", None) or ("Options" if is_option else "Arguments")
        # In an order of their own: the names of --help come from a set.
        names = sorted([*each.opts, *each.secondary_opts], key=lambda name: (-len(name), name)) if is_option else []
        panels.setdefault(panel, []).append(Parameter(name, *_said(record[1]), names, _values(each, called)))
    first = [name for name in ("Arguments", "Options") if name in panels]
    ordered = {name: panels[name] for name in dict.fromkeys((*first, *panels))}
    return Reference((called.command.help or "").strip(), positions, ordered)


def _values(parameter: Any, called: Any) -> list[str] | None:
    if parameter.param_type_name == "option" and (parameter.is_flag or parameter.count):
        return None
    return [str(item.value) for item in parameter.shell_complete(called, "") if item.value]


def _named(names: str) -> str:
    """An option's names with a word for its value: `--windows <int range>` becomes `--windows N`."""
    for python, word in METAVARS.items():
        names = names.removesuffix(" " + python) + f" {word}" if names.endswith(" " + python) else names
    before, _, value = names.rstrip().partition(" <")
    return f"{before} {value.removesuffix('>')}" if value else before


def _said(text: str) -> tuple[str, str]:
    """What is said of an option, and its default and range in words: `Tokens.` and `[default: 512; at least 8]`."""
    text, bracket, facts = text.rpartition("  [")
    if not bracket:
        return facts, ""
    found = []
    for fact in facts.removesuffix("]").split("; "):
        low, between, high = fact.partition("<=x<=")
        if between:
            found.append(f"{low} to {high}")
        elif fact not in {"required", "x>=0"}:
            found.append(fact.replace("x>=", "at least ").replace("x<=", "at most "))
    return text, f"[{'; '.join(found)}]" if found else ""
