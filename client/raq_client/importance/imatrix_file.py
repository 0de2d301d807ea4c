"""Read and write the importance files of llama.cpp, in both formats.

GGUF: F32 tensors per entry, `NAME.in_sum2` (sums of squares, one row per matrix), `NAME.counts` and, if collected,
`NAME.in_sum` (sums of the inputs themselves), which llama.cpp's loader reads since 0a32c5e and ignored before. Fisher
information is an extension of raq: `NAME.fisher_rows` and `NAME.fisher_columns`, one row per matrix, and their number
of windows in `raq.fisher.windows`. `NAME.fisher_inputs` has the costs of rounded inputs (`curvature.rounded_inputs`).
`NAME.fisher_levels` has a number for each window; `raq.fisher.texts` names the text of each, the tensor
`raq.fisher.weights` says how much each counts. The state of an interrupted collection has exact sums in F64 tensors.
llama.cpp's loader ignores them all.
.dat (until 2025): per entry its name, the number of chunks, and mean squares times that number.
Source: tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp of llama.cpp 0c1e57098 and 0a32c5e.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from raq_client.curvature.information import Fisher, InformedWindow
from raq_client.files.atomic_file import atomic_file
from raq_client.files.mistaken import LONGEST
from raq_client.files.reading import check_readable, damage_named
from raq_client.importance.imatrix import DEFAULT_CHUNK_SIZE, Entry, Importance
from raq_client.models.gguf_header import MAGIC, TensorInfo, encode_header, padded, stored
from raq_client.models.mistaken import looks_like
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import Fault, InvalidInput, raise_faults

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"
_PLAIN_SUMS: Final = ".in_sum"
_FISHER_ROWS: Final = ".fisher_rows"
_FISHER_COLUMNS: Final = ".fisher_columns"
_FISHER_LEVELS: Final = ".fisher_levels"
_FISHER_INPUTS: Final = ".fisher_inputs"
_FISHER_WINDOWS: Final = "raq.fisher.windows"
_FISHER_TEXTS: Final = "raq.fisher.texts"
_FISHER_WEIGHTS: Final = "raq.fisher.weights"
_GRAM: Final = "has Gram statistics, not importance; give it with --gram, and importance with --imatrix"
_ALIGNMENT: Final = 32
_F32: Final = 0
_F64: Final = 28


def read_importance(path: Path | str, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> Importance:
    """Read an importance file in either format, recognised by its first bytes.

    `chunk_size` are the tokens of a chunk in a .dat file, which does not store them: 512 unless llama-imatrix was given
    another context. It matters where files are added up.
    Raises InvalidInput if it has neither format, is cut off, or holds impossible numbers.
    """
    path = Path(path)
    check_readable(path)
    with damage_named(path, "an importance file"):
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        found = _read_gguf(path) if start == MAGIC else _read_dat(path, chunk_size)
    if not found.entries and not found.fisher:
        raise InvalidInput(Fault(str(path), "holds the importance of no tensor; collect it again from a longer text"))
    return found


def write_importance(importance: Importance, path: Path | str, *, force: bool = False) -> None:
    """Write the importance, in the old format if the name ends in `.dat`, else in GGUF.

    Raises InvalidInput if the file exists without `force`, or can't be written.
    """
    path = Path(path)
    data = _to_dat(importance) if path.suffix == ".dat" else _to_gguf(importance)
    with atomic_file(path, force=force, needed=len(data)) as file:
        file.write(data)


def _read_gguf(path: Path) -> Importance:
    model = open_model(path, kind="imatrix")
    if (kind := model.value("general.type") or "model") != "imatrix":
        what = f"a GGUF file, but no importance matrix (general.type is {kind})"
        raise InvalidInput(Fault(str(path), _GRAM if kind == "gram" else what))
    datasets = model.value("imatrix.datasets")
    numbers = [model.value(key) for key in ("imatrix.chunk_count", "imatrix.chunk_size")]
    growing = _exact(model)
    arrays = {tensor.name: model.weights(tensor) for tensor in model.tensors if tensor.name not in growing}
    values = {name: array.ravel() for name, array in arrays.items()}
    names = [name.removesuffix(_SUMS) for name in values if name.endswith(_SUMS)]
    faults = [Fault(name, f"has sums but no counts in {path}") for name in names if name + _COUNTS not in values]
    if not isinstance(datasets, list) or not all(isinstance(number, int) for number in numbers):
        faults.append(Fault(str(path), "imatrix.datasets, imatrix.chunk_count and imatrix.chunk_size are needed"))
    of_rows, of_columns = (
        {name.removesuffix(suffix) for name in arrays if name.endswith(suffix)}
        for suffix in (_FISHER_ROWS, _FISHER_COLUMNS)
    )
    what = f"has Fisher information of only rows or only columns in {path}"
    faults += [Fault(name, what) for name in sorted(of_rows ^ of_columns)]
    raise_faults(faults)
    entries = {
        name: Entry(values[name + _SUMS], values[name + _COUNTS], values.get(name + _PLAIN_SUMS)) for name in names
    }
    chunk_count, chunk_size = (number if isinstance(number, int) else 0 for number in numbers)
    windows = model.value(_FISHER_WINDOWS)
    return Importance(
        entries,
        tuple(map(str, datasets)) if isinstance(datasets, list) else (),
        chunk_count,
        chunk_size or DEFAULT_CHUNK_SIZE,
        str(path),
        {name: _fisher(name, arrays) for name in of_rows},
        windows if isinstance(windows, int) else 0,
        windows=_informed(model.value(_FISHER_TEXTS), values.get(_FISHER_WEIGHTS), path),
        growing=growing,
    )


def _fisher(name: str, arrays: Mapping[str, Float32[np.ndarray, "matrices values"]]) -> Fisher:
    """The Fisher information of a tensor."""
    levels, inputs = arrays.get(name + _FISHER_LEVELS), arrays.get(name + _FISHER_INPUTS)
    return Fisher(
        arrays[name + _FISHER_ROWS],
        arrays[name + _FISHER_COLUMNS],
        None if levels is None else levels.ravel(),
        None if inputs is None else inputs.ravel(),
    )


def _exact(model: ModelFile) -> dict[str, Float64[np.ndarray, " values"]]:
    """The sums that are kept exactly."""
    exact = [tensor for tensor in model.tensors if tensor.source_type.name == "F64"]
    return {tensor.name: model.stored(tensor).view("<f8").astype(np.float64).ravel() for tensor in exact}


def _informed(names: object, weights: np.ndarray | None, path: Path) -> tuple[InformedWindow, ...]:
    """The windows of Fisher information; none in files that don't name them."""
    if names is None and weights is None:
        return ()
    if not isinstance(names, list) or weights is None or len(names) != weights.size:
        what = f"needs {_FISHER_TEXTS} and {_FISHER_WEIGHTS} of as many windows; collect it again"
        raise InvalidInput(Fault(str(path), what))
    return tuple(InformedWindow(str(name), weight) for name, weight in zip(names, weights.tolist(), strict=True))


