"""Ten thousand models a day, simulated: the real units of published models, with costs measured on this machine.

Run: pytest -m bench tests/bench/bench_fleet.py -s

Models arrive at random. For each, importance is collected on machines that hold the model, groups of windows in
parallel; then its tensors are measured, a plan is solved, and a file is written, row ranges in parallel on any core.
Work is taken first come first served, the longest unit of a model first. A unit waits for the process that hands units
out, for a core, and for the storage from which it reads its rows; it holds its core while it reads.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest

from raq_client import engine
from raq_client.curvature.fisher import FisherSums
from raq_client.curvature.passes import network_for, passes
from raq_client.models.model_file import open_model
from raq_client.models.quantizable import is_quantizable
from raq_client.models.type_choice import chosen_types
from raq_client.planning.model_inputs import ModelInputs
from raq_client.quantizing.effort import measuring_cost, writing_cost
from raq_client.units.profiling import ProfileJob
from raq_client.units.rows import rows_of_unit_size
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.engine_models import MODEL, TEXT
from support.machine import header
from support.published_shapes import tensors_of

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

SHARES = {"qwen36_27b": 0.6, "glm45_air": 0.3, "deepseek_v4_flash": 0.1}
"""Models, and their assumed share of arrivals."""
EXPERTS_USED = {"glm45_air": 8, "deepseek_v4_flash": 6}
WINDOWS, FISHER_WINDOWS, CONTEXT, GROUP, FISHER_GROUP = 100, 16, 512, 50, 4
PROBE_WINDOWS = 16
"""Of one evaluation for sensitivities, which are not part of the plan."""
CORES = 64
PER_DAY = 10_000
DAY = 86_400.0
WRITTEN = CATALOGUE["Q4_K"]
"""The type of which files are written: about the mean size and speed of plans."""
PRICE = 0.04
"""Assumed price of a core for an hour, in dollars: an order of magnitude of rented machines."""
SECONDS_PER_LINE = 0.0043
"""Of the one process that hands out units and keeps their lines: bench_scale.py, empty units by Ray."""
SOLVING = 1.0
"""Seconds of a core to build and solve the problem of a model (docs/solver.md: less for all three tables)."""
STORAGE = 100e9
"""Bytes per second that the storage of all models gives in all."""
LOAD = 2.5e9
"""Bytes per second at which one machine loads a model: a link of 25 Gbit/s, less what protocols take."""


@dataclass(frozen=True)
class Rates:
    """Measured: microseconds of a core per weight and token, forward and for Fisher information; how many times the
    cost by which they are put in order units of tensors take.
    """

    forward: float
    fisher: float
    tensors: float


@dataclass(frozen=True)
class Model:
    """A model as work: seconds of a core and bytes read of each unit by stage, longest first."""

    name: str
    weights: int
    active: int
    measuring: tuple[tuple[float, float], ...]
    writing: tuple[tuple[float, float], ...]

    def of_windows(self, rates: Rates) -> list[float]:
        """Seconds of a machine of each unit that needs the model in memory, with loading it."""
        token = self.active * CONTEXT / 1e6 / CORES
        counted = [GROUP] * (WINDOWS // GROUP)
        passed = [FISHER_GROUP] * (FISHER_WINDOWS // FISHER_GROUP)
        each = [windows * token * rates.forward for windows in counted]
        each += [windows * token * rates.fisher for windows in passed]
        return [2 * self.weights / LOAD + seconds for seconds in each]


def measured_rates(folder: Path) -> Rates:
    """Processor time, so that what else runs on the machine counts little."""
    model = open_model(MODEL)
    weights = sum(tensor.weights for tensor in model.tensors)
    with engine.load(MODEL, context=CONTEXT, threads=1) as loaded:
        windows = loaded.tokenize(TEXT)[: 4 * CONTEXT].reshape(4, CONTEXT)
        forward = _processor_seconds(lambda: list(loaded.score_windows(windows)))
        network, begun = network_for(model, loaded, windows)
        sums = FisherSums(model, CONTEXT)
        fisher = _processor_seconds(lambda: list(passes(network, begun, sums)))
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", np.random.default_rng(0).normal(size=(512, 2048)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    job = ProfileJob(ModelInputs(path=folder / "model.gguf", threads=1, cached=False))
    (unit,) = job.units
    tensors = _processor_seconds(lambda: job.run(unit)) / (unit.cost / 1e6)
    return Rates(1e6 * forward / (4 * CONTEXT * weights), 1e6 * fisher / (4 * CONTEXT * weights), tensors)


def _processor_seconds(work: Callable[[], object]) -> float:
    """The least of five: other programs make caches colder, and nothing makes work faster."""
    found = []
    for _ in range(5):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


@cache
def model_of(name: str, slower: float) -> Model:
    """The units of a published model, as `ProfileJob` and `QuantizeJob` cut them; `slower` than their order says."""
    measuring, writing, weights, active = [], [], 0, 0
    stored = CATALOGUE["BF16"]
    for each, shape in tensors_of(name):
        tensor = Tensor(each, shape, stored)
        weights += tensor.weights
        used = EXPERTS_USED.get(name, 0) / tensor.matrices if "_exps" in each else 1.0
        active += round(used * tensor.weights) if not each.startswith("token_embd") else 0
        if not is_quantizable(tensor, ""):
            continue
        per_weight = sum(map(measuring_cost, chosen_types(()).of(tensor)))
        for rows in rows_of_unit_size(tensor):
            size = stored.size(rows.weights)
            measuring.append((slower * rows.weights * per_weight / 1e6, size))
            writing.append((slower * rows.weights * writing_cost(stored, WRITTEN) / 1e6, size))
    return Model(name, weights, active, *(tuple(sorted(units, reverse=True)) for units in (measuring, writing)))


@dataclass
class Fleet:
    """Machines of CORES cores: those that hold models, and those for tensors; how much of each was in use."""

    holders: int
    cores: int
    heads: int = 1
    storage: float = STORAGE
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("holders", "cores", "heads", "storage"), 0.0))

    def __post_init__(self) -> None:
        self._free = {
            "holders": [0.0] * self.holders,
            "cores": [0.0] * self.cores,
            "heads": [0.0] * self.heads,
        }
        self._link = 0.0

    def _taken(self, what: str, at: float, seconds: float) -> float:
        """When one of these is done with work of this length that can begin at that time."""
        free = self._free[what]
        began = max(free[0], at)
        heapq.heapreplace(free, began + seconds)
        self.busy[what] += seconds
        return began + seconds

    def hold(self, at: float, units: Iterable[float]) -> float:
        """When units that need the model in memory are done."""
        return max(self._taken("holders", self._taken("heads", at, SECONDS_PER_LINE), seconds) for seconds in units)

    def read(self, at: float, units: Iterable[tuple[float, float]]) -> float:
        """When units of tensors are done."""
        end, cores = at, self._free["cores"]
        for seconds, size in units:
            handed = self._taken("heads", at, SECONDS_PER_LINE)
            began = max(cores[0], handed)
            here = max(self._link, began)
            self._link = here + size / self.storage
            self.busy["storage"] += size / self.storage
            done = max(self._link, began + size / (LOAD / CORES)) + seconds
            heapq.heapreplace(cores, done)
            self.busy["cores"] += done - began
            end = max(end, done)
        return end


def simulate(fleet: Fleet, models: Mapping[str, Model], rates: Rates, *, number: int, per_day: float) -> list[float]:
    """Seconds from arrival to the written file, of models that arrive at random."""
    random = np.random.default_rng(0)
    arrivals = np.cumsum(random.exponential(DAY / per_day, number)).tolist()
    chosen = random.choice(list(models), number, p=[SHARES[name] for name in models]).tolist()
    stages: list[tuple[float, int, int]] = [(at, index, 0) for index, at in enumerate(arrivals)]
    heapq.heapify(stages)
    ends = [0.0] * number
    while stages:
        at, index, stage = heapq.heappop(stages)
        model = models[chosen[index]]
        if stage == 0:
            end = fleet.hold(at, model.of_windows(rates))
        elif stage == 1:
            end = fleet.read(at, model.measuring) + SOLVING
        else:
            end = fleet.read(at, model.writing)
        if stage < 2:
            heapq.heappush(stages, (end, index, stage + 1))
        ends[index] = end
    return [end - at for end, at in zip(ends, arrivals, strict=True)]


def needed(models: Mapping[str, Model], rates: Rates) -> dict[str, float]:
    """Of each resource what one model takes on average: seconds of a holder, a core, a head, and of the storage."""
    found = dict.fromkeys(("holders", "cores", "heads", "storage"), 0.0)
    for name, model in models.items():
        both = (*model.measuring, *model.writing)
        size = sum(each for _, each in both)
        held = model.of_windows(rates)
        found["holders"] += SHARES[name] * sum(held)
        found["cores"] += SHARES[name] * (sum(seconds for seconds, _ in both) + size / (LOAD / CORES))
        found["heads"] += SHARES[name] * SECONDS_PER_LINE * (len(both) + len(held))
        found["storage"] += SHARES[name] * size / STORAGE
    return found


def _print_models(models: Mapping[str, Model], rates: Rates) -> None:
    print("core hours:                           units  measuring  writing  importance  a probe   read")
    for model in models.values():
        seconds = [sum(each for each, _ in units) / 3600 for units in (model.measuring, model.writing)]
        held = CORES * sum(model.of_windows(rates)) / 3600
        probe = model.active * PROBE_WINDOWS * CONTEXT * rates.forward / 1e6 / 3600
        size = sum(each for _, each in (*model.measuring, *model.writing))
        print(
            f"{model.name:18} {model.weights / 1e9:5.0f} B  {model.active / 1e9:5.1f} B  {2 * len(model.measuring):6,}"
            f"  {seconds[0]:9.1f}  {seconds[1]:7.2f}  {held:10.1f}  {probe:7.2f}  {size / 1e12:.2f} TB"
        )


def planned(each: Mapping[str, float]) -> Fleet:
    """A fleet of which four fifths are in use, where a model takes these seconds of each resource."""
    wanted = {name: 1.25 * PER_DAY / DAY * seconds for name, seconds in each.items()}
    return Fleet(
        holders=int(wanted["holders"]) + 1,
        cores=CORES * (int(wanted["cores"] / CORES) + 1),
        heads=int(wanted["heads"]) + 1,
        storage=STORAGE * max(1.0, wanted["storage"]),
    )


def test_ten_thousand_models_a_day(tmp_path: Path) -> None:
    rates = measured_rates(tmp_path)
    models = {name: model_of(name, rates.tensors) for name in SHARES}
    header(f"{PER_DAY:,} models a day, simulated")
    print(f"forward {2 / rates.forward / 1e3:.1f} and Fisher {2 / rates.fisher / 1e3:.2f} thousand million operations")
    print(f"per second and core; units of tensors take {rates.tensors:.2f} times the cost they are ordered by")
    _print_models(models, rates)
    each = needed(models, rates)
    fleet = planned(each)
    price, rest = (24 * PRICE * cores for cores in (CORES * fleet.holders + fleet.cores, fleet.cores))
    print(f"{fleet.holders:,} machines with models and {fleet.cores // CORES:,} for tensors, of {CORES} cores each;")
    print(f"{fleet.heads} processes that hand out units, storage of {fleet.storage / 1e9:.0f} GB/s;")
    print(f"{price:,.0f} dollars a day, {price / PER_DAY:.2f} a model; where importance is there already,")
    print(f"{rest:,.0f} and {rest / PER_DAY:.2f}")
    print("one of each:      " + ", ".join(f"{name} {DAY / seconds:,.0f} a day" for name, seconds in each.items()))
    for name, other in {
        "as planned": fleet,
        "one head": replace(fleet, heads=1),
        "a fifth of the storage": replace(fleet, storage=fleet.storage / 5),
        "half the cores": replace(fleet, cores=fleet.cores // 2),
        "half the holders": replace(fleet, holders=fleet.holders // 2),
    }.items():
        once = replace(other, busy=dict.fromkeys(other.busy, 0.0))
        took = np.array(simulate(once, models, rates, number=300, per_day=PER_DAY)) / 3600
        early, late = took[: len(took) // 3], took[-len(took) // 3 :]
        print(
            f"{name:24} median {np.median(took):.2f} h, 95 % within {np.quantile(took, 0.95):.2f} h; first third"
            f" {early.mean():.2f} h, last third {late.mean():.2f} h"
        )


def test_one_machine_takes_the_sum_of_its_units() -> None:
    """The simulation against what needs none: one core, one holder, no wait for storage."""
    rates, units = Rates(0.0, 0.0, 1.0), ((3.0, 0.0), (1.0, 0.0))
    model = Model("one", 0, 0, units, ((2.0, 0.0),))
    fleet = Fleet(holders=1, cores=1)
    held = fleet.hold(0.0, model.of_windows(rates))
    done = fleet.read(fleet.read(held, model.measuring), model.writing)
    lines = len(model.of_windows(rates)) + len(units) + 1
    assert 6.0 < done <= 6.0 + lines * SECONDS_PER_LINE
    assert fleet.busy["cores"] == pytest.approx(6.0)
    assert fleet.busy["heads"] == pytest.approx(lines * SECONDS_PER_LINE)
