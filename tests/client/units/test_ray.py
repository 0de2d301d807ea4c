"""Ray as executor: a real instance with two workers, one of them killed amid its work; the bytes of one process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import gguf
import pytest

from raq_client.units.carry_out import Made
from raq_client.units.journal import work_folder
from raq_client.units.unit import Unit, Work
from support.builds import built, project, read
from support.commands import client
from support.engine_models import MODEL, TEXT, write_quantized
from support.killed import descendants

pytestmark = pytest.mark.timeout(900)  # an instance takes half a minute to start on a busy machine

SECONDS = 200
ATTEMPTS = 4
"""To start a node: Ray gives it 30 seconds, which a busy machine may not meet."""
COMMAND = [sys.executable, "-c", "from raq_client.cli.app import main; main()"]


def _processes(name: str, above: int) -> set[int]:
    """Descendants with this in their command lines; Ray writes there what a worker does."""
    found = set()
    for process in descendants(above):
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if name.encode() in line:
            found.add(process)
    return found


def _wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


class _Started:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *words: object) -> None:
        given = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=given
        )

    def at_work(self, worker: str, lines: Path) -> set[int]:
        """The workers of this name, when two of them are at work and the first lines are there."""

        def both() -> bool:
            assert self.process.poll() is None, self.end()
            return len(_processes(worker, self.process.pid)) == 2 and any(
                path.stat().st_size for path in lines.glob("*/*.jsonl")
            )

        _wait(both)
        return _processes(worker, self.process.pid)

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    return tmp_path


PROFILE = ["profile", MODEL, "--types", "Q4_K,IQ4_XS,IQ3_S,IQ2_S,IQ1_M", "--no-cache", "--threads", 1]


@pytest.mark.slow
def test_tasks_survive_a_killed_worker(cache: Path) -> None:
    pytest.importorskip("ray")
    whole, output = cache / "whole.json", cache / "cluster.json"
    assert client(*PROFILE, "-o", whole).code == 0
    started = _Started(cache, *PROFILE, "-o", output, "--cluster", "ray")
    workers = started.at_work("run_unit", work_folder(output))
    os.kill(min(workers), signal.SIGKILL)
    assert started.end()[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not work_folder(output).exists()


@pytest.mark.slow
def test_actors_survive_a_killed_one(cache: Path) -> None:
    pytest.importorskip("ray")
    text = cache / "text.txt"
    text.write_text(TEXT[:60_000])
    command = ["sensitivity", MODEL, "-t", text, "--types", "Q8_0", "--windows", 6, "--context", 128, "--threads", 1]
    whole, output = cache / "whole.json", cache / "cluster.json"
    assert client(*command, "-o", whole).code == 0
    started = _Started(cache, *command, "-o", output, "--cluster", "ray")
    workers = started.at_work("_Holder.run", work_folder(output))
    os.kill(min(workers), signal.SIGKILL)
    assert started.end()[0] == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_an_interrupt_ends_every_process_and_keeps_the_lines(cache: Path) -> None:
    pytest.importorskip("ray")
    output = cache / "cluster.json"
    started = _Started(cache, *PROFILE, "-o", output, "--cluster", "ray")
    started.at_work("run_unit", work_folder(output))
    everything = descendants(started.process.pid)
    started.process.send_signal(signal.SIGINT)
    code, said = started.end()
    assert (code, "interrupted" in said) == (130, True), said
    _wait(lambda: not any(Path(f"/proc/{process}/exe").exists() for process in everything))
    (lines,) = work_folder(output).glob("*/*.jsonl")
    before = lines.read_bytes().count(b"\n")
    assert before
    assert client(*PROFILE, "-o", output, "--index", 0, "--of", 1).code == 0
    written = sum(path.read_bytes().count(b"\n") for path in lines.parent.glob("*.jsonl"))
    assert client(*PROFILE, "-o", output, "--merge").code == 0
    whole = cache / "whole.json"
    assert client(*PROFILE, "-o", whole).code == 0
    assert output.read_bytes() == whole.read_bytes()
    assert written == _units()


def _units() -> int:
    """The number of units of the profile: made once each, in spite of the interrupt."""
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.units.profiling import ProfileJob

    return len(ProfileJob(ModelInputs(path=MODEL, types=("Q4_K",))).units)


@pytest.mark.slow
def test_a_file_and_importance_by_a_cluster(cache: Path) -> None:
    pytest.importorskip("ray")
    text = cache / "text.txt"
    text.write_text(TEXT[:20_000])
    collect = ["imatrix", "collect", MODEL, "-t", text, "--context", 64, "--windows", 110, "--fisher", 0]
    quantize = ["quantize", MODEL, "-a", cache / "types.txt"]
    (cache / "types.txt").write_text("^blk\\.\\d+\\.ffn_.*\\.weight$=Q4_K\n")
    for name, command in {"importance.gguf": collect, "model.gguf": quantize}.items():
        whole, output = cache / f"whole.{name}", cache / name
        assert client(*command, "-o", whole, "--threads", 1).code == 0
        started = _Started(cache, *command, "-o", output, "--threads", 1, "--cluster", "ray")
        code, said = started.end()
        assert code == 0, said
        assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_recipe_is_built_by_a_cluster(cache: Path) -> None:
    """Importance by actors, then errors and the file by tasks: the bytes of one process, and the kept importance."""
    pytest.importorskip("ray")
    (cache / "text.txt").write_text(TEXT[:20_000])
    given = {"texts": ["text.txt"], "context": 64, "windows": 110, "fisher": 0}
    asked = {"format": "raq-recipe-2", "name": "cluster", "model": str(MODEL), "budget": "5.0"}
    recipe = {**asked, "rows": 16, "output": {"file": "unused.gguf"}}
    (cache / "recipe.json").write_text(
        json.dumps({**recipe, "importance": given, "types": ["Q4_K", "Q6_K"], "rows": 16})
    )
    command = ["recipe", "build", cache / "recipe.json", "--threads", 1]
    whole, output = cache / "whole.gguf", cache / "cluster.gguf"
    assert client(*command, "-o", whole, "--store", cache / "one").code == 0
    started = _Started(cache, *command, "-o", output, "--store", cache / "two", "--cluster", "ray")
    workers = started.at_work("run_unit", work_folder(output))
    os.kill(min(workers), signal.SIGKILL)
    code, said = started.end()
    assert code == 0, said
    assert output.read_bytes() == whole.read_bytes()
    assert not work_folder(output).exists()


def test_what_a_build_sends_to_workers_makes_the_bytes_of_one_process(cache: Path) -> None:
    """Every unit by what a worker does with what it is sent, without a cluster; nothing sent has the importance."""
    pytest.importorskip("ray")
    from raq_client.building.build import HowToBuild, build
    from raq_client.building.units import BuildUnits, made_by
    from raq_client.building.workshop import Workshop
    from raq_client.solver_client.local import LocalSolver
    from raq_client.units import ray_executor

    folder = project(cache / "project")
    sizes: list[int] = []

    def by_workers(job: Work, units: Sequence[Unit]) -> Made:
        packed, key = ray_executor._packed(job, 1), job.key
        sizes.append(len(packed))
        for unit in reversed(units):
            line, faults = ray_executor.run_unit(packed, str(Path.cwd()), key, unit)
            assert line is not None, faults
            yield unit, line

    whole = built(read(folder, "whole", name="same"), cache / "one")
    given = read(folder, "cluster", name="same")
    how = HowToBuild(Workshop(cache / "two", cached=False), threads=1)
    found = build(given, how, LocalSolver(), units=BuildUnits(given.output.file, made_by(by_workers)))
    assert found.written.sha256 == whole.written.sha256
    assert len(sizes) == 2
    assert max(sizes) < 20_000
    packed, key = ray_executor._packed(_other_job(folder), 1), "0" * 64
    line, ((_, what),) = ray_executor.run_unit(packed, str(Path.cwd()), key, Unit("any", 0.0))
    assert line is None
    assert "has another build of raq, or other files at these paths" in what


def _other_job(folder: Path) -> Work:
    from raq_client.planning.model_inputs import ModelInputs
    from raq_client.units.profiling import ProfileJob

    return ProfileJob(ModelInputs(path=folder / "small.gguf", types=("Q4_K",)))


@pytest.fixture(params=["disabled", "token"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster's client server, on a node of two cores that was started by `ray start`: open to all,
    or for those who have its token, by the settings that Ray has for it."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", request.param)
    if request.param == "token":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "the token of this test, of no use elsewhere")
    with ExitStack() as stack:
        yield next(filter(None, (_node(stack, attempt) for attempt in range(ATTEMPTS))))


def _node(stack: ExitStack, attempt: int) -> str | None:
    """The address of a node, until the stack ends; None if it has not started within Ray's 30 seconds."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-")))  # a short path: sockets are in it
    port, log = 20_000 + (os.getpid() + 2000 * attempt) % 9_000, folder / "log"
    ports = ["--port", str(port), "--ray-client-server-port", str(port + 1)]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2", *ports]
    quiet = ["--include-dashboard", "false", "--object-store-memory", str(80 << 20), "--temp-dir", str(folder / "t")]
    given = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("wb") as said:
        node = subprocess.Popen([*command, *quiet], stdout=said, stderr=said, env=given)
    stack.callback(node.wait, SECONDS)
    stack.callback(node.terminate)
    _wait(lambda: node.poll() is not None or b"--block" in log.read_bytes())
    return None if node.poll() is not None else f"ray://127.0.0.1:{port + 1}"