def _read_dat(path: Path, chunk_size: int) -> Importance:
    data = path.read_bytes()
    entries = {}
    try:
        position = 4
        for _ in range(_dat_count(data)):
            name, entry, position = _dat_entry(data, position, chunk_size)
            entries[name] = entry
        chunk_count, dataset = _dat_trailer(data, position)
    except (struct.error, ValueError, _DatError):
        known = looks_like(data[:LONGEST]) if not entries else None
        cut = f", or cut off: no end within its {len(data):,} bytes after {len(entries)} entries"
        what = f"not an importance file{cut if known is None else f': it is {known}'}"
        raise InvalidInput(Fault(str(path), what)) from None
    return Importance(entries, dataset, chunk_count, chunk_size, str(path))


class _DatError(Exception):
    """The bytes are not those of a .dat file."""


def _dat_count(data: bytes) -> int:
    (count,) = struct.unpack_from("<i", data)
    if count < 1:
        raise _DatError
    return int(count)


def _dat_entry(data: bytes, position: int, chunk_size: int) -> tuple[str, Entry, int]:
    (length,) = struct.unpack_from("<i", data, position)
    # llama.cpp limits tensor names to 64 bytes; anything near a kilobyte is not a name.
    if not 0 < length < 1024:
        raise _DatError
    name = data[position + 4 : position + 4 + length].decode()
    position += 4 + length
    chunks, values = struct.unpack_from("<ii", data, position)
    position += 8
    if values < 1:
        raise _DatError
    stored_values = np.frombuffer(data, "<f4", values, position)
    chunks = max(chunks, 1)
    tokens = np.float32(chunks * chunk_size)
    # An overflow gives infinity, which is reported later as a fault with the tensor's name.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = (stored_values / np.float32(chunks)) * tokens
    return name, Entry(sums.astype(np.float32), np.array([tokens], np.float32)), position + 4 * values


