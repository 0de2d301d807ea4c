"""Check lengths: files of at most 400 lines, function bodies of at most 40.

Usage: python .ci/sources.py
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 400
FUNCTION_LINES = 40
SUFFIXES = (".py", ".cpp", ".hpp", ".cu", ".cuh", ".proto")
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def main() -> int:
    """Print what is too long; 1 when something is."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
    sources = [name for name in listed if name.endswith(SUFFIXES) and not name.endswith(GENERATED)]
    sources = [name for name in sources if (ROOT / name).exists()]  # a deletion may not be staged yet
    complaints = [complaint for name in sources for complaint in _complaints(ROOT / name, name)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def _complaints(path: Path, name: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    count = text.count("\n")
    found = [f"{name}: {count} lines; at most {FILE_LINES}"] if count > FILE_LINES else []
    if name.endswith(".py"):
        found += [
            f"{name}:{node.lineno}: {node.name} has {length} lines; at most {FUNCTION_LINES}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := _code_lines(node)) > FUNCTION_LINES
        ]
    return found


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring (a command's signature declares its options)."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (first.end_lineno or 0) + 1 if documented else first.lineno
    return (node.end_lineno or node.lineno) - start + 1


if __name__ == "__main__":
    sys.exit(main())
