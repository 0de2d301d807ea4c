"""Columns of the tables of `raq-client imatrix`; in a narrow terminal those with the highest `spare` go first."""

from functools import partial
from typing import Any, Final

from raq_client.reports.tables import Field

Figures = partial(Field, figures=True)


def _tied(row: Any) -> str:
    return ", ".join(name.rsplit(".", 2)[-2] for name in row.tied)


def _interval(row: Any) -> str:
    return "" if row.interval is None else f"{row.interval[0]:.3f}–{row.interval[1]:.3f}"


def _verdict(row: Any) -> str:
    name: str = row.verdict.name.lower()
    return name.replace("keep", "") + ("?" if row.certain is False else "")


def _silent(row: Any) -> str:
    return f"{row.silent_experts} of {row.experts}" if row.experts > 1 else ""


ENTRIES: Final = (
    Field("tensor", read=lambda row: row.name),
    Figures("tokens", spare=4, read=lambda row: f"{row.tokens:,}"),
    Figures("mean sq.", read=lambda row: f"{row.mean:.4g}"),
    Figures("dev.", spare=5, read=lambda row: f"{row.deviation:.3g}"),
    Figures("most", spare=6, read=lambda row: f"{row.most:.3g}"),
    Figures("entropy %", spare=1, read=lambda row: f"{100 * row.entropy_share:.1f}"),
    Figures("active %", spare=7, read=lambda row: f"{100 * row.active:.1f}"),
    Figures("outl. %", spare=2, read=lambda row: f"{100 * row.outliers:.1f}"),
    Figures("similar", spare=8, read=lambda row: "" if row.similarity is None else f"{row.similarity:.3f}"),
    Figures("mean", spare=9, read=lambda row: "" if row.centre is None else f"{row.centre:.3f}"),
    Figures("bias %", spare=3, read=lambda row: "" if row.bias is None else f"{100 * row.bias:.1f}"),
    Figures("silent", spare=10, read=_silent),
    Field("same input", spare=11, read=_tied),
)
EXPERTS: Final = (
    Figures("expert", read=lambda row: str(row.expert)),
    Figures("tokens", read=lambda row: f"{row.tokens:,}"),
    Figures("share, %", read=lambda row: f"{100 * row.share:.2f}"),
    Figures("mean sq.", read=lambda row: f"{row.mean:.4g}" if row.tokens else "not reached"),
)
RARE: Final = (
    Figures("block", read=lambda row: str(row.block)),
    Figures("expert", read=lambda row: str(row.expert)),
    Figures("tokens", read=lambda row: "no data" if row.tokens is None else f"{row.tokens:,}"),
    Field("tensors", read=lambda row: ", ".join(row.roles)),
)
GROUPS: Final = (
    Figures("tensors", read=lambda row: str(row.tensors)),
    Figures("total", spare=1, read=lambda row: f"{row.total:.5g}"),
    Figures("mean sq.", read=lambda row: f"{row.mean:.4g}"),
    Figures("entropy %", read=lambda row: f"{100 * row.entropy_share:.1f}"),
)
RATIOS: Final = (
    Field("tensor", read=lambda row: row.name),
    Figures("domain", spare=2, read=lambda row: f"{row.domain_level:.4g}"),
    Figures("general", spare=2, read=lambda row: f"{row.general_level:.4g}"),
    Figures("ratio", read=lambda row: f"{row.ratio:.3f}"),
    Figures("95 %", spare=1, read=_interval),
    Field("", read=_verdict),
    Field("same input", spare=3, read=_tied),
)
GROUP_RATIOS: Final = (
    Figures("tensors", spare=1, read=lambda row: str(row.tensors)),
    Figures("ratio", read=lambda row: f"{row.ratio:.3f}"),
    Figures("demote", read=lambda row: str(row.demote or "")),
    Figures("promote", read=lambda row: str(row.promote or "")),
)
