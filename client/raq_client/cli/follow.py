"""Progress of the pipeline on the terminal: a bar for each stage, one after the other."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from raq_client.cli.progress import WorkReport, progress_bar
from raq_client.progress import Progress, Step


@contextmanager
def followed() -> Iterator[Progress]:
    """A progress callback; the bar of a stage ends when the next stage begins or the block ends."""
    with ExitStack() as bars:
        stage: str | None = None
        report: WorkReport

        def follow(step: Step) -> None:
            nonlocal stage, report
            if step.stage != stage:
                bars.close()
                stage, report = step.stage, bars.enter_context(progress_bar(step.stage))
            report(step.done, step.total, step.worked)

        yield follow
