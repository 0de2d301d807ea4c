"""GGUF files on a web server or a model hub: their tensor tables from their headers, and their tensors by ranges.

A model that is read by ranges is known by its name on the hub at a commit, or by what the server says of its files, as
its bytes are never read all at one place.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from jaxtyping import UInt8

from raq_client.files.names import address_in
from raq_client.hub.names import HUB
from raq_client.models.gguf_header import Header, HeaderCutOffError, parse_header
from raq_client.models.model_file import (
    NO_TENSORS,
    ModelFile,
    assembled,
    open_model,
    require_kind,
    shard_count,
    shard_names,
    tensors_of,
)
from raq_client.models.ranges import SECONDS, KeptFile, RangeFile, Ranges, answer_of
from raq_client.models.sources import found_on_hub
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensors import Tensor

if TYPE_CHECKING:
    from raq_client.hub.download import Found

_FIRST_BYTES: Final = 2**20
_MOST_BYTES: Final = 2**28
"""Headers have a few megabytes, mostly vocabulary; a longer one is treated as damaged."""
_PUBLIC: Final[Mapping[str, str]] = MappingProxyType({})


def read_remote_table(url: str) -> ModelTable:
    """The table of the model at `url`, which may be any shard of a split model.

    Raises InvalidInput if nothing can be read there, or if it is not GGUF.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidInput(Fault(url, "not an address that begins with http:// or https://"))
    name, beside = _beside(url)
    return _table(url, name, _read_header(url), lambda shard: _read_header(beside(shard)))


def read_hub_table(name: str) -> ModelTable:
    """The table of the model that a name of a hub means, from the headers of its files; nothing is kept.

    Raises InvalidInput if there is none, if it can't be read, or if it is not GGUF.
    """
    found = found_on_hub(name)
    if found.folder:
        what = "holds safetensors, whose table raq does not read from afar; name the folder that hf download gives"
        raise InvalidInput(Fault(name, what))
    from raq_client.hub.download import address_of

    def read(file: str) -> Header:
        address = address_of(found, file)
        return _read_header(address.url, address.headers, name)

    first = PurePosixPath(found.files[0])
    return _table(name, first.name, read(found.files[0]), lambda shard: read(str(first.with_name(shard))))


def _beside(url: str) -> tuple[str, Callable[[str], str]]:
    """The name of the file at an address, and a function for the address of another beside it."""
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    return name, lambda other: urlunsplit(parts._replace(path=f"{folder}/{other}"))


def _shards(name: str, opened: Header, where: str) -> Sequence[str]:
    """The names of all shards of a model of which the one called `name` is opened. Raises InvalidInput."""
    if shard_count(opened) <= 1:
        return [name]
    names = shard_names(name, shard_count(opened))
    if not names:
        raise InvalidInput(Fault(where, f"one of {shard_count(opened)} shards, but not named as one"))
    return names


@dataclass(frozen=True, eq=False)
class RemoteModel(ModelFile):
    """A model whose tensors are read by range requests; `identity` stands for its bytes."""

    files: Mapping[Path, Ranges] = field(default_factory=dict)
    identity: str = ""

    @property
    def is_known_by_bytes(self) -> bool:
        """False: the bytes are not all read."""
        return False

    def fingerprint(self) -> str:
        """The digest of what the server says of the files; on a hub, of the model's name at its commit."""
        return self.identity

    def _read(self, shard: Path, offset: int, size: int) -> UInt8[np.ndarray, " size"]:
        return np.frombuffer(bytearray(self.files[shard].read(offset, size)), np.uint8)


def open_by_range(path: Path) -> ModelFile:
    """A model on a web server or a hub, of which only the bytes are read that are asked for; any other as `open_model`.

    Raises InvalidInput as `open_model` does, and if the server can't be read or sends no ranges.
    """
    address = address_in(str(path))
    if address is not None:
        name, beside = _beside(address)
        return _opened(path, name, lambda shard: _on_server(beside(shard)))
    found = found_on_hub(str(path)) if str(path).startswith(HUB) else None
    if found is None or found.folder:
        return open_model(path)
    first = PurePosixPath(found.files[0])
    return _opened(path, first.name, lambda shard: _on_hub(found, str(first.with_name(shard))), str(found))


