"""What an interrupted command says before it ends: what it has kept, and how to go on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raq_client.cli.console import say

ROUNDED: Final = "what is rounded"


@contextmanager
def kept_when_ended(states: Iterable[Path | None], what: str) -> Iterator[None]:
    """Say how to go on where Ctrl-C or another signal ends the block, if one of these files or folders is there."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        there = [str(path) for path in states if path is not None and path.exists()]
        if there:
            holds = "holds" if len(there) == 1 else "hold"
            say(f"{' and '.join(there)} {holds} {what}; run the same command again to go on from there")
        raise
