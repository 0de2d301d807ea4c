"""What `pip install raq` brings without extras, by pyproject.toml and by what is installed here; and raq run so."""

import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.commands import Result
from support.paths import ROOT

_PAGE = 4096
_START = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None  # importing it fails as if it were not there
from {module} import main
main()
"""


def plain_distributions() -> dict[str, Distribution]:
    """The distributions that a plain install brings beside raq, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, Distribution] = {}
    wanted = list(project["dependencies"])
    while wanted:
        needed = Requirement(wanted.pop())
        name = canonicalize_name(needed.name)
        if name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            found[name] = distribution(name)
            wanted += found[name].requires or []
    return found


def disk_bytes(installed: Distribution) -> int:
    """The bytes that a distribution takes on disk, in whole pages, with its compiled modules."""
    paths = (Path(str(file.locate())) for file in installed.files or ())
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in paths if path.is_file())


def _beyond() -> list[str]:
    """The modules of this environment that a plain install does not have."""
    plain = {*plain_distributions(), "raq"}
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier() and not plain & {canonicalize_name(owner) for owner in owners}
    )


def plain(*arguments: object, module: str = "raq_client.cli.app") -> Result:
    """`raq-client ARGUMENTS` (or another command) in a process where only what a plain install brings is there."""
    words = [sys.executable, "-c", _START.format(module=module), ",".join(_beyond()), *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return Result(ended.returncode, ended.stdout, ended.stderr)
