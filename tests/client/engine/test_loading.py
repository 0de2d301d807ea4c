"""What is asked of a model before libllama is, and what is said when its numbers are not finite."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.engine import NotFiniteError
from raq_client.engine.loading import evaluable, loaded
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import BrokenByTrialError, Trial, TrialSetup
from raq_client.evaluation.kl_baseline import write_baseline
from raq_client.importance.collect import collect
from raq_client.models.gguf_header import StoredValue, TensorInfo, encode_header, stored
from raq_client.models.model_file import open_model, read_header
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from support.checks import check
from support.engine_models import MODEL, TEXT, rewrite
from support.gguf_files import small_model

SHORT = Text("short", TEXT[:6000])


def with_metadata(path: Path, **values: StoredValue) -> Path:
    """The committed model with other metadata (`__` stands for a dot)."""
    data, header = MODEL.read_bytes(), read_header(MODEL)
    changed = dict(header.metadata) | {key.replace("__", "."): value for key, value in values.items()}
    path.write_bytes(encode_header(changed, header.tensors, 32) + data[header.data_start :])
    return path


def spoiled(path: Path, tensor: str, value: float = np.nan, quant_type: str | None = None) -> Path:
    """The committed model with one number of a tensor spoiled: a weight, or with a type its first scale."""

    def change(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
        if name == tensor:
            data.reshape(-1)[5] = value
        return {name: data}

    if quant_type is None:
        return rewrite(path, change)
    rewrite(path, lambda name, data: {name: data}, quant_type=gguf.GGMLQuantizationType[quant_type])
    reader = gguf.GGUFReader(path, "r+")
    next(each for each in reader.tensors if each.name == tensor).data.reshape(-1)[:2] = [0x00, 0x7E]  # a NaN of 16 bits
    return path


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tokenizer__ggml__model": stored("none")}, "has no tokenizer, so it can't read text"),
        ({"tokenizer__ggml__model": stored("no_vocab")}, "has no tokenizer"),
        ({"general__architecture": stored("bert")}, r"does not predict the next token \(it is an encoder, bert\)"),
        ({"llama__attention__causal": stored(value=False)}, "does not predict the next token"),
        ({"general__alignment": stored(8)}, "general.alignment is 8, libllama reads a u32 of 32 or more"),
        ({"general__alignment": StoredValue(10, (32).to_bytes(8, "little"))}, "libllama reads a u32"),
        ({"general__type": stored("adapter")}, "a LoRA adapter, not a model"),
        ({"general__type": stored("imatrix")}, "an importance file, not a model"),
    ],
)
def test_what_libllama_would_end_the_process_over_is_said_before(
    tmp_path: Path, values: dict[str, StoredValue], sentence: str
) -> None:
    path = with_metadata(tmp_path / "unfit.gguf", **values)
    for work in (lambda: check(MODEL, path, [SHORT], context=64), lambda: collect(path, [SHORT], context=64)):
        with pytest.raises(InvalidInput, match=sentence) as error:
            work()
        assert error.value.faults[0].where == str(path)


def test_a_file_without_tensors_and_one_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(encode_header(read_header(MODEL).metadata, (), 32))
    with pytest.raises(InvalidInput, match="holds no tensors, a vocabulary at most"):
        evaluable(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InvalidInput, match="Git LFS pointer"):
        evaluable(path)
    with pytest.raises(InvalidInput, match="there is no such model file"):
        evaluable(tmp_path / "absent.gguf")


def split(folder: Path) -> list[Path]:
    """The committed model in two shards, as llama-gguf-split makes them: all metadata in the first."""
    data, header = MODEL.read_bytes(), read_header(MODEL)
    paths = [folder / f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    middle = len(header.tensors) // 2
    ends = header.tensors[middle].offset, len(data) - header.data_start
    for number, path in enumerate(paths):
        keys = {"split.no": number, "split.count": 2, "split.tensors.count": len(header.tensors)}
        # llama.cpp wants u16, u16 and i32.
        split_keys = {
            key: StoredValue(5 if "tensors" in key else 2, value.to_bytes(4 if "tensors" in key else 2, "little"))
            for key, value in keys.items()
        }
        first = number * ends[0]
        infos = [
            TensorInfo(each.name, each.shape, each.ggml_id, each.offset - first)
            for each in header.tensors[number * middle : len(header.tensors) if number else middle]
        ]
        metadata = (dict(header.metadata) if number == 0 else {}) | split_keys
        body = data[header.data_start + first : header.data_start + ends[number]]
        path.write_bytes(encode_header(metadata, infos, 32) + body)
    return paths


def test_any_shard_leads_to_the_first(tmp_path: Path) -> None:
    shards = split(tmp_path)
    assert [evaluable(shard) for shard in shards] == [shards[0]] * 2
    assert check(MODEL, shards[1], [SHORT], context=64, windows=2, threads=1).overall.kl.value == 0
    assert collect(shards[1], [SHORT], context=64, windows=2, threads=1).entries
    bench = TrialSetup(open_model(shards[1]), shards[1], None, [SHORT], windows=2, context=64, threads=1)
    with Trial(bench) as trial:
        assert trial.run({}).scores.kl.max() == 0
    shards[0].unlink()
    with pytest.raises(InvalidInput, match=r"m-00001-of-00002.gguf: this shard of the model is missing"):
        evaluable(shards[1])


def test_a_sound_model_is_what_it_was(tmp_path: Path) -> None:
    assert evaluable(MODEL) == MODEL
    with pytest.raises(InvalidInput, match="no tokenizer"):
        evaluable(small_model(tmp_path / "small.gguf"))
    with loaded(MODEL, context=64, threads=1) as model:
        assert model.context == 64


@pytest.mark.parametrize(
    ("tensor", "value", "quant_type"),
    [
        ("blk.0.attn_norm.weight", np.nan, None),
        ("blk.1.ffn_up.weight", np.inf, None),
        ("blk.1.attn_q.weight", np.nan, "Q8_0"),
    ],
)
def test_a_weight_that_is_not_finite_ends_all_work_and_is_named(
    tmp_path: Path, tensor: str, value: float, quant_type: str | None
) -> None:
    path = spoiled(tmp_path / "spoiled.gguf", tensor, value, quant_type)
    named = rf"spoiled.gguf: .* weight \d+ of row \d+ of {tensor} is (nan|inf); get or make the file again"
    baseline = tmp_path / "baseline.kld"
    for work in (
        lambda: check(MODEL, path, [SHORT], context=64, windows=2, threads=1),
        lambda: collect(path, [SHORT], context=64, windows=2, threads=1),
        lambda: write_baseline(path, [SHORT], baseline, context=64, windows=2, threads=1),
    ):
        with pytest.raises(NotFiniteError, match=named):
            work()
    assert not baseline.exists()


def test_a_trial_knows_a_broken_model_from_one_that_it_broke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoiled(tmp_path / "spoiled.gguf", "output_norm.weight")
    broken = TrialSetup(open_model(path), path, None, [SHORT], windows=2, context=64, threads=1)
    with (
        pytest.raises(NotFiniteError, match=r"weight 5 of row 0 of output_norm.weight is nan"),
        Trial(broken) as trial,
    ):
        trial.run({})
    sound = TrialSetup(open_model(MODEL), MODEL, None, [SHORT], windows=2, context=64, threads=1)
    with Trial(sound) as trial:
        trial.prepare()
        assert trial.run({"blk.0.attn_q.weight": CATALOGUE["Q8_0"]}).scores.kl.mean() < 0.01
        probe = Trial._probe

        def overflowing(self: Trial, *arguments: object) -> object:
            found = probe(self, *arguments)  # type: ignore[arg-type]
            found.values[:] = np.inf
            return found

        monkeypatch.setattr(Trial, "_probe", overflowing)
        with pytest.raises(BrokenByTrialError, match="with these types its predictions are not finite"):
            trial.run({"blk.0.attn_q.weight": CATALOGUE["Q8_0"]})
