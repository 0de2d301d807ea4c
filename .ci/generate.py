"""Write the generated sources (messages and their stubs), or check that the committed ones are what would be written.

Usage: python .ci/generate.py [--check]
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
MESSAGES = PROTO / "raq_proto" / "v1"


def generate_messages(into: Path) -> None:
    """Run protoc on all messages; the output mirrors the import path below `into`."""
    files = [str(path.relative_to(PROTO)) for path in sorted(MESSAGES.glob("*.proto"))]
    services = [file for file in files if file.endswith("_service.proto")]
    protoc(into, ("python_out", "mypy_out"), files)
    protoc(into, ("grpc_python_out", "mypy_grpc_out"), services)


def protoc(into: Path, outputs: tuple[str, ...], files: list[str]) -> None:
    """Run the pinned protoc with these plug-ins."""
    flags = [f"--{output}={into}" for output in outputs]
    # The plug-ins of mypy-protobuf lie beside the interpreter.
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *flags, *files],
        check=True,
        env=path,
        stderr=subprocess.DEVNULL,
    )


def main() -> int:
    """Generate, or compare; 1 when something committed is not what would be generated."""
    with tempfile.TemporaryDirectory() as folder:
        generate_messages(Path(folder))
        made = sorted((Path(folder) / "raq_proto" / "v1").iterdir())
        if "--check" not in sys.argv:
            for path in made:
                shutil.copy(path, MESSAGES / path.name)
            return 0
        stale = [p.name for p in made if not _same(p, MESSAGES / p.name)]
    for name in stale:
        print(f"{name} is not what `just generate` writes", file=sys.stderr)
    return 1 if stale else 0


def _same(made: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(made, committed, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
