"""What every table of figures says of itself: what, when, where."""

import datetime as dt
import os
import platform
from pathlib import Path


def header(title: str) -> None:
    """Print what is measured, on which day and on which machine."""
    print(f"\n\n{title}\n{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} processors")


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
