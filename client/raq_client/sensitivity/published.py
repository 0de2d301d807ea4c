"""Import published tables of per-tensor KL divergence as sensitivities of a profile.

Format, as in Thireus' GGUF Tool Suite (`models/*/kld_results.csv`): a header `QTYPE,<tensor>,<tensor>,…`, then one row
per type: mean KL divergence of the whole model, nats per token, if only that tensor has that type.

Known faults of such tables, and how they are handled:
- 404 marks a failed measurement and is treated as missing, as is an exact zero: a tensor that the run never used.
- All values of a row contain a floor (the baseline is not exactly repeatable); the row's 1st percentile is subtracted.
- Some tensors of a block were measured together, with the same value for each of them: they are one evaluation.
- The rest is noisy, and role and depth predict better than single values: the values are shrunk towards them.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.files.reading import damage_named, read_bytes
from raq_client.quantizing.reference_errors import error_of_published
from raq_client.sensitivity.fit import Evaluation, fit_sensitivities
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.loss_models.role_prior import CREDIT
from raq_solver.profile import Profile
from raq_solver.tensor_names import block_of, role_of

FAILED: Final = 404.0
OTHERWISE_RANKED: Final = ("IQ1_BN", "IQ2_BN")
"""Types for ternary models; on other models they rank tensors differently from all other types."""
FLOOR_PERCENTILE: Final = 1.0
LEAST_SHARE: Final = 0.1
"""Lower bound of a sensitivity as a share of its standard error: a value below the floor is small, but not 0."""
BUNDLES: Final = (
    frozenset({"attn_kv_a_mqa", "attn_output", "attn_q_a", "attn_q_b", "attn_v_b"}),
    frozenset({"attn_k_b", "attn_output", "attn_v_b"}),
    frozenset({"attn_q_a", "attn_q_b"}),
    frozenset({"attn_k_b", "attn_v_b"}),
    frozenset({"attn_k", "attn_v"}),
    frozenset({"ffn_down_shexp", "ffn_gate_shexp", "ffn_up_shexp"}),
)
"""Roles that some tables measure together; a block then has the same value for all of them."""


@dataclass(frozen=True, eq=False)
class PublishedTable:
    """A table as read: KL divergences in nats per token, NaN for missing or failed values."""

    path: Path
    types: tuple[str, ...]
    tensors: tuple[str, ...]
    values: Float64[np.ndarray, "types tensors"]
    failed: int
    digest: str


@dataclass(frozen=True, eq=False)
class Imported:
    """A profile with imported sensitivities, and how they were obtained.

    `floors` are the values subtracted from each row used, nats per token. `matched` tensors of the profile have a
    value, `filled` ones are estimated from role and depth alone. `unused` are rows of types with unknown errors.
    """

    profile: Profile
    floors: dict[str, float]
    unused: tuple[str, ...]
    matched: int
    filled: int
    failed: int


def read_published(path: Path) -> PublishedTable:
    """Read a table. Raises InvalidInput with every fault of it."""
    data = read_bytes(path, "a table")
    with damage_named(path, "a table"):
        header, *rows = list(csv.reader(data.decode("utf-8-sig").splitlines())) or [[]]
    if header[:1] != ["QTYPE"] or len(header) < 2 or len(set(header)) < len(header):
        what = "is no table of per-tensor KL divergence: its first line must be QTYPE and distinct tensor names"
        raise InvalidInput(Fault(str(path), what))
    rows = [row for row in rows if row]
    faults = [] if rows else [Fault(str(path), "has no row of values")]
    values = np.full((len(rows), len(header) - 1), np.nan)
    for index, row in enumerate(rows):
        where = f"{path}, {row[0]}"
        if len(row) != len(header):
            faults.append(Fault(where, f"has {len(row) - 1} values for {len(header) - 1} tensors"))
            continue
        for column, text in enumerate(row[1:]):
            number = _number(text)
            if number is None:
                faults.append(Fault(where, f"{header[column + 1]}: {text!r} is not a KL divergence"))
            else:
                values[index, column] = number
    raise_faults(faults)
    failed = int((values == FAILED).sum())
    values[(values == FAILED) | (values == 0)] = np.nan
    digest = hashlib.sha256(data).hexdigest()[:16]
    return PublishedTable(path, tuple(row[0] for row in rows), tuple(header[1:]), values, failed, digest)


def import_sensitivities(table: PublishedTable, profile: Profile, *, by_role: bool = False) -> Imported:
    """The profile with a sensitivity (KL divergence over relative error) for every tensor that may change type.

    The error is the profile's if it has that tensor at that type, else that of Gaussian rows. `by_role` gives all
    tensors of a role their mean, because an optimizer exploits the noise of single values. Raises InvalidInput if the
    table is of another model, or has no row of a type with a known error.
    """
    names = _changeable(profile)
    evaluations: list[Evaluation] = []
    floors: dict[str, float] = {}
    unused = []
    for row, quant_type in enumerate(table.types):
        errors = _errors(profile, quant_type)
        if errors is None:
            unused.append(quant_type)
            continue
        found = _evaluations(table.tensors, table.values[row], names, errors)
        if found:
            floors[quant_type], parts = found
            evaluations += parts
    matched = {name for evaluation in evaluations for name in evaluation.tensors}
    _require_match(table, matched, unused)
    fit = fit_sensitivities(names, evaluations)
    values, doubts = np.full(len(profile.tensors), np.nan), np.full(len(profile.tensors), np.nan)
    rows = {tensor.name: row for row, tensor in enumerate(profile.tensors)}
    at = [rows[name] for name in names]
    single = np.maximum(fit.values, LEAST_SHARE * fit.errors)
    values[at], doubts[at] = _role_means(names, single) if by_role else single, fit.errors
    provenance = {
        **profile.provenance,
        "sensitivity": f"published table {table.path.name}, rows {', '.join(floors)}"
        + (", by role" if by_role else ""),
        "sensitivity_key": table.digest,
        "sensitivity_credit": CREDIT,
    }
    filled = replace(profile, sensitivities=values, sensitivity_errors=doubts, provenance=provenance)
    return Imported(filled, floors, tuple(unused), len(matched), len(names) - len(matched), table.failed)


def _number(text: str) -> float | None:
    """A KL divergence, NaN for an empty field (not measured), or None if the text is neither."""
    if not text.strip():
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and number >= 0 else None


def _role_means(names: Sequence[str], values: Float64[np.ndarray, " tensors"]) -> Float64[np.ndarray, " tensors"]:
    _, role, counts = np.unique([role_of(name) for name in names], return_inverse=True, return_counts=True)
    means: Float64[np.ndarray, " tensors"] = (np.bincount(role, values) / counts)[role]
    return means


def _changeable(profile: Profile) -> tuple[str, ...]:
    rows = zip(profile.tensors, profile.relative_errors, strict=True)
    return tuple(tensor.name for tensor, errors in rows if np.isfinite(errors).sum() > 1)


def _errors(profile: Profile, quant_type: str) -> dict[str, float] | None:
    """The relative error of each tensor at that type; None if the type is unknown or misleading."""
    usual = None if quant_type.upper() in OTHERWISE_RANKED else error_of_published(quant_type)
    if usual is None:
        return None
    plain = quant_type.upper().removesuffix("_R4").removesuffix("_R8")
    columns = [index for index, each in enumerate(profile.quant_types) if each.name == plain]
    errors = {}
    for tensor, row in zip(profile.tensors, profile.relative_errors, strict=True):
        own = float(row[columns[0]]) if columns else np.inf
        errors[tensor.name] = own if np.isfinite(own) and own > 0 else usual
    return errors


def _evaluations(
    tensors: Sequence[str], values: Float64[np.ndarray, " tensors"], names: Iterable[str], errors: dict[str, float]
) -> tuple[float, list[Evaluation]] | None:
    """The floor of a row, and its values as evaluations of the tensors in `names`; None if there are none."""
    wanted = set(names)
    known = {n: v for n, v in zip(tensors, values.tolist(), strict=True) if n in wanted and np.isfinite(v)}
    if not known:
        return None
    floor = float(np.percentile(list(known.values()), FLOOR_PERCENTILE))
    found = []
    for group in _bundles(known):
        kl = known[group[0]] - floor
        # The noise between runs is not published; the floor is used as its standard deviation.
        found.append(Evaluation(group, tuple(errors[name] for name in group), kl, floor))
    return floor, found


def _bundles(known: dict[str, float]) -> list[tuple[str, ...]]:
    """The tensors in groups that were measured together."""
    together: dict[tuple[int, float], list[str]] = {}
    for name, value in known.items():
        together.setdefault((block_of(name), value), []).append(name)
    groups: list[tuple[str, ...]] = []
    for (block, _), members in together.items():
        roles = {role_of(name) for name in members}
        one = block >= 0 and len(members) > 1 and any(roles <= bundle for bundle in BUNDLES)
        groups += [tuple(members)] if one else [(name,) for name in members]
    return groups


def _require_match(table: PublishedTable, matched: set[str], unused: Sequence[str]) -> None:
    if matched:
        return
    if len(unused) == len(table.types):
        what = f"has only rows of types with unknown errors: {', '.join(unused)}"
    else:
        what = "names no tensor of the profile that may change type: it is of another model"
    raise InvalidInput(Fault(str(table.path), what))
