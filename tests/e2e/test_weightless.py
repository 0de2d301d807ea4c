"""From shapes and a published table to a plan, without a weight at hand."""

from pathlib import Path

from support.commands import client

SHAPES = """name,shape
token_embd.weight,512x1024
blk.0.attn_q.weight,512x512
blk.0.attn_norm.weight,512
blk.0.ffn_down.weight,1024x512
output.weight,512x1024
"""
TABLE = """QTYPE,token_embd.weight,blk.0.attn_q.weight,blk.0.ffn_down.weight,output.weight
iq2_ks,0.004,0.0011,404,0.09
"""


def test_shapes_and_a_published_table_make_a_plan(tmp_path: Path) -> None:
    shapes, table = tmp_path / "tiny.csv", tmp_path / "kld_results.csv"
    shapes.write_text(SHAPES, encoding="utf-8")
    table.write_text(TABLE, encoding="utf-8")
    plain, filled = tmp_path / "plain.json", tmp_path / "filled.json"
    made = client("profile", shapes, "-o", plain, "--json")
    assert made.code == 0, made.err
    assert made.json["weights"] == 512 * 1024 * 2 + 512 * 512 + 512 + 1024 * 512
    imported = client("sensitivity-import", table, plain, "-o", filled)
    assert imported.code == 0, imported.err
    for word in ("Thireus", "GGUF Tool Suite", "its contributors", "https://github.com/Thireus/GGUF-Tool-Suite"):
        assert word in imported.err
    assert "1 more from role and depth" in imported.err
    assert "left out: 1 value" in imported.err
    plan = client("solve", "-p", filled, "-b", "5", "--json")
    assert plan.code == 0, plan.err
    assert "Thireus" in plan.json["loss_source"]
    assert "Gaussian rows" in plan.json["loss_source"]
    told = client("solve", "-p", plain, "-b", "5").out
    for word in ("Gaussian", "Thireus", "GGUF"):  # the prior's credit, wrapped
        assert word in told
    assert (
        client("sensitivity-import", table, plain, "-o", tmp_path / "j.json", "--json", "--by-role").json[
            "failed_values"
        ]
        == 1
    )


def test_what_cannot_be_is_refused(tmp_path: Path, imatrix_path: Path) -> None:
    shapes, out = tmp_path / "tiny.csv", tmp_path / "out.json"
    shapes.write_text(SHAPES, encoding="utf-8")
    refused = client("profile", shapes, "-i", imatrix_path, "-o", out)
    assert (refused.code, "is a table of shapes" in refused.err) == (2, True)
    refused = client("sensitivity-import", shapes, shapes, "-o", out)
    assert (refused.code, "is no table of per-tensor KL divergence" in refused.err) == (2, True)
    assert "GGUF Tool Suite" in " ".join(client("sensitivity-import", "--help").out.split())
