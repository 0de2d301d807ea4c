"""Checks: how far a quantized model is from its original, on text."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from raq._html import facts
from raq.model import Model
from raq_client import pipeline
from raq_client.engine import DEFAULT_CONTEXT
from raq_client.evaluation.report import CheckReport
from raq_client.progress import Progress
from raq_client.prompts.texts import read_texts_for
from raq_solver.errors import Fault, InvalidInput


class Check:
    """Perplexity and KL divergence with their standard errors. Made by `raq.check`."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report

    @property
    def kl(self) -> float:
        """Mean KL divergence from the original, nats per token."""
        return self.report.overall.kl.value

    @property
    def kl_error(self) -> float:
        """Its standard error."""
        return self.report.overall.kl.error

    @property
    def perplexity(self) -> float:
        """Perplexity of the quantized model."""
        return self.report.overall.perplexity.value

    @property
    def baseline_perplexity(self) -> float:
        """Perplexity of the original."""
        return self.report.overall.baseline_perplexity.value

    @property
    def top1_agreement(self) -> float:
        """Share of tokens, 0 to 1, on whose likeliest continuation both models agree."""
        return self.report.overall.top1_agreement.value

    def to_dict(self) -> dict[str, Any]:
        """All figures, of each text and domain too, as plain data."""
        return self.report.to_dict()

    def __repr__(self) -> str:
        return f"<raq.Check KL {self.kl:.6f} ± {self.kl_error:.6f}, perplexity {self.perplexity:.4f}>"

    def _repr_html_(self) -> str:
        rows = [
            ("mean KL divergence", f"{self.kl:.6f} ± {self.kl_error:.6f} nats"),
            ("perplexity", f"{self.perplexity:.4f} (original {self.baseline_perplexity:.4f})"),
            ("top-1 agreement", f"{100 * self.top1_agreement:.2f} %"),
            ("tokens", f"{self.report.overall.tokens:,}"),
        ]
        return facts(f"{self.report.candidate} against {self.report.baseline}", rows)


def check(
    candidate: str | PathLike[str],
    original: Model | str | PathLike[str],
    *,
    texts: Sequence[str | PathLike[str]],
    context: int = DEFAULT_CONTEXT,
    windows: int | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Check:
    """Measure how far `candidate` is from the original on text files, by llama-perplexity's definitions.

    `texts` may be `DOMAIN=FILE`; `windows` limits those of `context` tokens of each text. Raises InvalidInput if a
    model can't be evaluated, a text is too short, or the vocabularies differ.
    """
    path = original.path if isinstance(original, Model) else Path(original)
    if path is None:
        raise InvalidInput(Fault("", "the original is known by a saved profile only; name its file"))
    measured = pipeline.measure(
        path,
        Path(candidate),
        read_texts_for(path, [Path(text) for text in texts]),
        context=context,
        windows=windows,
        threads=threads,
        progress=progress,
    )
    return Check(measured.report())
