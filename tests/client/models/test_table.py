from pathlib import Path

import pytest

from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable, table_of
from raq_solver.errors import InvalidInput
from raq_solver.tensor_names import block_of, role_of
from support.gguf_files import MODEL_4M

HEAD = "name,shape,params,role\n"


def _csv(folder: Path, text: str) -> Path:
    path = folder / "m_tensors.csv"
    path.write_text(text)
    return path


def test_a_header_is_enough(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(MODEL_4M.read_bytes()[:200_000])
    table = read_table(cut)
    assert table.tensors == open_model(MODEL_4M).tensors
    assert (table.name, table.architecture, table.block_count) == ("wiki-math-4M", "llama", 4)
    assert table.number("attention.head_count_kv") == 2
    assert table.weights == 4_458_752


def test_the_table_of_an_open_model_is_the_same() -> None:
    one, other = read_table(MODEL_4M), table_of(open_model(MODEL_4M))
    assert (one.tensors, one.metadata) == (other.tensors, other.metadata)


def test_numbers_of_block_0_stand_for_lists() -> None:
    table = ModelTable("m", "any", (), {"any.attention.head_count_kv": [0, 4], "any.name": "text"})
    assert table.number("attention.head_count_kv") == 0
    assert table.number("name") == 0
    assert table.number("absent") == 0


class TestRealTables:
    def test_both_formats_of_one_model_agree(self, shapes: Path, data: Path) -> None:
        table = read_table(shapes / "qwen36_27b_tensors.csv")
        written, published = (
            {tensor.name: tensor for tensor in read_table(listing).tensors}
            for listing in (shapes / "qwen36_27b.bf16.map", data / "qwen36_27b.part.bf16.map")
        )
        assert {tensor.name: tensor for tensor in table.tensors} == written
        assert len(published) == 28
        assert published.items() <= written.items()
        assert (len(table.tensors), table.weights) == (851, 26_895_998_464)
        assert sum(is_quantizable(tensor) for tensor in table.tensors) == 498
        assert (table.name, table.architecture, table.block_count) == ("qwen36_27b", "qwen35", 64)

    @pytest.mark.parametrize(
        ("name", "tensors", "weights", "architecture"),
        [
            ("llama31_8b", 292, 8_030_261_312, "llama"),
            ("llama3_70b", 723, 70_553_706_496, "llama"),
            ("mixtral_8x7b", 323, 46_702_792_704, "llama"),
            ("qwen3_30b_a3b", 579, 30_532_122_624, "qwen3moe"),
            ("qwen36_35b_a3b", 733, 34_660_610_688, "qwen35moe"),
            ("glm45_air", 803, 110_468_824_832, "glm4moe"),
            ("deepseek_v4_flash", 1328, 284_334_567_511, ""),
        ],
    )
    def test_counts_are_the_published_ones(
        self, shapes: Path, name: str, tensors: int, weights: int, architecture: str
    ) -> None:
        table = read_table(shapes / f"{name}_tensors.csv")
        assert (len(table.tensors), table.weights, table.architecture) == (tensors, weights, architecture)


def test_an_architecture_can_be_told(tmp_path: Path) -> None:
    path = _csv(tmp_path, HEAD + "token_embd.weight,256x512,131072,token_embd\n")
    assert read_table(path, "falcon").architecture == "falcon"
    assert read_table(path).tensors[0].source_type.name == "BF16"


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    lines = ["a.weight,256x,1,r", "b.weight,0x4,0,r", "c.weight,4x4,16,r", "c.weight,4x4,16,r", ",4,4,r"]
    with pytest.raises(InvalidInput) as error:
        read_table(_csv(tmp_path, HEAD + "\n".join(lines)))
    assert [fault.where.split(", ")[-1] for fault in error.value.faults[:3]] == ["line 2", "line 3", "line 6"]
    assert error.value.faults[3].what == "c.weight occurs twice"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("m.csv", "tensor,size\n", "must name the columns"),
        ("m.csv", HEAD, "lists no tensors"),
        ("m.map", "too:few\n", "no such quant type"),
        ("m.map", "s:h:a.weight:shape=(4, 4):dtype=f32:elements=16:bytes=63\n", "do not agree"),
        ("m.txt", "", "not a table of tensors"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidInput, match=sentence):
        read_table(path)


def test_an_absent_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be read"):
        read_table(tmp_path / "absent.csv")


def test_block_numbers() -> None:
    assert [block_of(name) for name in ("blk.12.attn_q.weight", "output.weight", "v.blk.3.x")] == [12, -1, -1]


def test_roles() -> None:
    names = ("blk.12.attn_q.weight", "output.weight", "blk.3.ssm_dt.bias", "blk.0.ssm_a")
    assert [role_of(name) for name in names] == ["attn_q", "output", "ssm_dt", "ssm_a"]
