"""What a plan is tried on in memory, from where its facts come from."""

from collections.abc import Sequence
from pathlib import Path

from raq_client.engine import DEFAULT_CONTEXT
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import TrialSetup
from raq_client.models.model_file import open_model
from raq_client.planning.plan import Sources, importance_of


def trial_setup(
    sources: Sources, texts: Sequence[Text], *, windows: int, library: Path | None, context: int = DEFAULT_CONTEXT
) -> TrialSetup:
    """The bench of a model that is named. Raises InvalidInput without any text, or for importance of another model."""
    assert sources.model is not None, "a model is tried"
    model = open_model(sources.model)
    importance = importance_of(model, sources.imatrix)
    return TrialSetup(
        model, sources.model, importance, texts, windows, context, sources.effort, sources.threads, library
    )
