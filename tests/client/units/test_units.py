"""Work in parts: whatever machine makes which part, in whatever order, killed or made twice, the result is one file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import CHUNK_WEIGHTS, row_chunks
from raq_client.models.split import Split
from raq_client.planning.model_inputs import ModelInputs
from raq_client.quantizing import measure
from raq_client.quantizing.quantize import Quantization, quantize_model
from raq_client.quantizing.rounding import Rounding
from raq_client.units import profiling, rows
from raq_client.units.carry_out import Made, complete, run_part, run_part_and_rest, run_units, verify
from raq_client.units.journal import Journal, work_folder
from raq_client.units.profiling import ProfileJob
from raq_client.units.quantizing import QuantizeJob, manifest_path
from raq_client.units.rows import rows_of_unit_size
from raq_client.units.unit import Part, Unit, Work, part, sample
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.builds import small_importance
from support.commands import client
from support.gguf_files import small_model

TYPES = {
    "blk.0.attn_q.weight": "Q4_K",
    "blk.1.attn_q.weight": "IQ3_S",
    "output.weight": "Q8_0",
    "blk.0.ffn_down_exps.weight": "Q3_K",
}
UNITS = st.lists(st.floats(0, 1e6), max_size=40).map(
    lambda costs: [Unit(f"unit {number}", cost) for number, cost in enumerate(costs)]
)


@pytest.fixture
def inputs(tmp_path: Path) -> ModelInputs:
    model = small_model(tmp_path / "model.gguf")
    imatrix = small_importance(model, tmp_path / "imatrix.gguf")
    return ModelInputs(path=model, imatrix=(str(imatrix),), types=("Q4_K", "Q8_0", "IQ2_XS"), cached=False)


def _allocation(inputs: ModelInputs) -> Allocation:
    return Allocation({each.name: TYPES.get(each.name, each.source_type.name) for each in inputs.model.tensors})


def _job(inputs: ModelInputs, output: Path, split: Split | None = None) -> QuantizeJob:
    return QuantizeJob(inputs, _allocation(inputs), output, split)


@given(UNITS, st.integers(1, 9))
def test_every_unit_is_in_one_part_and_no_part_is_much_longer(units: list[Unit], of: int) -> None:
    parts = [part(units, Part(index, of)) for index in range(of)]
    assert sorted(unit.name for each in parts for unit in each) == sorted(unit.name for unit in units)
    longest = max(sum(unit.cost for unit in each) for each in parts)
    least = max([sum(unit.cost for unit in units) / of, *(unit.cost for unit in units)])  # no schedule is shorter
    assert longest <= least * (2 - 1 / of) * (1 + 1e-9)
    assert all(each == sorted(each, key=lambda unit: (-unit.cost, unit.name)) for each in parts)


@given(UNITS.filter(bool), st.fractions(Fraction(1, 1000), 1))
def test_a_sample_is_as_large_as_asked_and_not_larger_by_a_unit(units: list[Unit], share: Fraction) -> None:
    found = sample("key", units, share)
    total = sum(unit.cost for unit in units)
    assert sum(unit.cost for unit in found) >= float(share) * total * (1 - 1e-9)
    assert len(found) == 1 or sum(unit.cost for unit in found[:-1]) < float(share) * total * (1 + 1e-9)
    assert found == sample("key", list(reversed(units)), share)


@pytest.mark.parametrize("shape", [(4096, 5000), (256, 3, 2), (1024, 9000, 3)])
def test_parts_of_a_tensor_are_whole_chunks_and_cover_it(shape: tuple[int, ...]) -> None:
    tensor = Tensor("blk.0.ffn_up_exps.weight", shape, CATALOGUE["F16"])
    for most in (1, CHUNK_WEIGHTS, 3 * CHUNK_WEIGHTS, 2**40):
        cut = list(rows_of_unit_size(tensor, most))
        assert [row for each in cut for row in (each.rows.start, each.rows.stop)][1:-1:2] == [
            each.rows.start for each in cut[1:]
        ]
        assert (cut[0].rows.start, cut[-1].rows.stop) == (0, tensor.rows)
        assert all(each.weights <= most or len(each.chunks) == 1 for each in cut)
        assert [number for each in cut for number in each.chunks] == list(range(cut[-1].chunks.stop))


@pytest.mark.parametrize("split", [None, Split(130_000)])
def test_parts_write_the_bytes_of_one_process(inputs: ModelInputs, tmp_path: Path, split: Split | None) -> None:
    importance = read_importance(Path(inputs.imatrix[0]))
    whole = quantize_model(
        Quantization(inputs.model, _allocation(inputs), tmp_path / "whole.gguf", Rounding(importance), split=split)
    )
    output = tmp_path / "parts.gguf"
    for index in (2, 0, 1):
        job = _job(inputs, output, split)
        with Journal(work_folder(output), job) as journal:
            run_part(job, Part(index, 3), journal)
    assert not output.exists()
    job = _job(inputs, output, split)
    journal = Journal(work_folder(output), job)
    lines = complete(job, journal)
    assert verify(job, lines, Fraction(1)) == len(job.units)
    written = job.finish(lines, journal)
    assert [path.read_bytes() for path in written.paths] == [path.read_bytes() for path in whole.paths]
    assert [each.sha256 for each in written.shards or [written]] == [each.sha256 for each in whole.shards or [whole]]
    assert not work_folder(output).exists()
    manifest = json.loads(manifest_path(output).read_text())
    assert [each["sha256"] for each in manifest["files"]] == [each.sha256 for each in written.shards or [written]]


def test_killed_work_goes_on_and_is_not_made_again(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units[:3], journal)
    (lines,) = journal.folder.glob("*.jsonl")
    lines.write_bytes(lines.read_bytes()[:-10])  # killed while it wrote the last line
    with Journal(work_folder(job.output), job) as journal:
        assert run_units(job, job.units, journal) == len(job.units) - 2
    job.finish(complete(job, journal), journal)
    whole = quantize_model(
        Quantization(inputs.model, job.allocation, tmp_path / "whole.gguf", Rounding(inputs.importance))
    )
    assert job.output.read_bytes() == whole.path.read_bytes()


def test_missing_parts_are_named_and_nothing_is_written(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    with Journal(work_folder(job.output), job) as journal:
        run_part(job, Part(0, 2), journal)
    with pytest.raises(InvalidInput, match="units are not there"):
        complete(job, journal)
    assert not job.output.exists()


def test_a_range_that_the_disk_lost_is_written_again(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units, journal)
    path = journal.folder / job.output.name
    path.write_bytes(bytes(path.stat().st_size))
    notes: list[str] = []
    job.finish(complete(job, journal), journal, notes=notes.append)
    assert len(notes) == len(job.units)
    whole = quantize_model(
        Quantization(inputs.model, job.allocation, tmp_path / "whole.gguf", Rounding(inputs.importance))
    )
    assert job.output.read_bytes() == whole.path.read_bytes()


def test_a_wrong_line_is_found_by_computing_it_again(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units, journal)
    name = "blk.1.attn_q.weight[0:128]"
    lines = complete(job, journal) | {name: {"unit": name, "sha256": "0" * 64}}
    with pytest.raises(InvalidInput, match=r"blk\.1\.attn_q\.weight\[0:128\].*another one"):
        verify(job, lines, Fraction(1))


def test_other_inputs_are_another_job(inputs: ModelInputs, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    types = {**_allocation(inputs).types, "output.weight": "Q6_K"}
    without = ModelInputs(path=inputs.path, types=inputs.types)
    keys = {
        _job(inputs, output).key,
        QuantizeJob(inputs, Allocation(types), output).key,
        QuantizeJob(inputs, _allocation(inputs), output, metadata={"general.name": "other"}).key,
        ProfileJob(inputs).key,
        ProfileJob(without).key,
    }
    assert len(keys) == 5
    assert _job(inputs, output).key == _job(replace(inputs), output).key


@pytest.mark.parametrize("sampled", [None, 8])
def test_a_profile_of_parts_is_that_of_one_process(tmp_path: Path, inputs: ModelInputs, sampled: int | None) -> None:
    by = ModelInputs(path=inputs.path, imatrix=inputs.imatrix, types=inputs.types, rows=sampled, cached=False)
    save_profile(by.profile(), tmp_path / "whole.json")
    output = tmp_path / "parts.json"
    for index in (1, 0):
        job = ProfileJob(replace(by))
        with Journal(work_folder(output), job) as journal:
            run_part(job, Part(index, 2), journal)
    job = ProfileJob(by)
    journal = Journal(work_folder(output), job)
    save_profile(job.finish(complete(job, journal), journal), output)
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_chunks_of_one_tensor_measured_apart_add_up_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_model(tmp_path / "model.gguf")
    by = ModelInputs(path=path, types=("Q8_0",), cached=False)
    # Chunks of 16 rows everywhere, and units of at most 3 of them.
    for module in (measure, rows):
        monkeypatch.setattr(module, "row_chunks", partial(row_chunks, chunk_weights=16 * 256))
    monkeypatch.setattr(profiling, "rows_of_unit_size", partial(rows_of_unit_size, most=3 * 16 * 256))
    job = ProfileJob(by)
    assert sum(unit.name.startswith("blk.0.attn_q.weight") for unit in job.units) == 6
    journal = Journal(tmp_path / "parts", job)
    lines = {unit.name: json.loads(json.dumps(job.run(unit))) for unit in reversed(job.units)}
    assert job.finish(lines, journal).digest() == by.profile().digest()


def test_commands_in_parts(inputs: ModelInputs, tmp_path: Path) -> None:
    allocation = tmp_path / "types.txt"
    allocation.write_text(
        "".join(f"^{name}$={kind}\n" for name, kind in _allocation(inputs).types.items() if kind != "I32")
    )
    for command in (["quantize", inputs.path, "-a", allocation], ["profile", inputs.path, "--types", "Q4_K,Q8_0"]):
        common = [*command, "-i", inputs.imatrix[0]]
        whole, output = tmp_path / f"{command[0]}.one", tmp_path / f"{command[0]}.parts"
        assert client(*common, "-o", whole).code == 0
        assert client(*common, "-o", output, "--merge").code == 2
        for index in range(2):
            assert client(*common, "-o", output, "--index", index, "--of", 2).code == 0
        assert client(*common, "-o", output, "--merge", "--verify-share", "1%").code == 0
        assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--index", "0"], "belong together"),
        (["--index", "2", "--of", "2"], "from 0 to 1"),
        (["--index", "0", "--of", "2", "--merge"], "together"),
        (["--verify-share", "1%"], "only with --merge"),
        (["--merge", "--verify-share", "many"], "no share"),
    ],
)
def test_options_that_make_no_sense_are_refused(inputs: ModelInputs, options: list[str], says: str) -> None:
    assert inputs.path is not None
    found = client("profile", inputs.path, "-o", inputs.path.with_name("out.json"), *options)
    assert found.code == 2
    assert says in " ".join(found.err.split())


def test_a_part_that_must_have_all_makes_what_nobody_has_made(inputs: ModelInputs, tmp_path: Path) -> None:
    """After its own share the shortest of the others', which their own processes make last."""
    job = _job(inputs, tmp_path / "out.gguf")
    mine, theirs = part(job.units, Part(0, 2)), part(job.units, Part(1, 2))
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, theirs[:2], journal)
        assert run_part_and_rest(job, job.units, Part(0, 2), journal) == len(job.units) - 2
        assert list(journal.known())[2:] == [unit.name for unit in (*mine, *reversed(theirs[2:]))]
        assert run_part_and_rest(job, job.units, Part(1, 2), journal) == 0


def test_progress_counts_costs_from_what_was_done_to_the_end(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    steps: list[tuple[int, int]] = []
    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units[:4], journal)
        run_units(job, job.units, journal, lambda done, total: steps.append((done, total)))
    total = sum(1 + round(unit.cost) for unit in job.units)
    assert steps == sorted(steps)
    assert steps[0] == (sum(1 + round(unit.cost) for unit in job.units[:4]), total)
    assert steps[-1] == (total, total)
    assert len(steps) == len(job.units) - 4 + 1


def test_lines_come_in_any_order_and_an_executor_is_closed(inputs: ModelInputs, tmp_path: Path) -> None:
    job = _job(inputs, tmp_path / "out.gguf")
    closed: list[bool] = []

    def backwards(work: Work, units: Sequence[Unit]) -> Made:
        try:
            for unit in reversed(units):
                yield unit, work.run(unit)
        finally:
            closed.append(True)

    with Journal(work_folder(job.output), job) as journal:
        run_units(job, job.units, journal, executor=backwards)
        job.finish(complete(job, journal), journal)
    assert closed == [True]
