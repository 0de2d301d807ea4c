"""What the slider stands on: from the first allocation and the changes alone, every point's figures follow."""

from pathlib import Path

import pytest

from raq_client.models.file_types import file_type
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.recipes.mixtures import mixture, tensor_bytes
from support.commands import client


def test_the_changes_lead_from_point_to_point(model_path: Path, fisher_path: Path, tmp_path: Path) -> None:
    profile = tmp_path / "m.profile.json"
    types = "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K"
    assert client("profile", model_path, "-i", fisher_path, "--types", types, "-o", profile, "--no-cache").code == 0
    sweep = ("sweep", "-p", profile, "--from", "1", "--to", "9", "--points", "41", "--json")
    found = client(*sweep, "--with-table").json
    table, current = found["table"], dict(found["first"])
    column = {name: index for index, name in enumerate(table["quant_types"])}
    reached = 0
    for point in found["points"]:
        for change in point["changes"]:
            tensor, _, types = change.rpartition(": ")
            before, _, after = types.partition(" -> ")
            assert current[tensor] == before
            current[tensor] = after
        if point["bytes"] is None:
            continue
        cells = [(row, column[current[name]]) for row, name in enumerate(table["tensors"])]
        assert sum(table["bytes"][row][at] for row, at in cells) == point["bytes"]
        assert sum(table["losses"][row][at] for row, at in cells) == pytest.approx(point["loss"])
        reached += 1
    assert reached > 20
    assert {mark["name"] for mark in found["landmarks"]} >= {"Q4_K_M", "Q6_K"}
    for mark in found["landmarks"]:
        chosen = mixture(table_of(open_model(model_path)), file_type(mark["name"]))
        assert mark["size"] == tensor_bytes(chosen)
        losses = [table["losses"][table["tensors"].index(t.name)][column[each.name]] for t, each in chosen.items()]
        assert mark["loss"] == pytest.approx(sum(losses))
    assert "table" not in client(*sweep).json
    offered = [[loss is not None for loss in row] for row in table["losses"]]
    assert offered == [[size is not None for size in row] for row in table["bytes"]]
