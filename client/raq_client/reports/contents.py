"""What a file is and holds: a model with its kinds of blocks, an importance file, or why it can't be read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType

from raq_client.models.model_file import open_model, read_header
from raq_client.models.sources import local_model
from raq_client.models.table import ModelTable, table_of
from raq_client.reports.plan import bpw_text, ranges_text
from raq_client.reports.tables import Column, Table, facts_table
from raq_solver.budget import bits_per_weight
from raq_solver.errors import InvalidInput
from raq_solver.tensor_names import block_of, local_name, role_of
from raq_solver.tensors import Tensor

_IMPORTANCE: Final = "imatrix"


@dataclass(frozen=True, slots=True)
class BlockKind:
    """Blocks with the same tensors: their numbers, and each tensor's role, shape and types.

    `size` are the bytes of all these blocks.
    """

    blocks: tuple[int, ...]
    tensors: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...]
    size: int


def block_kinds(tensors: Iterable[Tensor]) -> list[BlockKind]:
    """The blocks of a model, equal ones together, in the order of their first; -1 are the tensors outside of blocks.

    Blocks are equal if names and shapes of their tensors are; types may differ between them. A hybrid has a kind for
    its recurrent and one for its attention blocks.

    >>> from raq_solver.quant_types import CATALOGUE
    >>> types = CATALOGUE["Q8_0"], CATALOGUE["Q4_K"]
    >>> made = [Tensor(f"blk.{n}.attn_q.weight", (256, 256), each) for n, each in enumerate(types)]
    >>> [(kind.blocks, kind.tensors) for kind in block_kinds(made)]
    [((0, 1), (('attn_q', (256, 256), ('Q4_K', 'Q8_0')),))]
    """
    blocks: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        blocks.setdefault(block_of(tensor.name), []).append(tensor)
    kinds: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for number, members in sorted(blocks.items()):
        signature = tuple(sorted((local_name(each.name), each.shape) for each in members))
        kinds.setdefault(signature, []).append(number)
    return [_kind(numbers, blocks) for numbers in kinds.values()]


def _kind(numbers: list[int], blocks: dict[int, list[Tensor]]) -> BlockKind:
    types: dict[str, set[str]] = {}
    for tensor in (each for number in numbers for each in blocks[number]):
        types.setdefault(local_name(tensor.name), set()).add(tensor.source_type.name)
    rows = tuple(
        (role_of(each.name), each.shape, tuple(sorted(types[local_name(each.name)]))) for each in blocks[numbers[0]]
    )
    return BlockKind(tuple(numbers), rows, sum(each.size for number in numbers for each in blocks[number]))


def contents(path: Path, *, with_tensors: bool = False) -> dict[str, Any]:
    """What a GGUF file holds, as plain data for --json. `kind` is model, importance, other or unreadable.

    Of an unreadable file `error` says why; nothing is raised.
    """
    found: dict[str, Any] = {"file": str(path)}
    try:
        path = local_model(path)
        stored = read_header(path).metadata.get("general.type")
        kind = "model" if stored is None else str(stored.decode())
        if kind == _IMPORTANCE:
            return found | {"kind": "importance", "bytes": path.stat().st_size}
        table = table_of(open_model(path))
    except InvalidInput as error:
        return found | {"kind": "unreadable", "error": str(error)}
    except OSError as error:
        return found | {"kind": "unreadable", "error": f"{path}: {error.strerror}"}
    found |= {"kind": "model" if kind == "model" else "other"} | _model(table, path)
    if with_tensors:
        found["tensors"] = [
            {"name": each.name, "shape": each.shape, "type": each.source_type.name, "bytes": each.size}
            for each in table.tensors
        ]
    return found


def _model(table: ModelTable, path: Path) -> dict[str, Any]:
    size = sum(tensor.size for tensor in table.tensors)
    return {
        "name": table.name,
        "architecture": table.architecture,
        "bytes": path.stat().st_size,
        "tensor_bytes": size,
        "weights": table.weights,
        "bits_per_weight": float(bits_per_weight(size, table.weights)),
        "blocks": table.block_count,
        "experts": table.number("expert_count"),
        "experts_used": table.number("expert_used_count"),
        "context": table.number("context_length"),
        "structure": [
            {
                "blocks": kind.blocks,
                "bytes": kind.size,
                "tensors": [{"role": role, "shape": shape, "types": types} for role, shape, types in kind.tensors],
            }
            for kind in block_kinds(table.tensors)
        ],
    }


def contents_report(found: dict[str, Any]) -> RenderableType:
    """The same for people."""
    if found["kind"] in {"unreadable", "importance"}:
        said = found.get("error") or f"{found['file']}: importance; raq-client imatrix show prints its figures"
        return str(said)
    bits = bpw_text(bits_per_weight(found["tensor_bytes"], found["weights"]))
    facts = facts_table(
        (
            ("file", found["file"]),
            ("model", f"{found['name']} ({found['architecture']}), {found['blocks']} blocks"),
            ("weights", f"{found['weights']:,}"),
            ("tensor data", f"{found['tensor_bytes']:,} bytes, {bits} bpw"),
        )
    )
    columns = (Column("blocks"), Column("bytes", figures=True), Column("tensors"))
    rows = []
    for kind in found["structure"]:
        named = ", ".join(f"{each['role']} {'|'.join(each['types'])}" for each in kind["tensors"])
        rows.append((ranges_text(kind["blocks"]) if kind["blocks"][0] >= 0 else "–", f"{kind['bytes']:,}", named))
    return Group(facts, "", Table(columns, rows))
