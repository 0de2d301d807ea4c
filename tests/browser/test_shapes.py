"""Maps of models of another shape, error bars where they belong, and the tensor at which a build fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raq_client.models.model_file import open_model
from support.browsers import Browser
from support.dashboards import Dashboard, model_folder, running
from support.large_models import hybrid_folder, hybrid_shapes

pytestmark = pytest.mark.slow
MODEL = "wiki-math-4M-f16.gguf"
DRAWN = """
const done = arguments[arguments.length - 1];
import("/static/plot.js").then(({Plot}) => {
  const box = document.createElement("div");
  box.className = "chart";
  box.style.width = "640px";
  document.body.append(box);
  const plot = new Plot(box, {x: "x", y: "y"}, () => {});
  const ranges = [[0.5, 2], [0.05, 0.2]];
  plot.show([{points: [[2, 1], [4, 0.1]], ranges, colour: "rgb(1, 200, 3)"}], {text: "#000", lines: "#ccc"});
  const context = box.querySelector("canvas").getContext("2d");
  const ratio = devicePixelRatio;
  const isDrawn = (x, y) => {
    const found = context.getImageData(Math.round(plot.x(x) * ratio), Math.round(plot.y(y) * ratio), 1, 1).data;
    return found[1] > 150 && found[0] < 100 && found[3] > 100;
  };
  const places = [[2, 1.9], [2, 0.52], [2, 2.3], [2, 0.42], [4, 0.19], [4, 0.052], [4, 0.24], [3, 1]];
  const found = places.map(([x, y]) => isDrawn(x, y));
  box.remove();
  done(found);
}, (error) => done(String(error)));
"""


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    root = hybrid_folder(tmp_path_factory.mktemp("hybrid") / "models")
    with running(root, tmp_path_factory.mktemp("cache")) as found:
        yield found


def _table(page: Browser) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The map as a table: its columns, and the texts of its cells by block and column."""
    page.run("document.getElementById('as-table').open = true")
    page.until("return document.querySelector('#table table')")
    heads: list[str]
    heads, rows = page.run(
        "return [[...document.querySelectorAll('#table thead th')].map((each) => each.textContent),"
        " [...document.querySelectorAll('#table tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))]"
    )
    return heads[1:], {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}


def test_a_hybrid_model_is_mapped_by_roles_and_a_missing_role_is_blank(page: Browser, hybrid: Dashboard) -> None:
    page.open(hybrid.url)
    page.until("return [...document.getElementById('quantity').options].some((each) => each.value === 'importance')")
    page.set("#quantity", "importance")
    columns, cells = _table(page)
    parts = [name.removesuffix(".weight").split(".") for name, _ in hybrid_shapes()]
    in_blocks = {(each[1], each[2]) for each in parts if each[0] == "blk"}
    roles = {role for _, role in in_blocks}
    assert roles <= set(columns)
    assert {"attn_q", "ssm_out"} <= roles
    assert [row for row in cells if row.isdecimal()] == [str(block) for block in range(64)]
    for block in map(str, range(64)):
        for role in roles:
            assert (cells[block][role] != "") == ((block, role) in in_blocks), (block, role)
    assert "attn_q" in page.text("#structure")
    assert "ssm_out" in page.text("#structure")
    shown = {row["name"]: row for row in hybrid.get("/api/importance?file=hybrid.imatrix.gguf")}
    assert float(cells["0"]["ssm_out"]) == pytest.approx(shown["blk.0.ssm_out.weight"]["mean"], rel=6e-3)


def test_error_bars_reach_from_end_to_end_and_no_further(page: Browser, dashboard: Dashboard) -> None:
    page.open(dashboard.url)
    page.until("return location.pathname === '/model'")
    found: Any = page.driver.execute_async_script(DRAWN)
    assert found == [True, True, False, False, True, True, False, False]


def test_measured_files_stand_on_the_frontier_with_their_intervals(
    page: Browser, folder: Path, browser_cache: Path, tmp_path: Path
) -> None:
    root = model_folder(tmp_path / "measured")
    profile = "wiki-math-4M.profile.json"
    (root / profile).write_bytes((folder / profile).read_bytes())
    with running(root, browser_cache) as dashboard:
        fields = {"model": MODEL, "imatrix": ["wiki-math-4M.gsm8k.fisher.imatrix.gguf"], "budget": "4.5"}
        more = {"text": ["held-out.txt"], "windows": "4", "output": "built.gguf"}
        number = dashboard.post("/api/jobs", {"action": "run", "fields": fields | more}).json["id"]
        dashboard.until(number, "done")
        page.open(dashboard.url)
        page.go("plan")
        page.until("return document.getElementById('legend').textContent.includes('measured, with 95 % intervals')")
        (manifest,) = [each for each in dashboard.get("/api/manifests") if each["file"] == "built.gguf"]
        row = page.text("#file-points tbody")
        assert f"{manifest['kl']['value']:.3g}" in row
        assert " ± " in row


def test_a_build_that_fails_names_its_tensor(page: Browser, browser_cache: Path, tmp_path: Path) -> None:
    root = model_folder(tmp_path / "damaged")
    model = open_model(root / MODEL)
    tensor = next(each for each in model.tensors if each.name == "blk.2.ffn_up.weight")
    where = model.stored(tensor, 0, 1)
    data = bytearray((root / MODEL).read_bytes())
    start = bytes(data).index(where.tobytes())
    data[start : start + 2] = np.float16(np.nan).tobytes()
    (root / MODEL).write_bytes(data)
    with running(root, browser_cache) as dashboard:
        page.open(dashboard.url)
        page.go("build")
        fields = {"model": MODEL, "types": "Q8_0,Q4_K", "output": "x.profile.json"}
        dashboard.post("/api/jobs", {"action": "profile", "fields": fields})
        page.until("return document.querySelector('#jobs .job[data-state=failed] .error')")
        assert page.text("#jobs .error").startswith("blk.2.ffn_up.weight: ")
        assert "damaged" in page.text("#jobs .error")
        assert not (root / "x.profile.json").exists()
