"""Options for writing a model as several files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raq_client.cli.written import check_written
from raq_client.models.split import Split, parse_split_size, split_paths
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from raq_client.models.writer import WrittenModel

PANEL = "Split output"


@dataclass(frozen=True)
class SplitOptions:
    """Whether and how the output is split."""

    split_max_size: Annotated[
        str | None,
        typer.Option(
            "--split-max-size",
            metavar="SIZE",
            rich_help_panel=PANEL,
            help="Write files of at most this size (500M, 4G: 10^9 bytes), named OUTPUT-00001-of-0000N.gguf.",
            show_default=False,
        ),
    ] = None
    keep_split: Annotated[
        bool, typer.Option("--keep-split", rich_help_panel=PANEL, help="Write as many files as MODEL has.")
    ] = False

    def split(self) -> Split | None:
        """How the output is split, None for one file. Raises InvalidInput if both options are given."""
        if self.split_max_size is not None and self.keep_split:
            raise InvalidInput(Fault("--keep-split", "and --split-max-size are two ways to split; give one"))
        if self.split_max_size is None:
            return Split() if self.keep_split else None
        return Split(parse_split_size(self.split_max_size))

    def likely(self, output: Path) -> Path:
        """A file whose check stands for that of the files to write, while their number is not known."""
        return output if self.split() is None else split_paths(output, 1)[0]


def check_files(called: typer.Context, paths: Sequence[Path], *, force: bool, also: Sequence[Path | str] = ()) -> None:
    """`check_written` for all files of a model, the first of which is the command's parameter `output`."""
    check_written(
        called,
        {"output": paths[0]} | {f"file {number}": path for number, path in enumerate(paths[1:], start=2)},
        force=force,
        also=also,
    )


def sizes(written: "WrittenModel") -> str:
    """A line on a model that was written: its file or files, and their size."""
    count = len(written.paths)
    name = f"{written.path} and {count - 1} more" if count > 1 else f"{written.path}"
    return f"{name}: {written.size:,} bytes, of them {written.tensor_bytes:,} of tensor data"
