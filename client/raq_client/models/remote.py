"""Read the tensor table of a GGUF file on a web server or a model hub, downloading only its header."""

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from raq_client.models.gguf_header import Header, HeaderCutOffError, parse_header
from raq_client.models.model_file import NO_TENSORS, require_kind, shard_count, shard_names, tensors_of
from raq_client.models.sources import found_on_hub
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensors import Tensor

_FIRST_BYTES: Final = 2**20
_MOST_BYTES: Final = 2**28
"""Headers have a few megabytes, mostly vocabulary; a longer one is treated as damaged."""
_SECONDS: Final = 30.0
_PUBLIC: Final[Mapping[str, str]] = MappingProxyType({})


def read_remote_table(url: str) -> ModelTable:
    """The table of the model at `url`, which may be any shard of a split model.

    Raises InvalidInput if nothing can be read there, or if it is not GGUF.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidInput(Fault(url, "not an address that begins with http:// or https://"))
    folder, _, name = parts.path.rpartition("/")
    opened = _read_header(url)
    return _table(url, name, opened, lambda shard: _read_header(urlunsplit(parts._replace(path=f"{folder}/{shard}"))))


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

    folder, _, first = found.files[0].rpartition("/")
    return _table(name, first, read(found.files[0]), lambda shard: read(f"{folder}/{shard}".lstrip("/")))


def _table(where: str, name: str, opened: Header, read: Callable[[str], Header]) -> ModelTable:
    """The table of a model of which the shard called `name` is opened; the others are read by their names."""
    require_kind(opened, where)
    headers = {name: opened}
    if shard_count(opened) > 1:
        names = shard_names(name, shard_count(opened))
        if not names:
            raise InvalidInput(Fault(where, f"one of {shard_count(opened)} shards, but not named as one"))
        headers = {shard: opened if shard == name else read(shard) for shard in names}
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
    size = _FIRST_BYTES
    while True:
        data = _first_bytes(url, size, headers, where or url)
        try:
            return parse_header(data, where or url)
        except HeaderCutOffError:
            if len(data) < size or size >= _MOST_BYTES:
                raise
            size *= 4


def _first_bytes(url: str, count: int, headers: Mapping[str, str], where: str) -> bytes:
    """The first bytes of a file; fewer if it is shorter. Works without range support: reading stops after `count`."""
    # The scheme has been checked, or comes from the hub: file:// is refused before.
    request = urllib.request.Request(url, headers={**headers, "Range": f"bytes=0-{count - 1}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
            data: bytes = response.read(count)
            return data
    except urllib.error.HTTPError as error:
        phrase = HTTPStatus(error.code).phrase if error.code in set(HTTPStatus) else "no reason given"
        raise InvalidInput(Fault(where, f"can't be read: the server answers {error.code} ({phrase})")) from error
    except (OSError, HTTPException) as error:
        raise InvalidInput(Fault(where, f"can't be read: {getattr(error, 'reason', error)}")) from error
