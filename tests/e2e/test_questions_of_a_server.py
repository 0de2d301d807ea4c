"""The commands ask a server by its own methods, and print what they print without it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raq_client.files.profile_file import save_profile
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_server import RunningServer
from raq_server.config import TokenEntry
from raq_server.service.tokens import hash_of
from support.commands import client
from support.services import serving

RANGE = ("sweep", "--from", "3", "--to", "6", "--points", "20")
PINNED = ("--pin", "output.weight=Q8_0", "--floor", "blk.0.*=2")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, model_path: Path, imatrix_path: Path) -> Path:
    path = tmp_path_factory.mktemp("profile") / "4m.json"
    save_profile(measure_profile(open_model(model_path), read_importance(imatrix_path), chosen_types(("k",))), path)
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving() as server:
        yield server


@pytest.mark.parametrize(
    ("command", "method"),
    [
        ((*RANGE, "--csv"), "Sweep"),
        (("sweep", "--ladder", "3,3.5,4.5,6", "--json"), "Ladder"),
        (("explain", "output.weight", "-b", "5", "--json"), "ExplainTensor"),
        (("explain", "-b", "5", *PINNED, "--json"), "ExplainCosts"),
        (("explain", "-b", "3", *PINNED), "ExplainConflict"),
        (("audit", "all.txt", "--json"), "Audit"),
        (("solve", "--max-loss", "0.01", "--format", "llama.cpp"), "Smallest"),
    ],
)
def test_a_server_answers_alike_by_its_own_method(
    profile: Path,
    running: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    method: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.txt").write_text(".*=q4_K\n", encoding="utf-8")
    name, labels = "raq_call_seconds_count", {"method": method, "code": "OK"}
    before = running.metrics.registry.get_sample_value(name, labels) or 0
    here = client(*command, "-p", profile)
    assert (running.metrics.registry.get_sample_value(name, labels) or 0) == before
    there = client(*command, "-p", profile, "--server", running.address)
    assert (there.code, there.out, there.err) == (here.code, here.out, here.err)
    assert here.code in {0, 4}
    assert here.out or here.err
    assert running.metrics.registry.get_sample_value(name, labels) == before + 1


def test_faults_and_failures_of_a_server_are_told_the_latter_with_the_number_of_the_request(profile: Path) -> None:
    with serving(tensors_limit=3) as small:
        refused = client(*RANGE, "-p", profile, "--server", small.address)
    assert refused.code == 2
    assert "this server takes at most 3" in refused.err
    entry = TokenEntry(name="somebody else", sha256=hash_of("secret"))
    with serving(tokens=[entry]) as guarded:
        failed = client(*RANGE, "-p", profile, "--server", guarded.address)
    assert failed.code != 0
    assert re.search(r"token is missing.*\[request [0-9a-f]{32}\]", failed.err), failed.err