@pytest.mark.slow
def test_a_cluster_elsewhere_by_the_client_protocol(cache: Path, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of a profile and of a file, by a process that is no node of the cluster."""
    (cache / "types.txt").write_text("^blk\\.\\d+\\.ffn_.*\\.weight$=Q4_K\n")
    quantize = ["quantize", MODEL, "-a", cache / "types.txt", "--threads", 1]
    for name, command in {"profile.json": PROFILE, "model.gguf": quantize}.items():
        whole, output = cache / f"whole.{name}", cache / name
        assert client(*command, "-o", whole).code == 0
        code, said = _Started(cache, *command, "-o", output, "--cluster", head).end()
        assert code == 0, said
        assert output.read_bytes() == whole.read_bytes()
    if "RAY_AUTH_TOKEN" in os.environ:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another token, by mistake")
        code, said = _Started(cache, *PROFILE, "-o", cache / "none.json", "--cluster", head).end()
        assert (code, "Traceback" in said) == (2, False), said
        assert f"no Ray cluster can be used at {head}" in " ".join(said.split())


@pytest.mark.slow
def test_a_mistake_of_a_unit_is_one_sentence(cache: Path) -> None:
    """Found by a worker, which loads the model."""
    pytest.importorskip("ray")
    model = write_quantized(cache / "q4.gguf", gguf.GGMLQuantizationType.Q4_0)
    text = cache / "text.txt"
    text.write_text(TEXT[:20_000])
    command = ["sensitivity", model, "-t", text, "--types", "Q8_0", "--windows", 2, "-o", cache / "out.json"]
    code, said = _Started(cache, *command, "--cluster", "ray").end()
    assert code == 2
    assert "Traceback" not in said
    assert "has no tensor to perturb" in " ".join(said.split())


def test_without_ray_the_extra_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "raq_client.units.ray_executor", raising=False)
    found = client(*PROFILE, "-o", cache / "out.json", "--cluster", "ray")
    assert found.code == 2
    assert "pip install 'raq[cluster]'" in " ".join(found.err.split())
    assert "Traceback" not in found.err


@pytest.mark.parametrize("name", ["dask", "ray://", "ray://host", "ray:6379", "ray://host:port"])
def test_what_is_no_cluster_is_refused(cache: Path, name: str) -> None:
    found = client(*PROFILE, "-o", cache / "out.json", "--cluster", name)
    assert found.code == 2
    assert "write ray, or ray://HOST:PORT" in " ".join(found.err.split())
