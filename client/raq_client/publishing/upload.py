"""The upload of a folder to a model hub: one repository, one commit."""

import warnings
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.utils import logging as hub_logging

from raq_client.hub.faults import endpoint, hub_faults
from raq_client.hub.names import HUB
from raq_client.publishing.folder import Folder
from raq_solver.errors import Fault, InvalidInput

MESSAGE: Final = "Quantized with raq"


def check_upload(repo: str) -> None:
    """Raise InvalidInput if nothing can be uploaded: the hub's library is to stay offline, or there is no token."""
    if constants.is_offline_mode():
        what = "HF_HUB_OFFLINE forbids to upload; unset it, or write the folder only with --dry-run"
        raise InvalidInput(Fault(f"{HUB}{repo}", what))
    if not get_token():
        what = "uploading needs a token with the right to write: set HF_TOKEN, or write the folder only with --dry-run"
        raise InvalidInput(Fault(f"{HUB}{repo}", what))


def upload(folder: Folder, repo: str, *, message: str = MESSAGE, private: bool = False) -> str:
    """Upload a folder as one commit of `repo`, which is created if it is not there; the address of the commit.

    Large files go first and the commit comes last, so that an upload that was cut leaves the repository as it was; the
    next one sends only what is missing. Raises InvalidInput with what went wrong.
    """
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with hub_faults(f"{HUB}{repo}"), warnings.catch_warnings():
        # The hub's library hands files to its HTTP library in a way that the latter has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        api = HfApi(endpoint=endpoint())
        api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, folder.path / name) for name in folder.files]
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)