def _opened(path: Path, name: str, find: Callable[[str], Ranges], identity: str = "") -> RemoteModel:
    """The model of which the shard called `name` is one; `find` finds a shard by its name."""
    file = find(name)
    opened = _header(file.first, str(path))
    require_kind(opened, str(path))
    names = _shards(name, opened, str(path))
    shards = {path.with_name(shard) if len(names) > 1 else path: shard for shard in names}
    files = {at: file if shard == name else find(shard) for at, shard in shards.items()}
    headers = [opened if files[at] is file else _header(files[at].first, str(at)) for at in shards]
    whole = assembled(path, tuple(shards), headers, [each.size for each in files.values()])
    state = hashlib.sha256(f"raq remote 1 {identity or [each.version for each in files.values()]}".encode())
    for tensor in whole.tensors:
        state.update(f"{tensor.name} {tensor.shape} {tensor.source_type.name}".encode())
    return RemoteModel(**vars(whole), files=files, identity=state.hexdigest())


def _on_server(url: str) -> RangeFile:
    return RangeFile(url, lambda: (url, _PUBLIC))


def _on_hub(found: "Found", file: str) -> Ranges:
    """A file of a repository: its copy in the hub's cache if there is one, else the file on the hub."""
    from raq_client.hub.download import address_of, kept_copy

    if (kept := kept_copy(found, file)) is not None:
        return KeptFile(kept)

    def find() -> tuple[str, Mapping[str, str]]:
        address = address_of(found, file)
        return address.url, address.headers

    return RangeFile(f"{HUB}{found.name.repo}@{found.sha}:{file}", find)


def _table(where: str, name: str, opened: Header, read: Callable[[str], Header]) -> ModelTable:
    """The table of a model of which the shard called `name` is opened; the others are read by their names."""
    require_kind(opened, where)
    headers = {shard: opened if shard == name else read(shard) for shard in _shards(name, opened, where)}
    tensors: list[Tensor] = []
    faults: list[Fault] = []
    for shard, header in headers.items():
        offsets, shard_faults = tensors_of(header, where if shard == name else f"{where}, {shard}")
        tensors += offsets
        faults += shard_faults
    raise_faults(faults or ([] if tensors else [Fault(where, NO_TENSORS)]))
    values = next(iter(headers.values())).metadata
    architecture = str(values["general.architecture"].decode()) if "general.architecture" in values else ""
    metadata = {key: value.decode() for key, value in values.items() if key.startswith(f"{architecture}.")}
    title = str(values["general.name"].decode()) if "general.name" in values else name.removesuffix(".gguf")
    return ModelTable(title, architecture, tuple(tensors), MappingProxyType(metadata))


def _read_header(url: str, headers: Mapping[str, str] = _PUBLIC, where: str = "") -> Header:
    return _header(lambda count: _first_bytes(url, count, headers, where or url), where or url)


def _header(first: Callable[[int], bytes], where: str) -> Header:
    """The header of a file of which `first` returns as many bytes as asked for, or fewer if it has fewer."""
    size = _FIRST_BYTES
    while True:
        data = first(size)
        try:
            return parse_header(data, where)
        except HeaderCutOffError:
            if len(data) < size or size >= _MOST_BYTES:
                raise
            size *= 4


def _first_bytes(url: str, count: int, headers: Mapping[str, str], where: str) -> bytes:
    """The first bytes of a file; fewer if it is shorter. Works without range support: reading stops after `count`."""
    # The scheme has been checked, or comes from the hub: file:// is refused before.
    request = urllib.request.Request(url, headers={**headers, "Range": f"bytes=0-{count - 1}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
            data: bytes = response.read(count)
            return data
    except urllib.error.HTTPError as error:
        with error:
            raise InvalidInput(Fault(where, f"can't be read: {answer_of(error)}")) from error
    except (OSError, HTTPException) as error:
        raise InvalidInput(Fault(where, f"can't be read: {getattr(error, 'reason', error)}")) from error
