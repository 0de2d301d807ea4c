"""Jobs as processes of their own: they end as they say, are cancelled whole, and outlive the dashboard."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raq_client.dashboard import runner
from support.dashboards import SECONDS, Dashboard, model_folder, running, start
from support.paths import DATA

MODEL, TEXT = "wiki-math-4M-f16.gguf", "held-out.txt"
LONG = {"model": MODEL, "text": [TEXT], "fisher": "4", "output": "long.imatrix.gguf"}
"""A job of some seconds."""
LONGER = LONG | {"text": ["long.txt"], "fisher": "30"}
"""A job that takes longer than any test that ends it."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models(tmp_path_factory.mktemp("queue") / "models")


def models(root: Path) -> Path:
    """A folder with a model, and the text of LONGER."""
    model_folder(root)
    (root / "long.txt").write_bytes((DATA / "gsm8k.evaluation.txt").read_bytes())
    return root


@pytest.fixture(scope="module")
def dashboard(folder: Path, cache: Path) -> Iterator[Dashboard]:
    with running(folder, cache) as found:
        yield found


def add(dashboard: Dashboard, action: str, fields: dict[str, Any]) -> int:
    reply = dashboard.post("/api/jobs", {"action": action, "fields": fields})
    assert reply.status == 200, reply.body
    return int(reply.json["id"])


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(".partial")}


def test_a_job_is_the_command_that_is_shown_and_its_result_is_its_json(dashboard: Dashboard, folder: Path) -> None:
    number = add(dashboard, "run", {"model": MODEL, "budget": "5.0", "types": "Q8_0,Q4_0", "output": "a.gguf"})
    job = dashboard.until(number, "done", "failed")
    assert (job["state"], job["code"], job["error"]) == ("done", 0, None)
    assert job["command"] == (
        f"raq-client run {MODEL} -b 5.0 --types Q8_0,Q4_0 --no-trial -o a.gguf --manifest a.manifest.json --json"
    )
    assert [stage["stage"] for stage in job["stages"]] == ["measuring errors", "quantizing"]
    assert all(stage["done"] == stage["total"] for stage in job["stages"])
    result = dashboard.get(f"/api/jobs/{number}/result")
    assert result["file"]["sha256"] == json.loads((folder / "a.manifest.json").read_text())["outputs"]["a.gguf"]
    log = dashboard.request("GET", f"/api/jobs/{number}/log", x_raq_token=dashboard.token)
    assert log.body == (folder / ".raq" / "jobs" / str(number) / runner.EVENTS).read_bytes()
    assert json.loads(log.body.splitlines()[-1]) == {"event": "end", "code": 0}


def test_a_failure_is_told_in_the_tools_own_words_and_can_be_tried_again(dashboard: Dashboard, folder: Path) -> None:
    (folder / "torn.gguf").write_bytes((folder / MODEL).read_bytes()[:-1000])
    number = add(dashboard, "profile", {"model": "torn.gguf", "output": "torn.profile.json"})
    job = dashboard.until(number, "failed")
    assert job["code"] == 2
    assert "torn.gguf: the file is cut off" in job["error"]
    (folder / "torn.gguf").write_bytes((folder / MODEL).read_bytes())
    again = dashboard.post("/api/jobs/retry", {"id": number}).json
    assert again["command"] == job["command"]
    assert dashboard.until(again["id"], "done", "failed")["state"] == "done"


def test_jobs_wait_for_each_other_move_and_never_write_one_file(dashboard: Dashboard, folder: Path) -> None:
    first = add(dashboard, "collect", LONGER)
    taken = dashboard.post("/api/jobs", {"action": "collect", "fields": LONGER})
    assert (taken.status, f"job {first} writes it" in taken.json["error"]) == (409, True)
    waiting = [
        add(dashboard, "profile", {"model": MODEL, "types": "Q8_0", "output": f"{name}.profile.json"}) for name in "bc"
    ]
    dashboard.post("/api/jobs/move", {"id": waiting[1], "forward": True})
    assert [job["id"] for job in dashboard.get("/api/jobs")["unfinished"]] == [first, *waiting[::-1]]
    for number in waiting:
        dashboard.post("/api/jobs/cancel", {"id": number})
        assert dashboard.job(number)["state"] == "cancelled"
    dashboard.until(first, "running")
    dashboard.post("/api/jobs/cancel", {"id": first})
    job = dashboard.until(first, "cancelled")
    assert job["code"] in {128 + signal.SIGTERM, -signal.SIGTERM}  # the latter before its handler is there
    assert not (folder / "long.imatrix.gguf").exists()
    assert not left_behind(folder)


