"""From what a page asks for to the command that does it: its arguments, its files, what stands in its way.

The page shows the command, the queue runs it; there is no other way to do the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raq_client.dashboard.folder import Folder
from raq_client.dashboard.refusal import Refusal

CONSTRAINTS: Final = ("pin", "floor", "ceiling", "exclude", "tie", "at-most", "region", "monotone", "exo")
"""Options of a problem that can be given several times, each a text."""
_SINGLE: Final = ("loss", "vram", "vram-context", "kv", "overhead", "distinct-types", "types")
_NAMES_OR_FILES: Final = ("base", "architecture")
_LONGEST: Final = 500
_MOST: Final = 5_000
"""Constraints of one command."""


@dataclass(frozen=True)
class Command:
    """Arguments of raq-client, the names of the files that it reads and writes, and reasons why it can't be run now."""

    arguments: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass
class _Form:
    """The fields of a request, read one by one; what is missing is collected."""

    folder: Folder
    fields: Mapping[str, Any]
    arguments: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        value = self.fields.get(name, "")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise Refusal(f"{name}: must be a text")
        return _checked(name, str(value).strip())

    def texts(self, name: str) -> list[str]:
        value = self.fields.get(name, [])
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or len(value) > _MOST or not all(isinstance(each, str) for each in value):
            raise Refusal(f"{name}: must be a list of texts")
        return [_checked(name, each.strip()) for each in value if each.strip()]

    def file(self, name: str, what: str, option: str = "") -> None:
        """A file that is read; where it is not named, `what` is a reason."""
        given = self.text(name)
        if given:
            self._read(given, option)
        else:
            self.reasons.append(what)

    def files(self, name: str, option: str, what: str = "", least: int = 1) -> None:
        """Files that are read, each after `option`; fewer than `least` are a reason if `what` is given."""
        names = self.texts(name)
        for each in names:
            self._read(each, option)
        if what and len(names) < least:
            self.reasons.append(what)

    def output(self, name: str, ending: str, option: str = "-o") -> str:
        """A file that is written; it must not be there unless the form says to replace it."""
        given = self.text(name)
        if not given:
            self.reasons.append("name the file to write")
            return ""
        if not given.endswith(ending):
            self.reasons.append(f"{given}: the name must end in {ending}")
        path = self.folder.path(given)
        if given in self.reads:
            self.reasons.append(f"{given}: is read by the same command; name another")
        elif path.exists() and not self.flag("force"):
            self.reasons.append(f"{given}: exists; name another, or replace it")
        elif not path.parent.is_dir():
            self.reasons.append(f"{given}: there is no such folder")
        self.arguments += [option, given, *(["--force"] if self.flag("force") else [])]
        self.writes.append(given)
        return given

    def option(self, name: str, option: str = "") -> None:
        """An option with a value, if one is given."""
        value = self.text(name)
        if value:
            self.arguments += [option or f"--{name}", value]

    def repeated(self, name: str) -> None:
        """An option once for each value."""
        for each in self.texts(name):
            self.arguments += [f"--{name}", each]

    def flag(self, name: str) -> bool:
        value = self.fields.get(name, False)
        if not isinstance(value, bool):
            raise Refusal(f"{name}: must be true or false")
        return value

    def made(self) -> Command:
        return Command(tuple(self.arguments), tuple(self.reads), tuple(self.writes), tuple(self.reasons))

    def _read(self, name: str, option: str) -> None:
        if option in {"-i", "-t"} and (":" in name or "=" in name):  # raq reads FILE:WEIGHT and DOMAIN=FILE
            raise Refusal(f"{name}: rename it; a file to be used here has neither : nor = in its name")
        if not self.folder.path(name).is_file():
            self.reasons.append(f"{name}: there is no such file")
        self.arguments += [*([option] if option else []), name]
        self.reads.append(name)


def _checked(name: str, value: str) -> str:
    if len(value) > _LONGEST or (value and not value.isprintable()):
        raise Refusal(f"{name}: must be a line of plain text")
    if value.startswith("-"):
        raise Refusal(f"{name}: {value} begins like an option")
    return value


def _collect(form: _Form) -> None:
    form.arguments += ["imatrix", "collect"]
    form.file("model", "choose a model")
    form.files("text", "-t", "choose a text")
    form.option("fisher")
    form.output("output", ".gguf")


def _profile(form: _Form) -> None:
    form.arguments.append("profile")
    form.file("model", "choose a model")
    form.files("imatrix", "-i")
    form.option("types")
    form.option("rows")
    form.output("output", ".json")


def _run(form: _Form) -> None:
    form.arguments.append("run")
    form.file("model", "choose a model")
    form.files("imatrix", "-i")
    problem(form)
    if not form.text("budget") and not form.text("base") and not form.text("vram"):
        form.reasons.append("give a budget, such as 5.0 or 4.2GiB")
    form.files("text", "-t")
    form.option("windows")
    if not form.flag("trial"):
        form.arguments.append("--no-trial")
    written = form.output("output", ".gguf")
    if written:
        manifest = written.removesuffix(".gguf") + ".manifest.json"
        form.arguments += ["--manifest", manifest, "--json"]
        form.writes.append(manifest)


def _quantize(form: _Form) -> None:
    form.arguments.append("quantize")
    form.file("model", "choose a model")
    form.file("plan", "choose a saved plan", "-a")
    form.files("imatrix", "-i")
    form.output("output", ".gguf")
    form.arguments.append("--json")


def _check(form: _Form) -> None:
    form.arguments.append("check")
    form.file("candidate", "choose a quantized file")
    form.file("model", "choose the original", "--model")
    form.files("text", "-t", "choose a text")
    form.option("windows")
    form.arguments.append("--json")


def _compare(form: _Form) -> None:
    form.arguments.append("compare")
    form.files("candidates", "", "choose two files or more", 2)
    form.file("model", "choose the original", "--model")
    form.files("text", "-t", "choose a text")
    form.option("windows")
    form.arguments.append("--json")


def problem(form: _Form) -> None:
    """The options that define a problem: budget, constraints, base, memory."""
    form.option("budget", "-b")
    for name in _SINGLE:
        form.option(name)
    for name in _NAMES_OR_FILES:
        if form.text(name):
            form.folder.path(form.text(name))  # a mixture's name, or a file: of this folder then
        form.option(name)
    for name in CONSTRAINTS:
        form.repeated(name)


ACTIONS: Final[Mapping[str, Callable[[_Form], None]]] = {
    "collect": _collect,
    "profile": _profile,
    "run": _run,
    "quantize": _quantize,
    "check": _check,
    "compare": _compare,
}


def command_for(action: str, fields: Mapping[str, Any], folder: Folder) -> Command:
    """The command of an action. Raises Refusal for an unknown action and for fields of the wrong form."""
    make = ACTIONS.get(action)
    if make is None:
        raise Refusal(f"{action}: no such action", 404)
    form = _Form(folder, fields)
    make(form)
    return form.made()


def question(verb: Sequence[str], fields: Mapping[str, Any], folder: Folder) -> Command:
    """A question about a profile under the constraints of a page: `verb` with its own options before."""
    form = _Form(folder, fields, arguments=list(verb))
    form.file("profile", "choose a profile", "-p")
    problem(form)
    form.arguments.append("--json")
    made = form.made()
    if made.reasons:
        raise Refusal("; ".join(made.reasons))
    return made
