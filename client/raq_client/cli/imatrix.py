"""`raq-client imatrix`: importance files shown, compared, merged and converted."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raq_client.cli import imatrix_columns as columns
from raq_client.cli import options
from raq_client.cli.console import OUT, print_json, say
from raq_client.cli.tables import print_csv, print_rows
from raq_client.cli.written import check_written
from raq_client.reports.plain import plain, plain_fields
from raq_client.reports.tables import Field, table_of
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults

if TYPE_CHECKING:
    from raq_client.importance.imatrix import Importance
    from raq_client.importance.ratio import RatioReport, TensorRatio

File = Annotated[Path, typer.Argument(metavar="FILE", help="Importance file (GGUF or .dat).")]
ChunkSize = Annotated[
    int,
    typer.Option(
        "--chunk-size", min=1, metavar="TOKENS", help="Tokens of a chunk in .dat files, which do not store them."
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


class By(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """What one line stands for."""

    TENSOR = "tensor"
    BLOCK = "block"
    ZONE = "zone"
    ROLE = "role"


Grouping = Annotated[By, typer.Option("--by", help="What a line stands for; a zone is 8 blocks.")]


@dataclass(frozen=True, slots=True)
class Group:
    """Means of a block, zone or role."""

    group: str
    tensors: int
    total: float
    mean: float
    entropy_share: float


@dataclass(frozen=True, slots=True)
class GroupRatio:
    """The geometric mean ratio of a block, zone or role."""

    group: str
    tensors: int
    ratio: float
    demote: int
    promote: int


def show(
    file: File,
    by: Grouping = By.TENSOR,
    experts: Annotated[
        str | None, typer.Option("--experts", metavar="TENSOR", help="One line for each expert of this tensor.")
    ] = None,
    least: Annotated[
        int | None,
        typer.Option(
            "--min-count",
            min=1,
            metavar="TOKENS",
            help="One line for each expert that fewer tokens reached, of every block.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
    as_csv: Csv = False,
) -> None:
    """Show the figures of an importance file.

    One line for each tensor, block, zone or role, or for each expert of one tensor. The figures are those of
    llama-imatrix --show-statistics; where the file has sums of inputs, also their mean, and the share of the means in
    the mean squares (bias). They describe activations, and do not rank tensors by the damage of quantizing them.

    With --min-count, the experts whose figures rest on few tokens; those that none reached have no data.

    Examples:

    raq-client imatrix show imatrix.gguf --by zone

    raq-client imatrix show mixture.imatrix.gguf --min-count 100
    """
    from raq_client.importance.imatrix_file import read_importance
    from raq_client.importance.statistics import entry_statistics, expert_statistics, grouped

    importance = read_importance(file)
    if least is not None:
        if experts is not None or by is not By.TENSOR:
            raise InvalidInput(Fault("--min-count", "is a list of its own; give it without --experts and --by"))
        _rare(importance, least, as_json=as_json, as_csv=as_csv)
        return
    if experts is not None:
        if experts not in importance.entries:
            what = f"no entry of {file}{near_misses(experts, importance.entries)}"
            raise InvalidInput(Fault(experts, what))
        print_rows(expert_statistics(importance, experts), columns.EXPERTS, as_json=as_json, as_csv=as_csv)
        return
    statistics = entry_statistics(importance)
    if not as_json and not as_csv:
        inputs = len({min(one.name, *one.tied, one.name) for one in statistics})
        say(f"{len(statistics)} tensors, {inputs} distinct inputs, {importance.chunk_count} chunks")
    if by is By.TENSOR:
        print_rows(statistics, columns.ENTRIES, as_json=as_json, as_csv=as_csv)
        return
    groups = grouped(statistics, lambda one: str(getattr(one, by.value)))
    rows = [Group(name, g.tensors, g.total, g.mean, g.entropy_share) for name, g in groups.items()]
    print_rows(rows, (Field(by.value, read=lambda row: row.group), *columns.GROUPS), as_json=as_json, as_csv=as_csv)


def _rare(importance: "Importance", least: int, *, as_json: bool, as_csv: bool) -> None:
    from raq_client.importance.rare_experts import rare_experts

    found = rare_experts(importance, least)
    if not as_json and not as_csv:
        silent = sum(each.tokens is None for each in found)
        say(f"{len(found)} experts with fewer than {least:,} tokens, {silent} of them with none")
    print_rows(found, columns.RARE, as_json=as_json, as_csv=as_csv)


def ratio(
    domain: Annotated[Path, typer.Argument(metavar="DOMAIN", help="Importance of the domain's text.")],
    general: Annotated[Path, typer.Argument(metavar="GENERAL", help="Importance of general text.")],
    domain_part: options.DomainPart = None,
    general_part: options.GeneralPart = None,
    by: Grouping = By.TENSOR,
    demote_below: options.DemoteBelow = 0.80,
    promote_above: options.PromoteAbove = 1.10,
    as_json: options.Json = False,
    as_csv: Csv = False,
) -> None:
    """Compare how hard two kinds of text drive each tensor.

    A ratio is the mean squared input under DOMAIN over that under GENERAL, divided by the median of that quotient over
    all distinct inputs, so that neither token counts nor overall scale matter. Tensors with one input (q/k/v, gate/up)
    share one ratio. Tensors with low and high ratios are named as candidates for fewer and more bits.

    Example: raq-client imatrix ratio reasoning.gguf wiki.gguf --by zone
    """
    from raq_client.importance.domains import read_parts
    from raq_client.importance.ratio import Thresholds, importance_ratio

    report = importance_ratio(
        read_parts([domain, *(domain_part or ())]),
        read_parts([general, *(general_part or ())]),
        Thresholds(demote_below, promote_above),
    )
    rows: Sequence[Any] = report.rows if by is By.TENSOR else _grouped(report, by)
    if as_csv:
        print_csv([plain(_row(row)) for row in rows])
    elif as_json:
        print_json(_ratio_json(report, by, rows))
    else:
        name = Field(by.value, read=lambda row: row.group)
        OUT.print(table_of(rows, columns.RATIOS if by is By.TENSOR else (name, *columns.GROUP_RATIOS)))
        _say_candidates(report)


def merge(
    called: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE[:WEIGHT]...", help="Importance files of one model.")],
    output: options.Output,
    chunk_size: ChunkSize = 512,
    force: options.Force = False,
) -> None:
    """Add importance files up, or blend them by weights.

    Without weights the result is that of one run over all the texts. Files of Gram statistics (.gram) are merged in the
    same way.

    Examples:

    raq-client imatrix merge part-1.gguf part-2.gguf -o whole.gguf

    raq-client imatrix merge reasoning.gguf:0.7 tools.gguf:0.3 -o both.gguf

    raq-client imatrix merge reasoning.gram:2 prose.gram:1 -o both.gram
    """
    from raq_client.compensation.gram_file import is_gram
    from raq_client.importance.domains import named_file, read_domains
    from raq_client.importance.imatrix_file import write_importance

    check_written(called, {"output": output}, force=force)
    grams = [is_gram(named_file(text)[0]) for text in files]
    if any(grams):
        _merge_grams(files, grams, output, force=force)
        return
    importance = read_domains(files, chunk_size=chunk_size)
    write_importance(importance, output, force=force)
    for remark in importance.remarks:
        say(f"note: {remark}")
    say(f"{output}: {len(importance.entries)} tensors, {importance.chunk_count} chunks")


def _merge_grams(files: list[str], grams: list[bool], output: Path, *, force: bool) -> None:
    from raq_client.compensation.gram_file import read_gram, write_gram
    from raq_client.compensation.merging import merge_grams
    from raq_client.importance.combining import mixed_lengths
    from raq_client.importance.domains import named_file

    named = [named_file(text) for text in files]
    others = [path for (path, _), gram in zip(named, grams, strict=True) if not gram]
    what = "has no Gram statistics; it can't be merged with Gram statistics"
    raise_faults([Fault(str(path), what if path.exists() else "no such file") for path in others])
    parts = [(read_gram(path), weight) for path, weight in named]
    merged = merge_grams(parts)
    write_gram(merged, output, force=force)
    for remark in mixed_lengths([part.context for part, _ in parts]):
        say(f"note: {remark}")
    if merged.sequences is None and any(part.sequences is not None for part, _ in parts):
        say("note: tokens are left out, since not all files have windows of one length: --sequential needs them")
    say(f"{output}: {len(merged.shared)} tensors, {merged.windows} windows")


def convert(
    called: typer.Context,
    file: File,
    output: options.Output,
    chunk_size: ChunkSize = 512,
    force: options.Force = False,
) -> None:
    """Write an importance file in the other format.

    The format is the older one if the name of the output ends in .dat, else GGUF. The older one has no counts per
    expert.

    Example: raq-client imatrix convert imatrix.dat -o imatrix.gguf
    """
    from raq_client.importance.imatrix_file import read_importance, write_importance

    check_written(called, {"output": output}, force=force)
    importance = read_importance(file, chunk_size=chunk_size)
    write_importance(importance, output, force=force)
    say(f"{output}: {len(importance.entries)} tensors, {importance.chunk_count} chunks")


def _grouped(report: "RatioReport", by: By) -> list[GroupRatio]:
    from raq_client.importance.ratio import Verdict

    members: dict[str, list[TensorRatio]] = {}
    for row in report.rows:
        members.setdefault(str(getattr(row, by.value)), []).append(row)
    means = report.grouped(lambda row: str(getattr(row, by.value)))
    return [
        GroupRatio(
            name,
            len(rows),
            means[name],
            sum(row.verdict is Verdict.DEMOTE for row in rows),
            sum(row.verdict is Verdict.PROMOTE for row in rows),
        )
        for name, rows in members.items()
    ]


def _row(row: Any) -> dict[str, Any]:
    """A row as plain data; verdicts by name."""
    found = plain_fields(row)
    return found | ({"verdict": row.verdict.name.lower()} if "verdict" in found else {})


def _ratio_json(report: "RatioReport", by: By, rows: Sequence[Any]) -> dict[str, Any]:
    return {
        "scale": report.scale,
        "inputs": report.inputs,
        "by": by.value,
        "rows": [plain(_row(row)) for row in rows],
        "demote": list(report.demote),
        "promote": list(report.promote),
        "only_domain": list(report.only_domain),
        "only_general": list(report.only_general),
    }


def _say_candidates(report: "RatioReport") -> None:
    from raq_client.reports.plan import roles_text

    say(
        f"\n{len(report.rows)} tensors share {report.inputs} distinct inputs; ratios are relative to {report.scale:.4f}"
    )
    for title, names in (("demote", report.demote), ("promote", report.promote)):
        say(f"{title} {len(names)}: {roles_text(names) or 'none'}")
    for title, names in (("the domain", report.only_domain), ("general text", report.only_general)):
        if names:
            say(f"only in {title}: {roles_text(names)}")