def test_a_killed_command_is_said_to_be(dashboard: Dashboard) -> None:
    number = add(dashboard, "collect", LONGER)
    dashboard.until(number, "running")
    os.kill(command_of(number), signal.SIGKILL)
    assert dashboard.until(number, "failed", "done")["error"] == "killed by signal 9"


def test_jobs_outlive_the_dashboard_with_their_history(folder: Path, cache: Path) -> None:
    root = folder.parent / "restarted"
    first = start(model_folder(root), cache)
    number = add(first, "collect", LONG)
    first.until(number, "running")
    waiting = add(first, "profile", {"model": MODEL, "types": "Q8_0", "output": "later.profile.json"})
    before = first.job(number)
    assert first.stop() == 130
    with running(root, cache) as second:
        found = second.job(number)
        assert (found["started"], found["command"]) == (before["started"], before["command"])
        assert found["state"] in {"running", "done"}
        job = second.until(number, "done", "failed")
        assert (job["state"], job["code"]) == ("done", 0)
        assert job["stages"][: len(before["stages"])] != [] or not before["stages"]
        assert second.until(waiting, "done", "failed")["state"] == "done"  # what waited is started by the next one
    assert (root / "long.imatrix.gguf").exists()


def test_a_job_whose_processes_all_died_is_said_to_have(folder: Path, cache: Path) -> None:
    root = folder.parent / "killed"
    first = start(models(root), cache)
    number = add(first, "collect", LONGER)
    first.until(number, "running")
    end = time.monotonic() + SECONDS
    while not (lock := root / ".raq" / "jobs" / str(number) / runner.LOCK).read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert first.stop() == 130
    command = command_of(number, root)
    os.kill(int(lock.read_text()), signal.SIGKILL)
    os.kill(command, signal.SIGKILL)
    with running(root, cache) as second:
        assert "was killed" in second.until(number, "failed")["error"]


def command_of(number: int, folder: Path | None = None) -> int:
    """The number of the process that runs the command of a job, by its runner's."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for process in Path("/proc").iterdir():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdecimal() else []
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1] if words else ""
                runs = (Path("/proc") / parent / "cmdline").read_bytes().split(b"\0") if parent else []
            except OSError:
                continue
            job = f"/.raq/jobs/{number}".encode()
            mine = [word for word in runs if word.endswith(job) and (folder is None or word.startswith(bytes(folder)))]
            if b"raq_client.dashboard.runner" in runs and mine and b"raq_client" in words:
                return int(process.name)
        time.sleep(0.05)
    raise AssertionError(f"no process runs job {number}")


def test_a_manifest_whose_file_has_changed_is_told_apart(dashboard: Dashboard, folder: Path) -> None:
    def states() -> dict[str, str]:
        return {each["file"]: each["hash"] for each in dashboard.get("/api/manifests") if "file" in each}

    def until(state: str) -> None:
        end = time.monotonic() + SECONDS
        while states().get("built.gguf") != state:
            assert time.monotonic() < end, states()
            time.sleep(0.1)

    built = folder / "built.gguf"
    built.write_bytes(b"one")
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # SHA-256 of "one"
    manifest = {"format": "raq-manifest-1", "command": [], "outputs": {"/elsewhere/built.gguf": digest}}
    (folder / "built.manifest.json").write_text(json.dumps(manifest))
    until("same")
    built.write_bytes(b"two!")
    until("differs")
    built.unlink()
    until("missing")
    (folder / "odd.manifest.json").write_text('{"format": "raq-manifest-1", "outputs": 3}')
    assert any("not a manifest" in each.get("error", "") for each in dashboard.get("/api/manifests"))
