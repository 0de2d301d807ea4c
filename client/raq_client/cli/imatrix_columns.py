"""What the tables of `raq-client imatrix` show in each column."""

from typing import Any, Final

from raq_client.cli.tables import Column


def _tied(row: Any) -> str:
    return ", ".join(name.rsplit(".", 2)[-2] for name in row.tied)


ENTRIES: Final = (
    Column("tensor", lambda row: row.name, figures=False),
    Column("tokens", lambda row: f"{row.tokens:,}"),
    Column("mean sq.", lambda row: f"{row.mean:.4g}"),
    Column("dev.", lambda row: f"{row.deviation:.3g}"),
    Column("most", lambda row: f"{row.most:.3g}"),
    Column("entropy %", lambda row: f"{100 * row.entropy_share:.1f}"),
    Column("active %", lambda row: f"{100 * row.active:.1f}"),
    Column("outl. %", lambda row: f"{100 * row.outliers:.1f}"),
    Column("similar", lambda row: "" if row.similarity is None else f"{row.similarity:.3f}"),
    Column("mean", lambda row: "" if row.centre is None else f"{row.centre:.3f}"),
    Column("bias %", lambda row: "" if row.bias is None else f"{100 * row.bias:.1f}"),
    Column("silent", lambda row: f"{row.silent_experts} of {row.experts}" if row.experts > 1 else ""),
    Column("same input", _tied, figures=False),
)
EXPERTS: Final = (
    Column("expert", lambda row: str(row.expert)),
    Column("tokens", lambda row: f"{row.tokens:,}"),
    Column("share, %", lambda row: f"{100 * row.share:.2f}"),
    Column("mean sq.", lambda row: f"{row.mean:.4g}" if row.tokens else "not reached"),
)
GROUPS: Final = (
    Column("tensors", lambda row: str(row.tensors)),
    Column("total", lambda row: f"{row.total:.5g}"),
    Column("mean sq.", lambda row: f"{row.mean:.4g}"),
    Column("entropy %", lambda row: f"{100 * row.entropy_share:.1f}"),
)
RATIOS: Final = (
    Column("tensor", lambda row: row.name, figures=False),
    Column("domain", lambda row: f"{row.domain_level:.4g}"),
    Column("general", lambda row: f"{row.general_level:.4g}"),
    Column("ratio", lambda row: f"{row.ratio:.3f}"),
    Column("95 %", lambda row: "" if row.interval is None else f"{row.interval[0]:.3f}–{row.interval[1]:.3f}"),
    Column(
        "",
        lambda row: row.verdict.name.lower().replace("keep", "") + ("?" if row.certain is False else ""),
        figures=False,
    ),
    Column("same input", _tied, figures=False),
)
GROUP_RATIOS: Final = (
    Column("tensors", lambda row: str(row.tensors)),
    Column("ratio", lambda row: f"{row.ratio:.3f}"),
    Column("demote", lambda row: str(row.demote or "")),
    Column("promote", lambda row: str(row.promote or "")),
)
