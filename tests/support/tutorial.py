"""The commands of docs/tutorial.md, run as they stand against a hub on this machine, with the time each takes.

`python -m support.tutorial MODEL.gguf FOLDER` from this folder's parent prints the tutorial's table of times.
"""

import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.fake_hub import Repo, running_hub
from support.paths import DATA, ROOT

PAGE = ROOT / "docs" / "tutorial.md"
REPOSITORY = "org/SmolLM2-135M-Instruct"
TEXTS = {"calibration.txt": DATA / "gsm8k.calibration.txt", "held-out.txt": DATA / "gsm8k.evaluation.txt"}


@dataclass(frozen=True, slots=True)
class Ran:
    """A command with its exit code and output; `seconds` on the clock, `processor` seconds of it and its threads."""

    words: tuple[str, ...]
    code: int
    out: str
    seconds: float
    processor: float


def shown_commands() -> list[tuple[str, ...]]:
    """The commands in the blocks of the tutorial that are marked to be run."""
    blocks = re.findall(r"<!-- tutorial -->\n```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [tuple(shlex.split(line, comments=True)) for line in lines if line.strip()]


def run_tutorial(model: Path, folder: Path, text_bytes: int | None = None) -> Iterator[Ran]:
    """Run every command in a folder, with a hub that has this model under the tutorial's name.

    `text_bytes` are taken of each text, None: all.
    """
    for name, text in TEXTS.items():
        (folder / name).write_bytes(text.read_bytes()[:text_bytes])
    with running_hub() as hub:
        hub.repos[REPOSITORY] = Repo({f"{REPOSITORY.partition('/')[2]}-F16.gguf": model.read_bytes()})
        own = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / "hub"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COLUMNS": "120",
        }
        for words in shown_commands():
            program = str(Path(sys.executable).parent / words[0])
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            done = subprocess.run(
                [program, *words[1:]], cwd=folder, env=os.environ | own, text=True, capture_output=True, check=False
            )
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
            yield Ran(words, done.returncode, done.stdout + done.stderr, time.monotonic() - began, processor)


if __name__ == "__main__":
    for ran in run_tutorial(Path(sys.argv[1]), Path(sys.argv[2])):
        print(
            f"$ {shlex.join(ran.words)}\n{ran.out}\n| {ran.code} | {ran.processor:.1f} | {ran.seconds:.1f} |",
            flush=True,
        )
