"""Several processes for one job: what Ray costs beside the work, and parts in processes of their own.

Run: pytest -m bench tests/bench/bench_scale.py -s
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client.planning.model_inputs import ModelInputs
from raq_client.units.carry_out import Executor, complete, here, run_units
from raq_client.units.journal import Journal
from raq_client.units.profiling import ProfileJob
from raq_client.units.unit import Line, Unit
from support.killed import descendants
from support.machine import header
from support.paths import DATA
from support.range_server import range_server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

TENSORS, ROWS, LENGTH = 3, 8192, 2048
THREADS = 2
ROUNDS = 3
EMPTY = 1000


@dataclass(frozen=True, eq=False)
class Timed(ProfileJob):
    """A profile whose lines have the seconds that each unit took where it was made, and those of processors."""

    def run(self, unit: Unit) -> Line:
        began = time.perf_counter(), time.process_time()
        line = super().run(unit)
        return {**line, "seconds": time.perf_counter() - began[0], "processor": time.process_time() - began[1]}

    def unopened(self, threads: int) -> "Timed":
        return Timed(replace(self.inputs, threads=threads))


class Empty:
    """Units that do nothing: what is left is handing them out and keeping their lines."""

    key, loads_model = "0" * 64, False

    def run(self, unit: Unit) -> Line:
        return {"done": unit.name}

    again = run

    def unopened(self, threads: int) -> "Empty":
        return self

    def close(self) -> None:
        pass


def _model(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    random = np.random.default_rng(0)
    for block in range(TENSORS):
        weights = random.standard_normal((ROWS, LENGTH), np.float32).astype(np.float16)
        writer.add_tensor(f"blk.{block}.ffn_up.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass(frozen=True)
class Run:
    """Seconds in all and of each unit where it was made, seconds of processors in units and beside them."""

    whole: float
    units: Sequence[float]
    processor: float
    beside: float
    digest: str

    @property
    def overhead(self) -> float:
        """What was not spent in units, as a share of what was."""
        return self.whole / sum(self.units) - 1


def _carried_out(job: Timed, folder: Path, executor: Executor) -> Run:
    with Journal(folder, job) as journal:
        began, used = time.perf_counter(), _used()
        run_units(job, job.units, journal, executor=executor)
        whole, used = time.perf_counter() - began, _used() - used
        lines = complete(job, journal)
        units = [line["seconds"] for line in lines.values()]
        processor = sum(line["processor"] for line in lines.values())
        return Run(whole, units, processor, used - processor, job.finish(lines, journal).digest())


def _used() -> float:
    """Seconds of processors that this process and all below it have used."""
    ticks = 0
    for process in {os.getpid(), *descendants(os.getpid())}:
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def test_overhead_of_ray(tmp_path: Path) -> None:
    """One unit at a time, so that what is not spent in units is spent by Ray; the model is opened before."""
    pytest.importorskip("ray")
    from ray import cloudpickle

    from raq_client.units.ray_executor import RayExecutor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    path = _model(tmp_path / "model.gguf")
    job = Timed(ModelInputs(path=path, types=("IQ4_XS", "IQ3_S", "IQ2_S"), threads=THREADS, cached=False))
    header(f"A profile of {len(job.units)} units of {ROWS * LENGTH / 1e6:.0f} million weights, {THREADS} threads each")
    began = time.perf_counter()
    with RayExecutor(threads=THREADS) as cluster:
        warm = replace(job, inputs=replace(job.inputs, types=("Q8_0",)))
        with Journal(tmp_path / "warm", warm) as journal:
            run_units(warm, warm.units[:1], journal, executor=cluster)
        print(f"Ray started, first worker ready: {time.perf_counter() - began:.1f} s, once")
        print("executor      whole  in units  shortest unit  overhead  processors: in units  beside")
        runs: dict[str, list[Run]] = {"one process": [], "Ray": []}
        for number in range(ROUNDS):
            for name, executor in (("one process", here), ("Ray", cluster)):
                run = _carried_out(job, tmp_path / f"{name} {number}", executor)
                runs[name].append(run)
                times = f"{run.whole:5.1f} s  {sum(run.units):6.1f} s  {min(run.units):11.2f} s  {run.overhead:7.1%}"
                print(f"{name:12} {times}  {run.processor:17.1f} s  {run.beside:4.1f} s")
        _print_empty(tmp_path / "empty", cluster)
    assert len({run.digest for name in runs for run in runs[name]}) == 1
    best = min(runs["Ray"], key=lambda run: run.overhead)
    assert min(best.units) >= 1.0
    assert best.overhead <= 0.10


def _print_empty(folder: Path, executor: Executor) -> None:
    empty, units = Empty(), [Unit(str(number), 0.0) for number in range(EMPTY)]
    with Journal(folder, empty) as journal:
        run_units(empty, units[:1], journal, executor=executor)
        began = time.perf_counter()
        run_units(empty, units, journal, executor=executor)
    print(f"{EMPTY} empty units: {1000 * (time.perf_counter() - began) / EMPTY:.2f} ms each")


def test_four_processes(tmp_path: Path) -> None:
    """A file and a profile by --index and --of, all four at once; equal to those of one process."""
    model, imatrix = DATA / "wiki-math-4M-f16.gguf", DATA / "wiki-math-4M.gsm8k.imatrix.gguf"
    (tmp_path / "types.txt").write_text("^blk\\..*\\.weight$=IQ4_XS\n")
    header("Four processes of one thread by --index and --of, against one process")
    commands = {
        "profile": ["profile", model, "-i", imatrix, "--no-cache"],
        "quantize": ["quantize", model, "-i", imatrix, "-a", tmp_path / "types.txt"],
    }
    for name, command in commands.items():
        whole, output = tmp_path / f"{name}.one", tmp_path / f"{name}.parts"
        seconds = [_ran([[*command, "-o", whole]])]
        seconds.append(_ran([[*command, "-o", output, "--index", index, "--of", 4] for index in range(4)]))
        seconds.append(_ran([[*command, "-o", output, "--merge"]]))
        assert output.read_bytes() == whole.read_bytes()
        one, parts, merge = seconds
        print(f"{name:9} one process {one:.1f} s, four parts {parts:.1f} s, merge {merge:.1f} s: equal to the byte")


def _ran(commands: Sequence[Sequence[object]]) -> float:
    """Seconds until all of these have ended, which begin together."""
    start = [sys.executable, "-c", "from raq_client.cli.app import main; main()"]
    began = time.perf_counter()
    running = [
        subprocess.Popen([*start, *map(str, command), "--threads", "1", "-q"], stdout=subprocess.DEVNULL)
        for command in commands
    ]
    assert [each.wait() for each in running] == [0] * len(running)
    return time.perf_counter() - began


def test_bytes_of_parts_by_range(tmp_path: Path) -> None:
    """What four parts read of a model on a server, against its whole file: one opening each, and every tensor once."""
    model, parts = DATA / "wiki-math-4M-f16.gguf", 4
    (tmp_path / "types.txt").write_text("^blk\\..*\\.weight$=IQ4_XS\n")
    header("Bytes that four parts read from a server by ranges, against the whole file")
    whole, output = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    options = ["-i", DATA / "wiki-math-4M.gsm8k.imatrix.gguf", "-a", tmp_path / "types.txt"]
    with range_server() as files:
        files.data["m.gguf"] = model.read_bytes()
        command = ["quantize", f"{files.address}/m.gguf", *options, "-o", output]
        read = []
        for index in range(parts):
            files.asked.clear()
            _ran([[*command, "--index", index, "--of", parts]])
            read.append((files.asked[0][1], files.sent - files.asked[0][1], len(files.asked)))
        files.asked.clear()
        _ran([[*command, "--merge"]])
        merge = files.sent
    _ran([["quantize", model, *options, "-o", whole]])
    assert output.read_bytes() == whole.read_bytes()
    for index, (opening, tensors, requests) in enumerate(read):
        print(f"part {index}: {opening:,} bytes to open it, {tensors:,} of tensors, {requests} requests")
    everything = sum(opening + tensors for opening, tensors, _ in read)
    size = model.stat().st_size
    print(f"file {size:,}; parts {everything:,}, merge {merge:,}; downloaded by each: {parts * size:,}")
