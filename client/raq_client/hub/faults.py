"""What goes wrong between here and a model hub, as one sentence each with the way out."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from httpx2 import HTTPError, ReadError, RemoteProtocolError
from huggingface_hub import errors

from raq_solver.errors import Fault, InvalidInput

_AGAIN: Final = "the same command goes on with what is there already"
OFFLINE: Final = "is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask for it; unset it once to download it"
NO_ROOM: Final = "no room on the disk of the hub's cache"
MAKE_ROOM: Final = "free some, or set HF_HOME to a folder on another disk"
_SENTENCES: Final = (
    (errors.OfflineModeIsEnabled, OFFLINE),
    (errors.LocalEntryNotFoundError, OFFLINE),
    (
        errors.GatedRepoError,
        "is gated; accept its terms on its page, and set HF_TOKEN to a token of that account",
    ),
    (
        errors.RevisionNotFoundError,
        "the repository has no such revision (any more); name another after @, or none",
    ),
    (errors.EntryNotFoundError, "the repository has no such file (any more)"),
    (
        errors.RepositoryNotFoundError,
        "there is no such repository, or it is private; check the name, and that HF_TOKEN may read it",
    ),
    (
        errors.FileMetadataError,
        "the server does not answer as a model hub does; check HF_ENDPOINT, and proxies in between",
    ),
)
"""Errors of the hub's library and what to say of them; the first that fits counts."""


@contextmanager
def hub_faults(where: str) -> Iterator[None]:
    """Turn every error of the hub's library into one InvalidInput that names `where`."""
    try:
        with warnings.catch_warnings():  # said as an error, if the disk is full in the end
            warnings.filterwarnings("ignore", "Not enough free disk space", UserWarning)
            yield
    except InvalidInput:
        raise
    except (HTTPError, errors.HFValidationError, errors.FileMetadataError, OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(Fault(where, _sentence(error))) from error


@contextmanager
def named_as(name: str, folder: Path) -> Iterator[None]:
    """Let errors about a folder of the hub's cache, or about a file of it, name the model."""
    try:
        yield
    except InvalidInput as error:
        wheres = [name if Path(each.where) == folder else f"{name}: {Path(each.where).name}" for each in error.faults]
        faults = [Fault(where, each.what) for where, each in zip(wheres, error.faults, strict=True)]
        raise InvalidInput(*faults) from error


def _sentence(error: Exception) -> str:
    cause = _root(error)
    if isinstance(cause, errors.RepositoryNotFoundError) and _status(cause) == HTTPStatus.UNAUTHORIZED and _has_token():
        return _answered(HTTPStatus.UNAUTHORIZED)
    known = next((sentence for kind, sentence in _SENTENCES if isinstance(cause, kind)), None)
    if known is not None:
        return known
    if isinstance(cause, errors.HfHubHTTPError):
        return _answered(_status(cause))
    if isinstance(cause, RemoteProtocolError | ReadError):
        return f"the connection was cut ({cause}); {_AGAIN}"
    if isinstance(cause, HTTPError):
        reason = str(cause) or type(cause).__name__
        return f"the hub can't be reached ({reason}); check the network, and HF_ENDPOINT if it is set; {_AGAIN}"
    return _of_machine(cause)


def _of_machine(cause: BaseException) -> str:
    """What to say of an error of the file system, and of everything else."""
    if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{NO_ROOM}; {MAKE_ROOM}"
    if isinstance(cause, OSError) and "Consistency check" in str(cause):
        return f"the download was cut off; run it again, {_AGAIN}"
    return _first_line(cause)


def _answered(status: int) -> str:
    """What to say of a status code of the hub."""
    if status == HTTPStatus.UNAUTHORIZED:
        return "the hub does not accept the token (401); set HF_TOKEN to a valid one, or unset it for public models"
    if status == HTTPStatus.FORBIDDEN:
        return "the token does not permit this (403); set HF_TOKEN to one with the right to read it, or to write it"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"the hub answers 429 (too many requests); wait some minutes, or set HF_TOKEN; {_AGAIN}"
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "no reason given"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"the hub answers {status} ({phrase}); try again later: {_AGAIN}"
    return f"the hub answers {status} ({phrase})"


def _root(error: Exception) -> BaseException:
    """The error behind errors that only say that nothing is in the cache either, or which file was being uploaded."""
    found: BaseException = error
    while isinstance(found, errors.LocalEntryNotFoundError | RuntimeError) and found.__cause__ is not None:
        found = found.__cause__
    return found


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else 0


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def endpoint() -> str | None:
    """The hub's address if HF_ENDPOINT names another than the usual one."""
    return os.environ.get("HF_ENDPOINT") or None
