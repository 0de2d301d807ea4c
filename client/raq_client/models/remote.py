"""Read the tensor table of a GGUF file on a web server, downloading only its header."""

import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from raq_client.models.gguf_header import Header, HeaderCutOffError, parse_header
from raq_client.models.model_file import NO_TENSORS, require_kind, shard_count, shard_names, tensors_of
from raq_client.models.table import ModelTable
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensors import Tensor

_FIRST_BYTES: Final = 2**20
_MOST_BYTES: Final = 2**28
"""Headers have a few megabytes, mostly vocabulary; a longer one is treated as damaged."""
_SECONDS: Final = 30.0


def read_remote_table(url: str) -> ModelTable:
    """The table of the model at `url`, which may be any shard of a split model.

    Raises InvalidInput if nothing can be read there, or if it is not GGUF.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidInput(Fault(url, "not an address that begins with http:// or https://"))
    opened = _read_header(url)
    require_kind(opened, url)
    headers = {url: opened}
    if shard_count(opened) > 1:
        folder, _, name = parts.path.rpartition("/")
        names = shard_names(name, shard_count(opened))
        if not names:
            raise InvalidInput(Fault(url, f"one of {shard_count(opened)} shards, but not named as one"))
        addresses = [urlunsplit(parts._replace(path=f"{folder}/{shard}")) for shard in names]
        headers = {address: opened if address == url else _read_header(address) for address in addresses}
    tensors: list[Tensor] = []
    faults: list[Fault] = []
    for address, header in headers.items():
        offsets, shard_faults = tensors_of(header, address)
        tensors += offsets
        faults += shard_faults
    raise_faults(faults or ([] if tensors else [Fault(url, NO_TENSORS)]))
    return _table(parts.path.rpartition("/")[2], tuple(tensors), next(iter(headers.values())))


def _table(name: str, tensors: tuple[Tensor, ...], header: Header) -> ModelTable:
    values = header.metadata
    architecture = str(values["general.architecture"].decode()) if "general.architecture" in values else ""
    metadata = {key: value.decode() for key, value in values.items() if key.startswith(f"{architecture}.")}
    title = str(values["general.name"].decode()) if "general.name" in values else name.removesuffix(".gguf")
    return ModelTable(title, architecture, tensors, MappingProxyType(metadata))


def _read_header(url: str) -> Header:
    size = _FIRST_BYTES
    while True:
        data = _first_bytes(url, size)
        try:
            return parse_header(data, url)
        except HeaderCutOffError:
            if len(data) < size or size >= _MOST_BYTES:
                raise
            size *= 4


def _first_bytes(url: str, count: int) -> bytes:
    """The first bytes of a file; fewer if it is shorter. Works without range support: reading stops after `count`."""
    # The scheme has been checked: file:// is refused before.
    request = urllib.request.Request(url, headers={"Range": f"bytes=0-{count - 1}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
            data: bytes = response.read(count)
            return data
    except urllib.error.HTTPError as error:
        phrase = HTTPStatus(error.code).phrase if error.code in set(HTTPStatus) else "no reason given"
        raise InvalidInput(Fault(url, f"can't be read: the server answers {error.code} ({phrase})")) from error
    except (OSError, HTTPException) as error:
        raise InvalidInput(Fault(url, f"can't be read: {getattr(error, 'reason', error)}")) from error
