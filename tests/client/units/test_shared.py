"""Sensitivities and importance by several processes: the bytes of one, whoever makes what, also killed on the way."""

import json
from pathlib import Path

import numpy as np
import pytest

from raq_client.engine.windows import Text
from raq_client.importance.collect import collect
from raq_client.importance.imatrix_file import read_importance
from raq_client.planning.model_inputs import ModelInputs
from raq_client.sensitivity.measure import Question
from raq_client.units.carry_out import complete, run_part, run_units
from raq_client.units.collecting import CollectJob
from raq_client.units.journal import Journal, work_folder
from raq_client.units.probing import ProbeJob
from raq_client.units.unit import Part, part
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from support.commands import client
from support.engine_models import TEXT
from support.tiny_models import CASES, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", CASES["llama, experts"])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:14_000])
    return path


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _cut_short(folder: Path) -> None:
    """Leave the state of a process that was killed: the last of its lines cut short."""
    for path in folder.glob("*/*.jsonl"):
        path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("asked", [[], ["--evaluations", "5", "--at-once", "3"]])
def test_sensitivities_of_parts_are_those_of_one_process(
    tiny: Path, text: Path, tmp_path: Path, asked: list[str]
) -> None:
    """With fewer evaluations than tensors the results of one batch choose the next."""
    command = ["sensitivity", tiny, "-t", text, "--types", "Q8_0,Q4_0", "--windows", "2", "--context", "32", *asked]
    whole, output = tmp_path / "whole.json", tmp_path / "parts.json"
    assert client(*command, "-o", whole, "--threads", 1).code == 0
    assert client(*command, "-o", output, "--merge").code == 2
    for index in (1, 0):
        found = client(*command, "-o", output, "--index", index, "--of", 2)
        assert found.code == 0, found.err
        _cut_short(work_folder(output))
    assert client(*command, "-o", output, "--merge").code == 2, "lines are missing"
    for index in range(2):
        assert client(*command, "-o", output, "--index", index, "--of", 2).code == 0
    merged = client(*command, "-o", output, "--merge", "--verify-share", "20%")
    assert merged.code == 0, merged.err
    assert output.read_bytes() == whole.read_bytes()
    assert not work_folder(output).exists()


def test_a_part_of_fixed_evaluations_makes_its_share_only(tiny: Path, text: Path, tmp_path: Path) -> None:
    command = ["sensitivity", tiny, "-t", text, "--types", "Q8_0", "--windows", "2", "--context", "32"]
    output = tmp_path / "parts.json"
    assert client(*command, "-o", output, "--index", 0, "--of", 3).code == 0
    lines = [
        json.loads(line) for path in work_folder(output).glob("*/*.jsonl") for line in path.read_text().split("\n")[:-1]
    ]
    (uses,) = [line["uses"] for line in lines if "uses" in line]
    evaluations = [line for line in lines if "kl" in line]
    assert 0 < len(evaluations) < len(uses) + 2


def test_batches_begin_with_what_would_be_asked_next_anyway(tiny: Path, text: Path, tmp_path: Path) -> None:
    """The believer's first pick has nothing to believe yet."""
    from raq_client.sensitivity.measure import measure_sensitivities

    job = ProbeJob(ModelInputs(path=tiny), (Text("text", text.read_text()),), CATALOGUE["Q4_0"], 2, 32)
    one, four = (
        measure_sensitivities(job.setup, evaluations=6, batch=batch, cache=tmp_path / "sensitivities")
        for batch in (1, 4)
    )
    assert one.evaluations[0] == four.evaluations[0]
    assert len({each.tensors for each in four.evaluations}) == 6
    assert "in batches of 4" in four.provenance["sensitivity"]


def test_evaluations_are_fixed_only_where_no_result_chooses_one() -> None:
    names = ("blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.0.attn_k.weight")
    assert Question().fixed(names) == [(), names, *((name,) for name in names)]
    assert Question(design="single", evaluations=2).fixed(names) == [(), names, names[:1], names[1:2]]
    assert Question(evaluations=2).fixed(names) is None
    assert Question(evaluations=2, design="groups").fixed(names) is None
    with pytest.raises(InvalidInput, match="batch: must be at least 1"):
        Question(batch=0)


