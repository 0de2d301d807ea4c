"""A model's answers to locked benchmarks, graded: greedy, by its own chat template if it has one.

A run is kept as JSON, so that a model need not answer again to be compared with another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from raq_client.benchmarks.corpus import chat_of_row, plain_text
from raq_client.benchmarks.grading import is_right
from raq_client.benchmarks.lock import checked_rows, locked_entries
from raq_client.benchmarks.paired import Paired, paired
from raq_client.benchmarks.registry import Form, Registry
from raq_client.benchmarks.rows import Row
from raq_client.engine import loading
from raq_client.engine.tokenizer import vocabulary_of
from raq_client.engine.windows import Progress
from raq_client.files.atomic_file import atomic_file
from raq_client.files.user_files import read_user_file
from raq_client.models.model_file import open_model
from raq_client.prompts.template import read_template
from raq_solver.errors import Fault, InvalidInput, raise_faults

_STOPS: Final = ("\nQuestion:",)
_CODE_STOPS: Final = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""Where an answer to plain text ends; of HumanEval those of its authors."""


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark to answer: its rows, how they are graded, and the digest that the lock has of them."""

    form: Form
    rows: tuple[Row, ...]
    content_sha256: str


class Item(BaseModel):
    """The answer to a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    right: bool
    answer: str


class Part(BaseModel):
    """The answers to a benchmark."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    content_sha256: str
    items: tuple[Item, ...]


class Run(BaseModel):
    """All answers of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["raq-benchmark-run-1"] = "raq-benchmark-run-1"
    model: str
    fingerprint: str
    templated: bool
    most_tokens: int
    benchmarks: dict[str, Part]


def tasks_of(
    names: Sequence[str], registry: Registry, lock: Path, folder: Path, *, limit: int | None = None, run_code: bool
) -> dict[str, Task]:
    """The locked benchmarks that these names stand for, the first `limit` rows of each, as tasks.

    Raises InvalidInput as `locked_entries` and `checked_rows` do, and for benchmarks of code unless `run_code`.
    """
    entries = locked_entries(lock, registry.select(names))
    rows = checked_rows(entries, folder)
    forms = {name: registry.benchmarks[name].form for name in entries}
    what = "is graded by running code that the models write; allow that with --run-code, in a recipe run_code = true"
    raise_faults([Fault(name, what) for name, form in forms.items() if form == "humaneval" and not run_code])
    return {name: Task(forms[name], tuple(rows[name][:limit]), entry.content_sha256) for name, entry in entries.items()}


def answered(
    model: Path,
    tasks: Mapping[str, Task],
    *,
    most: int,
    threads: int = 0,
    library: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Have a model answer these tasks, at most `most` tokens each, and grade its answers.

    Answers to code are run: have the user agree first. Raises InvalidInput if the model can't be run.
    """
    template = read_template(model, library)

    def prompt(row: Row) -> str:
        return plain_text(row, answers=False) if template is None else template.render(chat_of_row(row, answers=False))

    prompts = {name: [prompt(row) for row in task.rows] for name, task in tasks.items()}
    length = most + _longest(model, [each for group in prompts.values() for each in group], library)
    total, done = sum(map(len, prompts.values())), 0
    parts = {}
    with loading.loaded(model, threads=threads, library=library) as engine, engine.generator(length) as generator:
        for name, task in tasks.items():
            stops: Sequence[str] = () if template else _CODE_STOPS if task.form == "humaneval" else _STOPS
            items = []
            for row, text in zip(task.rows, prompts[name], strict=True):
                answer = generator.answer(text, most=most, stops=stops, special=template is not None)
                items.append(Item(id=row.id, right=is_right(task.form, row, answer), answer=answer))
                done += 1
                if progress is not None:
                    progress(done, total)
            parts[name] = Part(content_sha256=task.content_sha256, items=tuple(items))
    fingerprint = open_model(model).fingerprint()
    return Run(
        model=str(model), fingerprint=fingerprint, templated=template is not None, most_tokens=most, benchmarks=parts
    )


def compared(a: Run, b: Run) -> dict[str, Paired]:
    """Both runs item by item, by benchmark. Raises InvalidInput with every way in which they are not comparable."""
    faults = [
        Fault(f"{a.model} and {b.model}", f"were asked differently: {what} {one} and {other}")
        for what, one, other in (
            ("most tokens", a.most_tokens, b.most_tokens),
            ("chat template", a.templated, b.templated),
        )
        if one != other
    ]
    for name in {**a.benchmarks, **b.benchmarks}:
        one, other = a.benchmarks.get(name), b.benchmarks.get(name)
        if one is None or other is None:
            faults.append(Fault(name, f"was answered by {(b if one is None else a).model} only"))
        elif one.content_sha256 != other.content_sha256:
            hashes = f"{one.content_sha256[:12]}… and {other.content_sha256[:12]}…"
            faults.append(Fault(name, f"the models were asked different data: {hashes}"))
        elif [item.id for item in one.items] != [item.id for item in other.items]:
            faults.append(Fault(name, f"the models answered different items: {len(one.items)} and {len(other.items)}"))
    raise_faults(faults)
    return {
        name: paired([item.right for item in part.items], [item.right for item in b.benchmarks[name].items])
        for name, part in a.benchmarks.items()
    }


def read_run(path: Path) -> Run:
    """A run that was saved. Raises InvalidInput."""
    return read_user_file(path, Run, "a run of benchmarks")


def write_run(run: Run, path: Path, *, force: bool) -> None:
    """Save a run."""
    with atomic_file(path, force=force) as file:
        file.write(run.model_dump_json(indent=1).encode() + b"\n")


def _longest(model: Path, prompts: Sequence[str], library: Path | None) -> int:
    """Tokens of the longest prompt."""
    if not prompts:
        raise InvalidInput(Fault("benchmarks", "have no rows to answer"))
    with vocabulary_of(loading.evaluable(model), library) as vocabulary:
        return max(len(vocabulary.tokenize(each, special=True)) for each in prompts)
