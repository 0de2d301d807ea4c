from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.engine.windows import Text
from raq_client.evaluation.comparison import Verdict, compare, compare_all
from raq_client.evaluation.perplexity import Measurement, measure, measure_all
from raq_solver.errors import InvalidInput
from support.engine_models import MODEL, TEXT, write_quantized

TYPES = ("Q8_0", "Q5_0", "Q4_0")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measurement, ...]:
    folder = tmp_path_factory.mktemp("models")
    paths = [write_quantized(folder / f"{name}.gguf", gguf.GGMLQuantizationType[name]) for name in TYPES]
    return measure_all(MODEL, paths, [Text("text", TEXT[:8000])], context=256, threads=2)


def test_candidates_measured_together_are_those_measured_alone(measured: tuple[Measurement, ...]) -> None:
    alone = measure(MODEL, measured[2].candidate, [Text("text", TEXT[:8000])], context=256, threads=2)
    assert (alone.scores().kl == measured[2].scores().kl).all()
    assert [Path(found.candidate).stem for found in measured] == list(TYPES)


def test_fewer_bits_are_worse_and_more_are_better(measured: tuple[Measurement, ...]) -> None:
    q8, _, q4 = measured
    forth, back = compare(q8, q4), compare(q4, q8)
    assert (forth.verdict, back.verdict) == (Verdict.WORSE, Verdict.BETTER)
    assert forth.top1_agreement.verdict is Verdict.WORSE
    assert 0 < forth.kl.low < forth.kl.value < forth.kl.high
    assert forth.kl.value == pytest.approx(q4.scores().kl.mean() - q8.scores().kl.mean())
    assert forth.kl.windows_to_settle is not None
    assert forth.kl.windows_to_settle <= forth.windows
    # perplexity sees far less of it
    assert abs(forth.loss.value / forth.loss.error) < abs(forth.kl.value / forth.kl.error)


def test_a_candidate_is_not_different_from_itself(measured: tuple[Measurement, ...]) -> None:
    itself = compare(measured[0], measured[0])
    assert itself.verdict is itself.loss.verdict is itself.top1_agreement.verdict is Verdict.SAME
    assert itself.kl.windows_to_settle is None


def test_a_ladder_is_compared_step_by_step_with_one_confidence(measured: tuple[Measurement, ...]) -> None:
    steps = compare_all(measured)
    assert [(Path(step.first).stem, Path(step.second).stem) for step in steps] == [("Q8_0", "Q5_0"), ("Q5_0", "Q4_0")]
    assert {step.confidence for step in steps} == {0.975}
    assert [step.verdict for step in steps] == [Verdict.WORSE, Verdict.WORSE]


def test_only_the_same_tokens_are_compared(measured: tuple[Measurement, ...]) -> None:
    other_text = measure(MODEL, MODEL, [Text("other", TEXT[8000:10000])], context=256, threads=2)
    with pytest.raises(InvalidInput, match="was measured on other windows"):
        compare(measured[0], other_text)
    with pytest.raises(InvalidInput, match=r"was measured against other\.gguf"):
        compare(measured[0], replace(measured[1], baseline="other.gguf"))


@pytest.mark.parametrize("spoiled", ["kl", "candidate_nll"])
def test_a_candidate_without_numbers_is_compared_with_nothing(measured: tuple[Measurement, ...], spoiled: str) -> None:
    first, second, _ = measured
    text = second.texts[0]
    values = getattr(text.scores, spoiled).copy()
    values[1, 2] = np.nan if spoiled == "kl" else np.inf
    broken = replace(second, texts=(replace(text, scores=replace(text.scores, **{spoiled: values})),))
    with pytest.raises(InvalidInput, match=r"Q5_0.gguf: no finite loss or KL divergence for 1 of \d+ tokens"):
        compare(first, broken)
