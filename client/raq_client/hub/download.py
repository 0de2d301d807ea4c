"""Models of a hub: what a repository holds, where its files are, and their download into the hub's own cache.

Everything is read at one commit: the revision is resolved once, and files are asked for by its SHA.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    scan_cache_dir,
    try_to_load_from_cache,
)
from huggingface_hub.utils import logging as hub_logging
from platformdirs import user_cache_path

from raq_client.files.cache_file import CacheFile
from raq_client.hub.faults import MAKE_ROOM, NO_ROOM, OFFLINE, endpoint, hub_faults, named_as
from raq_client.hub.names import HubName, chosen_files
from raq_solver.errors import Fault, InvalidInput

_OF_FOLDER: Final = (
    "*.safetensors",
    "*.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "README.md",
)
"""The files of a repository that a conversion of its safetensors reads."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Found:
    """A model of a repository at one commit: its GGUF files, or all files for a conversion if it is a `folder`."""

    name: HubName
    sha: str
    files: tuple[str, ...]
    folder: bool = False

    def __str__(self) -> str:
        return str(HubName(self.name.repo, self.sha, "" if self.folder else self.files[0]))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file can be read by range requests, with the headers that the server wants."""

    url: str
    headers: Mapping[str, str]


@cache
def find(name: HubName) -> Found:
    """The model that a name means; the hub is asked once per process, without network the hub's cache is.

    Raises InvalidInput if there is no such repository, revision or file, or if several files fit.
    """
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with hub_faults(str(name)):
        if constants.is_offline_mode():
            sha, files = _cached(name)
        else:
            info = HfApi(endpoint=endpoint()).model_info(name.repo, revision=name.revision)
            sha, files = str(info.sha), [each.rfilename for each in info.siblings or ()]
    chosen = chosen_files(str(name), files, name.wanted)
    if chosen:
        return Found(name, sha, chosen)
    if not any(file.endswith(".safetensors") for file in files):
        raise InvalidInput(Fault(str(name), "holds neither GGUF nor safetensors files"))
    needed = [file for file in files if "/" not in file and any(fnmatch(file, pattern) for pattern in _OF_FOLDER)]
    return Found(name, sha, tuple(sorted(needed)), folder=True)


def address_of(found: Found, file: str) -> Address:
    """Where a file of a repository can be read by range requests.

    A token is sent to the hub only, not to the host that the hub sends readers to.
    """
    with hub_faults(str(found.name)):
        url = hf_hub_url(found.name.repo, file, revision=found.sha, endpoint=endpoint())
        location = get_hf_file_metadata(url, endpoint=endpoint()).location
        return Address(location, _authorization() if location == url else {})


def download(found: Found, check: Callable[[Path, Sequence[str]], None] = lambda _folder, _files: None) -> Path:
    """Download a model into the hub's cache; the path of its first file there, or of the folder of its safetensors.

    What is there already is not asked for again. Every file is compared once with the SHA-256 that the hub states.
    Before the weights of a folder come, `check` may refuse it: it gets the folder without them, and the names of its
    files. Raises InvalidInput with what went wrong.
    """
    with hub_faults(str(found)):
        _check_room(found)
        first = [file for file in found.files if not file.endswith(".safetensors")] if found.folder else []
        paths = [_downloaded(found, file) for file in first]
        if paths:
            with named_as(str(found.name), paths[0].parent):
                check(paths[0].parent, found.files)
        paths += [_downloaded(found, file) for file in found.files if file not in first]
        _verify(found, paths)
        return paths[0].parent if found.folder else paths[0]


def is_downloaded(found: Found) -> bool:
    """Whether all files of a model are in the hub's cache."""
    return all(kept_copy(found, file) is not None for file in found.files)


def kept_copy(found: Found, file: str) -> Path | None:
    """A file of a repository in the hub's cache; None if it is not there."""
    kept = try_to_load_from_cache(found.name.repo, file, revision=found.sha)
    return Path(kept) if isinstance(kept, str) else None


def _cached(name: HubName) -> tuple[str, list[str]]:
    """The commit that a name means in the hub's cache, and the files of it that are there."""
    there = scan_cache_dir(constants.HF_HUB_CACHE).repos if Path(constants.HF_HUB_CACHE).is_dir() else ()
    for repo in there:
        for revision in repo.revisions if (repo.repo_id, repo.repo_type) == (name.repo, "model") else ():
            if (name.revision or "main") in {revision.commit_hash, *revision.refs}:
                files = [file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files]
                return revision.commit_hash, files
    raise InvalidInput(Fault(str(name), OFFLINE))


def _check_room(found: Found) -> None:
    """Raise InvalidInput if the disk of the hub's cache has no room for the files that are not there yet."""
    missing = {file for file in found.files if kept_copy(found, file) is None}
    if not missing or constants.is_offline_mode():
        return
    info = HfApi(endpoint=endpoint()).model_info(found.name.repo, revision=found.sha, files_metadata=True)
    cache = Path(constants.HF_HUB_CACHE)
    needed = sum(each.size or 0 for each in info.siblings or () if each.rfilename in missing)
    free = shutil.disk_usage(next(each for each in (cache, *cache.parents) if each.exists())).free
    if needed > free:
        what = f"{NO_ROOM}: {needed:,} bytes are needed, {free:,} are free; {MAKE_ROOM}"
        raise InvalidInput(Fault(str(found.name), what))


def _downloaded(found: Found, file: str) -> Path:
    """The path of one file in the hub's cache."""
    repo, sha = found.name.repo, found.sha
    if (kept := kept_copy(found, file)) is not None:
        return kept
    # Asked for by its branch or tag, so that the cache remembers where that was; by the commit if it has moved since.
    path = Path(hf_hub_download(repo, file, revision=found.name.revision, endpoint=endpoint()))
    if f"/snapshots/{sha}/" in path.as_posix():
        return path
    return Path(hf_hub_download(repo, file, revision=sha, endpoint=endpoint()))


def _authorization() -> dict[str, str]:
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _verify(found: Found, paths: Sequence[Path]) -> None:
    """Compare large files with their SHA-256, which is their name in the hub's cache; a wrong one is removed."""
    known = CacheFile(user_cache_path("raq") / "hub.jsonl")
    seen = {(entry.get("sha256"), entry.get("size"), entry.get("changed")) for entry in known.objects()}
    for path in paths:
        blob = path.resolve()
        status = blob.stat()
        if not _SHA256.fullmatch(blob.name) or (blob.name, status.st_size, status.st_mtime_ns) in seen:
            continue
        with blob.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != blob.name:
            path.unlink()
            blob.unlink(missing_ok=True)
            what = f"{path.name} arrived damaged: its SHA-256 is {digest[:12]}…, the hub states {blob.name[:12]}…"
            raise InvalidInput(Fault(str(found), f"{what}; it was removed, run the command again"))
        known.add({"sha256": digest, "size": status.st_size, "changed": status.st_mtime_ns})
