"""How fast the solver proves, and how other ways to solve the same knapsacks fare. Prints Markdown tables.

Run: pytest -m bench -s tests/bench/bench_solver.py
The comparison takes one budget of some instances, 20 s each; RAQ_BENCH_PEERS=300 takes every instance and budget with
so many seconds for each peer, which is hours. CPU time, since the clock of a busy machine compares nothing.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from raq_solver.backends import general, mckp
from raq_solver.knapsack import Distinct, Knapsack, KnapsackSolution, Limits, Linear, Termination, lagrangian
from support.instances import BUDGETS, Instance, made, real_instances
from support.machine import header
from support.oracles.peers import by_bisection, by_cp_sat, by_highs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(40_000)]

ALL = os.environ.get("RAQ_BENCH_PEERS")
Result = TypeVar("Result")
FEW = {"Qwen3.5-0.8B": 25, "Qwen3.6-27B": 25, "Qwen3.5-35B-A3B": 40, "GLM-4.5-Air": 60}


def test_time_to_proof(shared_data: Path) -> None:
    header("Time to proof, CPU milliseconds, best of 3")
    print(f"| instance | tensors × types | at {', '.join(map(str, BUDGETS))} % | largest gap of the multiplier alone |")
    print("|---|---|---|---|")
    every = []
    for instance in real_instances(shared_data / "instances"):
        times, gaps = [], []
        for per_cent in BUDGETS:
            knapsack = instance.at(per_cent)
            solution, milliseconds = timed(lambda k=knapsack: mckp.solve(k, Limits()), 3)
            assert solution.termination is Termination.OPTIMAL
            times.append(milliseconds)
            gaps.append(1 - lagrangian(knapsack, solution.multiplier) / solution.bound)
        every += times
        shape = f"{len(instance.sizes)} × {instance.sizes.shape[1]}"
        print(f"| {instance.name} | {shape} | {', '.join(f'{t:.1f}' for t in times)} | {max(gaps):.1e} |", flush=True)
    print(f"\nmedian {statistics.median(every):.1f}, worst {max(every):.1f}, over {len(every)} knapsacks")


def test_peers(shared_data: Path) -> None:
    seconds = float(ALL or 20)
    header(f"The same knapsacks by others, CPU seconds, at most {seconds:.0f} s of wall time each")
    print("| instance | % | raq | HiGHS | CP-SAT | bisection and fill | its gap |\n|---|---|---|---|---|---|---|")
    ratios = [
        compare(instance, per_cent, seconds)
        for instance in real_instances(shared_data / "instances")
        for per_cent in BUDGETS
        if ALL or FEW.get(instance.name) == per_cent
    ]
    print(
        f"\nHiGHS takes {statistics.median(ratios):.0f} times as long, by the median (what was stopped counts as it is)"
    )


def compare(instance: Instance, per_cent: int, seconds: float) -> float:
    """Print one line; how many times as long HiGHS takes."""
    knapsack = instance.at(per_cent)
    solution, own = timed(lambda: mckp.solve(knapsack, Limits()), 3)
    (highs, highs_proven), highs_time = timed(lambda: by_highs(knapsack, seconds))
    (cp_sat, cp_sat_proven), cp_sat_time = timed(lambda: by_cp_sat(knapsack, seconds))
    rounded, rounded_time = timed(lambda: by_bisection(knapsack))
    # CP-SAT's losses are whole numbers of 1e-13 of the largest; HiGHS' tolerances are 1e-6 of a cell.
    assert highs >= solution.bound * (1 - 1e-6), "HiGHS has found something better"
    assert cp_sat >= solution.bound * (1 - 1e-6), "CP-SAT has found something better"
    peers = [
        f"{took / 1e3:.1f}" + ("" if proven else f" (stopped, gap {found / solution.bound - 1:.0e})")
        for took, proven, found in ((highs_time, highs_proven, highs), (cp_sat_time, cp_sat_proven, cp_sat))
    ]
    bisection = f"{rounded_time / 1e3:.3f} | {rounded / solution.bound - 1:.1e}"
    print(f"| {instance.name} | {per_cent} | {own / 1e3:.4f} | {' | '.join(peers)} | {bisection} |", flush=True)
    return highs_time / own


@pytest.mark.parametrize("few_sizes", [True, False], ids=["few sizes", "random sizes"])
@pytest.mark.parametrize(("tensors", "types"), [(500, 16), (1000, 40)])
def test_frontier(tensors: int, types: int, *, few_sizes: bool) -> None:
    instance = made(tensors, types, few_sizes=few_sizes)
    header(f"Frontier of 1,000 points, {instance.name}, {'few' if few_sizes else 'random'} sizes")
    least, most = int(instance.sizes.min(axis=1).sum()), int(instance.sizes.max(axis=1).sum())
    relaxed = mckp.Relaxed(instance.sizes, instance.losses)

    def points() -> list[KnapsackSolution]:
        return [relaxed.solve(least + (most - least) * step // 999, Limits()) for step in range(1000)]

    found, milliseconds = timed(points)
    proven = sum(point.termination is Termination.OPTIMAL for point in found)
    print(f"{proven} proven in {milliseconds / 1e3:.2f} CPU seconds")
    assert proven == 1000


def test_growth() -> None:
    header("Growth: CPU milliseconds to proof at 40 %")
    print("| tensors × types | few sizes | random sizes |\n|---|---|---|")
    points: list[tuple[int, float, float]] = []
    for tensors, types in ((250, 20), (500, 20), (1000, 20), (2000, 20), (5000, 25), (20000, 25)):
        cells, taken = [], []
        for few_sizes in (True, False):
            knapsack = made(tensors, types, few_sizes=few_sizes).at(40)
            solution, milliseconds = timed(lambda k=knapsack: mckp.solve(k, Limits(seconds=120)))
            proven = solution.termination is Termination.OPTIMAL
            cells.append(f"{milliseconds:.0f}" + ("" if proven else " (stopped)"))
            taken.append(milliseconds)
        points.append((tensors * types, taken[0], taken[1]))
        print(f"| {tensors} × {types} | {cells[0]} | {cells[1]} |", flush=True)
    if "RAQ_BENCH_PLOTS" in os.environ:
        plot_growth(points, Path(os.environ["RAQ_BENCH_PLOTS"]) / "solver-growth.svg")


def plot_growth(points: list[tuple[int, float, float]], path: Path) -> None:
    """Cells of the table against time to proof, beside a straight line."""
    from matplotlib.figure import Figure

    cells, few, random = zip(*points, strict=True)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(cells, few, marker="o", label="few distinct sizes")
    axes.loglog(cells, random, marker="s", label="random sizes")
    axes.loglog(cells, [few[0] * count / cells[0] for count in cells], "--", color="gray", label="linear")
    axes.set_xlabel("tensors × types")
    axes.set_ylabel("CPU milliseconds to proof")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def test_side_rows() -> None:
    header("1,300 × 20 with two regions, three counts, at most six types")
    print("| limit, s | termination | gap | wall seconds |\n|---|---|---|---|")
    knapsack = with_side_rows(made(1300, 20, seed=1))
    for seconds in (1.0, 2.0, 5.0, None):
        start = time.perf_counter()
        solution = general.solve(knapsack, Limits(seconds))
        wall = time.perf_counter() - start
        gap = "–"
        if solution.picks is not None:
            gap = f"{max(0.0, 1 - solution.bound / knapsack.losses[np.arange(1300), solution.picks].sum()):.0e}"
        print(f"| {seconds or '–'} | {solution.termination.name} | {gap} | {wall:.1f} |", flush=True)


def timed(run: Callable[[], Result], repeats: int = 1) -> tuple[Result, float]:
    """The result and the least CPU time, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        times.append((time.process_time() - start) * 1e3)
    return result, min(times)


def with_side_rows(instance: Instance) -> Knapsack:
    plain = instance.at(35)
    rows = np.arange(len(plain.sizes))
    large = (plain.sizes * 8 > plain.sizes[:, -1:] * 3).astype(np.int64)
    regions = [Linear(part, plain.sizes[part], room(plain.sizes[part], 0.33)) for part in (rows[::3], rows[1::3])]
    counts = [Linear(part, large[part], part.size // 4) for part in (rows[::4], rows[1::4], rows[2::4])]
    return Knapsack(plain.sizes, plain.losses, plain.capacity, (*regions, *counts, Distinct(rows, 6)))


def room(sizes: np.ndarray, share: float) -> int:
    least, most = int(sizes.min(axis=1).sum()), int(sizes.max(axis=1).sum())
    return least + int((most - least) * share)
