import json
from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.recipes.allocation_file import left_out, origin_notes, read_allocation
from raq_solver.errors import InvalidInput
from support.gguf_files import MODEL_4M


def _plan(folder: Path, **keys: str) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps({"allocation": {"a": "Q4_K"}, **keys}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("keys", "gram", "expected"),
    [
        ({}, "g", None),
        ({"model_sha256": "m"}, "", None),
        ({"model_sha256": "other"}, "", "a model with other weights"),
        ({"model_sha256": "m", "gram_sha256": "g"}, "g", None),
        ({"gram_sha256": "g"}, "", "for error feedback, and the file is rounded without; give --gram"),
        ({"gram_sha256": ""}, "g", "for plain rounding, and --gram feeds errors forward"),
        ({"gram_sha256": "other"}, "g", "with other Gram statistics than --gram names"),
    ],
)
def test_a_plan_for_another_model_or_other_feedback_is_said(
    tmp_path: Path, keys: dict[str, str], gram: str, expected: str | None
) -> None:
    notes = origin_notes(_plan(tmp_path, **keys), "m", gram)
    assert len(notes) == (expected is not None)
    assert all(expected in note for note in notes if expected)


def test_lines_of_overrides_do_not_tell(tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("ffn_down=q6_k\n", encoding="utf-8")
    assert origin_notes(tmp_path / "types.txt", "m", "g") == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("norm=F32\nweight=Q4_K\n", None),  # all types of a file, as other programs list them
        (
            "attn=Q4_K\nffn=Q8_0\nembd=F16\noutput\\.weight=F16\nnorm=Q4_K\n",
            "what matches norm=Q4_K in {path} is never",
        ),
        ("weight=Q4_K\nxx=Q4_K\nyy=F16\n", "no tensor matches xx=Q4_K, yy=F16 in {path}"),
        ("attn=Q4_K\n", "are in none of its lines and keep their types"),
    ],
)
def test_lines_without_an_effect_are_said(tmp_path: Path, lines: str, expected: str | None) -> None:
    (tmp_path / "types.txt").write_text(lines, encoding="utf-8")
    note = left_out(tmp_path / "types.txt", open_model(MODEL_4M).tensors)
    if expected is None:
        assert note is None
    else:
        assert note is not None
        assert expected.format(path=tmp_path / "types.txt") in note


@pytest.mark.parametrize("content", ["[" * 100_000, "some text, not a plan\n" * 1_000, "\0" * 5_000])
def test_a_file_of_another_kind_is_a_few_short_lines_with_its_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_text(content)
    with pytest.raises(InvalidInput) as refused:
        read_allocation(path, ())
    assert 0 < len(refused.value.faults) <= 6
    for line in str(refused.value).splitlines():
        assert line.startswith(str(path))
        assert len(line) < len(str(path)) + 140


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"format": "raq-profile-1", "quant_types": []}, "is a profile; solve it first"),
        ({"budget": 5}, "has no key `allocation`"),
    ],
)
def test_other_json_is_told_from_an_allocation(content: dict[str, object], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match=f"^{path}: {sentence}"):
        read_allocation(path, ())