def test_importance_of_parts_is_that_of_one_process(tiny: Path, text: Path, tmp_path: Path) -> None:
    command = ["imatrix", "collect", tiny, "-t", text, "--context", "32", "--windows", "53", "--fisher", "5"]
    whole, output = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    assert client(*command, "-o", whole, "--threads", 1).code == 0
    assert client(*command, "-o", output, "--merge").code == 2
    for index in (2, 0, 1):
        assert client(*command, "-o", output, "--index", index, "--of", 3).code == 0
    (lost, *_) = work_folder(output).glob("*/windows-50-53.gguf")
    lost.unlink()
    merged = client(*command, "-o", output, "--merge", "--verify-share", "1%")
    assert merged.code == 0, merged.err
    assert "collecting it again" in " ".join(merged.err.split())
    assert output.read_bytes() == whole.read_bytes()
    assert not work_folder(output).exists()


def test_groups_of_windows_are_added_as_one_process_adds_them(tiny: Path, text: Path, tmp_path: Path) -> None:
    texts = (Text("a", text.read_text()[:9000]), Text("b", text.read_text()[9000:]))
    job = CollectJob(tiny, texts, tmp_path / "out.gguf", context=32, limit=30, fisher=0, threads=1)
    assert [unit.name for unit in job.units] == ["windows 0:50", "windows 50:60"]
    with Journal(work_folder(job.output), job) as journal:
        for index in (1, 0):
            run_part(job, Part(index, 2), journal)
        found = job.finish(complete(job, journal))
    job.close()
    whole = collect(tiny, texts, context=32, windows=30, threads=1)
    assert (found.digest(), found.chunk_count, found.datasets) == (whole.digest(), whole.chunk_count, ("a", "b"))
    for name, entry in whole.entries.items():
        np.testing.assert_array_equal(found.entries[name].plain_sums, entry.plain_sums)


def test_a_model_without_fisher_information_is_collected_without(tmp_path: Path, text: Path) -> None:
    """As by one process: with a note, unless it was asked for by number."""
    path = write_tiny(tmp_path / "bent.gguf", CASES["llama"])
    notes: list[str] = []
    job = CollectJob(path, (Text("a", text.read_text()),), tmp_path / "out.gguf", context=32, limit=4, threads=1)
    job.__dict__["_refusal"] = _refusal()
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units, journal)
        found = job.finish(complete(job, journal), notes.append)
    job.close()
    assert not found.fisher
    assert found.fisher_windows == 0
    assert any("no Fisher information" in note for note in notes)


def _refusal() -> InvalidInput:
    from raq_solver.errors import Fault

    return InvalidInput(Fault("bent.gguf", "an architecture that is not known"))


@pytest.mark.parametrize(("option", "says"), [(["--gram", "g.gguf"], "in parts"), (["--sums", "float32"], "divided")])
def test_what_cannot_be_divided_is_refused(tiny: Path, text: Path, option: list[str], says: str) -> None:
    output = text.with_name("out.gguf")
    given = [text.with_name(each) if each.endswith(".gguf") else each for each in option]
    found = client("imatrix", "collect", tiny, "-t", text, "-o", output, *given, "--index", 0, "--of", 2)
    assert found.code == 2
    assert says in " ".join(found.err.split())


def test_every_evaluation_is_in_one_part(tiny: Path, text: Path) -> None:
    job = ProbeJob(ModelInputs(path=tiny), (Text("text", text.read_text()),), CATALOGUE["Q4_0"], 2, 32)
    names = tuple(tensor.name for tensor in job.inputs.model.tensors)
    units = [job.unit_of(group) for group in ((), names, *((name,) for name in names))]
    assert len({unit.name for unit in units}) == len(units)
    assert sorted(unit.name for index in range(4) for unit in part(units, Part(index, 4))) == sorted(
        u.name for u in units
    )
    assert max(units, key=lambda unit: unit.cost).name == json.dumps(names)


def test_a_merged_file_is_read_as_any(tiny: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    command = [
        "imatrix",
        "collect",
        tiny,
        "-t",
        text,
        "--context",
        "32",
        "--windows",
        "4",
        "--fisher",
        "0",
        "-o",
        output,
    ]
    assert client(*command, "--index", 0, "--of", 1).code == 0
    assert client(*command, "--merge").code == 0
    assert read_importance(output).chunk_count == 4


def test_a_text_that_is_too_short_is_named_before_any_work(tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    command = ["imatrix", "collect", tiny, "-t", short, "-o", tmp_path / "out.gguf", "--context", "32"]
    for way in (["--index", 0, "--of", 2], ["--merge"]):
        found = client(*command, *way)
        assert found.code == 2
        assert "short.txt: too short" in " ".join(found.err.split())
