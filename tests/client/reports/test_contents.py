"""What files are: kinds of blocks, sizes, and why some can't be read."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from raq_client.models.model_file import open_model
from raq_client.reports.contents import block_kinds, contents
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensor_names import block_of
from raq_solver.tensors import Tensor
from support.commands import client

ROLES = {
    "attention": (("attn_q.weight", (256, 256)), ("ffn_up.weight", (256, 512))),
    "recurrent": (("ssm_in.weight", (256, 512)), ("ffn_up.weight", (256, 512))),
    "wide": (("attn_q.weight", (256, 512)), ("ffn_up.weight", (256, 512))),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(ROLES)), st.sampled_from(["Q8_0", "Q4_0"])), max_size=12))
def test_blocks_are_one_kind_if_names_and_shapes_are_equal(blocks: list[tuple[str, str]]) -> None:
    tensors = [
        Tensor(f"blk.{number}.{name}", shape, CATALOGUE[quant_type])
        for number, (kind, quant_type) in enumerate(blocks)
        for name, shape in ROLES[kind]
    ]
    found = block_kinds(tensors)
    expected: dict[str, tuple[int, ...]] = {}
    for number, (kind, _) in enumerate(blocks):
        expected[kind] = (*expected.get(kind, ()), number)
    assert [kind.blocks for kind in found] == list(expected.values())
    assert sum(kind.size for kind in found) == sum(tensor.size for tensor in tensors)
    for kind in found:
        used = {tensor.source_type.name for tensor in tensors if block_of(tensor.name) in kind.blocks}
        assert {name for _, _, types in kind.tensors for name in types} == used


def test_a_model_has_its_figures(model_path: Path) -> None:
    model = open_model(model_path)
    found = contents(model_path, with_tensors=True)
    assert found["tensor_bytes"] == sum(tensor.size for tensor in model.tensors)
    assert [each["name"] for each in found["tensors"]] == [tensor.name for tensor in model.tensors]
    assert [kind["blocks"] for kind in found["structure"]] == [(-1,), (0, 1, 2, 3)]


def test_what_can_not_be_read_is_said_and_the_rest_is_shown(
    model_path: Path, imatrix_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no")
    result = client("inspect", broken, imatrix_path, model_path, tmp_path / "none.gguf", "--json")
    assert result.code == 2
    assert [each["kind"] for each in result.json] == ["unreadable", "importance", "model", "unreadable"]
    assert str(broken) in result.json[0]["error"]
    shown = client("inspect", broken, model_path)
    assert str(broken) in shown.out.replace("\n", "")  # a long path is wrapped
    assert "4,458,752" in shown.out
