"""Write the blocking client from the asyncio one, which is the source of both.

Usage: python .ci/unasync.py [--check]
"""

import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parent.parent / "client" / "raq_client" / "solver_client"
SOURCE, GENERATED = CLIENT / "remote_async.py", CLIENT / "remote.py"
REPLACED = (
    ('"""The client of the service for asyncio: each', '"""The client of the service: each'),
    ("method a coroutine or an asynchronous iterator.", "method a call or an iterator. Generated from `remote_async`."),
    ("Cancelling a call stops its search.", "Threads may share a client."),
    ("async def ", "def "),
    ("async for ", "for "),
    ("await ", ""),
    ("AsyncIterator", "Iterator"),
    ("AsyncIterable", "Iterable"),
    ("AsyncClient", "Client"),
    ("ServiceAsyncStub", "ServiceStub"),
    ("connect_async", "connect"),
    ("grpc.aio.AioRpcError", "grpc.RpcError"),
    ("grpc.aio.", "grpc."),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
)


def generated() -> str:
    """The text of the blocking client, as ruff formats it."""
    text = SOURCE.read_text(encoding="utf-8")
    for before, after in REPLACED:
        if before not in text:
            raise SystemExit(f"{SOURCE.name} no longer holds {before!r}: bring {Path(__file__).name} up to date")
        text = text.replace(before, after)
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):  # sorted imports, joined lines
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(GENERATED), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


def main() -> int:
    """Write the file, or say that it is stale."""
    text = generated()
    if "--check" not in sys.argv:
        GENERATED.write_text(text, encoding="utf-8")
    elif text != GENERATED.read_text(encoding="utf-8"):
        print(f"{GENERATED.name} is not what `just generate` writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