def _dat_trailer(data: bytes, position: int) -> tuple[int, tuple[str, ...]]:
    """Chunk count and names of texts; files from before 2024 end without them."""
    if position == len(data):
        return 0, ()
    chunk_count, length = struct.unpack_from("<ii", data, position)
    if not 0 <= length <= len(data) - position - 8:
        raise _DatError
    return chunk_count, (data[position + 8 : position + 8 + length].decode(errors="replace"),)


def _to_gguf(importance: Importance) -> bytes:
    metadata = {
        "general.type": stored("imatrix"),
        "imatrix.datasets": stored(list(importance.datasets)),
        "imatrix.chunk_count": stored(importance.chunk_count),
        "imatrix.chunk_size": stored(importance.chunk_size),
    }
    if importance.fisher:
        metadata[_FISHER_WINDOWS] = stored(importance.fisher_windows)
    if importance.windows:
        metadata[_FISHER_TEXTS] = stored([window.text for window in importance.windows])
    infos = []
    body = []
    offset = 0
    for name, values, columns in _arrays(importance):
        # llama.cpp's writer leaves out trailing dimensions of 1.
        further = (values.size // columns,) if values.size > columns else ()
        exact = name in importance.growing
        infos.append(TensorInfo(name, (columns, *further), _F64 if exact else _F32, offset))
        data = values.astype("<f8" if exact else "<f4").tobytes()
        body.append(data.ljust(padded(len(data), _ALIGNMENT), b"\0"))
        offset += len(body[-1])
    return encode_header(metadata, infos, _ALIGNMENT) + b"".join(body)


def _arrays(importance: Importance) -> Iterator[tuple[str, np.ndarray, int]]:
    """The arrays of a GGUF file: name, values, and length of a row."""
    for name, entry in importance.entries.items():
        columns = entry.sums.size // entry.counts.size
        yield name + _SUMS, entry.sums, columns
        yield name + _COUNTS, entry.counts, 1
        if entry.plain_sums is not None:
            yield name + _PLAIN_SUMS, entry.plain_sums, columns
    for name, each in importance.fisher.items():
        yield name + _FISHER_ROWS, each.rows, each.rows.shape[1]
        yield name + _FISHER_COLUMNS, each.columns, each.columns.shape[1]
        if each.levels is not None:
            yield name + _FISHER_LEVELS, each.levels, each.levels.size
        if each.inputs is not None:
            yield name + _FISHER_INPUTS, each.inputs, each.inputs.size
    if importance.windows:
        yield _FISHER_WEIGHTS, np.array([window.weight for window in importance.windows]), len(importance.windows)
    for name, exact in importance.growing.items():
        yield name, exact, exact.size


def _to_dat(importance: Importance) -> bytes:
    entries = {name: entry for name, entry in importance.entries.items() if entry.counts.any()}
    parts = [struct.pack("<i", len(entries))]
    for name, entry in entries.items():
        chunks = math.ceil(float(entry.counts.max()) / importance.chunk_size)
        means = entry.mean_squares
        # An expert that no token reached is written as ones: the format can't express "unknown".
        means[entry.counts == 0] = 1
        values = (means * np.float32(chunks)).ravel()
        parts += [struct.pack("<i", len(name.encode())), name.encode()]
        parts += [struct.pack("<ii", chunks, values.size), values.astype("<f4").tobytes()]
    dataset = importance.datasets[-1].encode("utf-8", "replace") if importance.datasets else b""
    parts += [struct.pack("<ii", importance.chunk_count, len(dataset)), dataset]
    return b"".join(parts)
