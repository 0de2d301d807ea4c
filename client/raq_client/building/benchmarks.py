"""The benchmarks of a recipe: their files, the text that importance is collected on, and both models' answers."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from raq_client.benchmarks.answers import Run, Task, answered, compared, read_run, tasks_of, write_run
from raq_client.benchmarks.corpus import Corpus, make_corpus, weights_of
from raq_client.benchmarks.lock import rows_file
from raq_client.benchmarks.paired import Paired
from raq_client.benchmarks.registry import read_registry
from raq_client.building.workshop import Workshop
from raq_client.models.sources import local_model
from raq_client.progress import Progress, stage
from raq_client.prompts.template import read_template
from raq_client.recipes.build_recipe import Benchmarks, BuildRecipe


def benchmark_files(recipe: BuildRecipe) -> tuple[Path, ...]:
    """Lock, registry and rows of the benchmarks of a recipe. Raises InvalidInput for unknown benchmarks."""
    found = recipe.benchmarks
    if found is None:
        return ()
    registry = read_registry(found.registry)
    collected = () if recipe.importance is None else recipe.importance.benchmarks
    names = dict.fromkeys((*registry.select(found.names), *weights_of(collected, registry)))
    own = () if found.registry is None else (found.registry,)
    return (found.lock, *own, *(rows_file(name, found.folder) for name in names))


def recipe_tasks(recipe: BuildRecipe) -> dict[str, Task]:
    """What both models are to answer. Raises InvalidInput for rows that are missing or have drifted from the lock."""
    found = recipe.benchmarks
    if found is None or not found.names:
        return {}
    return tasks_of(
        found.names,
        read_registry(found.registry),
        found.lock,
        found.folder,
        limit=found.limit,
        run_code=found.run_code,
    )


def recipe_corpus(recipe: BuildRecipe) -> Corpus | None:
    """The text of benchmarks that importance is collected on, in chats of the model's template if it has one.

    Raises InvalidInput for rows that are missing or have drifted from the lock.
    """
    asked, found = recipe.importance, recipe.benchmarks
    if asked is None or found is None or not asked.benchmarks or recipe.model is None:
        return None
    weights = weights_of(asked.benchmarks, read_registry(found.registry))
    template = read_template(local_model(recipe.model))
    return make_corpus(weights, found.lock, found.folder, template=template, answers=asked.answers, cap=asked.cap)


def compared_on(
    tasks: Mapping[str, Task],
    models: Mapping[Path, Iterable[str]],
    asked: Benchmarks,
    workshop: Workshop,
    *,
    threads: int = 0,
    progress: Progress | None = None,
) -> dict[str, Paired]:
    """The answers of two models, given with the SHA-256 of their files, compared item by item.

    Answers are kept in the workshop by content: a model that has answered these rows does not answer again.
    """
    one, other = (
        _run(model, tuple(digests), tasks, asked.max_tokens, workshop, threads, progress)
        for model, digests in models.items()
    )
    return compared(one, other)


def _run(
    model: Path,
    digests: Sequence[str],
    tasks: Mapping[str, Task],
    most: int,
    workshop: Workshop,
    threads: int,
    progress: Progress | None,
) -> Run:
    asked = (f"{name} {task.form} {task.content_sha256} {len(task.rows)}" for name, task in tasks.items())
    path = workshop.stage("answers", (version("xllamacpp"), str(most), *digests, *asked), ".json")
    if path.exists():
        return read_run(path)
    found = answered(
        model, tasks, most=most, threads=threads, progress=stage(progress, f"benchmarks, {model.name[:24]}")
    )
    write_run(found, path, force=True)
    return found
