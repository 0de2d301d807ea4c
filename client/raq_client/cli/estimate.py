"""`--estimate` of commands: what they will take, printed before long work and in place of it."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raq_client.cli.console import OUT, print_json, say
from raq_client.progress import duration

if TYPE_CHECKING:
    from raq_client.estimates.estimate import Estimate


def print_estimate(found: "Estimate", where: Path, *, as_json: bool) -> None:
    """Print an estimate, and what is free in the folder of `where`, to which files would be written."""
    free = _free(where)
    if as_json:
        print_json(_plain(found, free))
        return
    from rich.console import Group

    from raq_client.reports.tables import Field, table_of

    fields = (
        Field("stage", read=lambda each: each.name),
        Field("time", figures=True, read=lambda each: f"{'at most ' * each.at_most}{duration(each.seconds)}"),
        Field("memory", figures=True, read=lambda each: _size(each.memory)),
        Field("disk", figures=True, read=lambda each: _size(each.disk)),
        Field("estimated from", spare=1, read=lambda each: each.by),
    )
    total = f"in all {duration(found.seconds)}, {_size(found.memory)} of memory, {_size(found.disk)} of disk"
    OUT.print(Group(table_of(found.stages, fields), f"{total} ({_size(free)} free)"))
    for each in found.left_out:
        say(f"note: {each}")
    if found.disk > free:
        say(f"note: {where.absolute().parent} has too little room")


def _plain(found: "Estimate", free: int) -> dict[str, Any]:
    stages = [
        {
            "name": each.name,
            "seconds": round(each.seconds, 3),
            "at_most": each.at_most,
            "memory_bytes": each.memory,
            "disk_bytes": each.disk,
            "by": each.by,
        }
        for each in found.stages
    ]
    totals = {"seconds": round(found.seconds, 3), "memory_bytes": found.memory, "disk_bytes": found.disk}
    return {"stages": stages, **totals, "free_disk_bytes": free, "left_out": list(found.left_out)}


def _free(where: Path) -> int:
    return shutil.disk_usage(next(each for each in where.absolute().parents if each.exists())).free


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
