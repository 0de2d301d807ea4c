"""Whether an answer is right: by its last number, by its text, or by running the code that it holds.

Running code that a model wrote is off unless asked for. It runs in a process of its own with limits on time, memory,
files and processes, an empty environment and a folder that is removed. That is no jail: it can read what the user can
and use the network; run it in a container where that matters.
"""

import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Final

from raq_client.benchmarks.registry import Form
from raq_client.benchmarks.rows import Row

_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FENCED: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TAGGED: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHT: Final = re.compile(r"<think>.*?</think>", re.DOTALL)
SECONDS: Final = 10
_LIMITS: Final = {
    resource.RLIMIT_CPU: SECONDS,
    resource.RLIMIT_AS: 2 << 30,
    resource.RLIMIT_FSIZE: 1 << 20,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_CORE: 0,
}


def is_right(form: Form, row: Row, answer: str) -> bool:
    """Whether the answer to a row is right. That of code is run."""
    final = _THOUGHT.sub("", answer)
    match form:
        case "gsm8k":
            return last_number(final) == last_number(row.answer) is not None
        case "humaneval":
            return passes(row, final)
        case "question-answer" | "reasoning-gym":
            return _plain(stated(final)) == _plain(row.answer)


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None if there is none.

    >>> last_number("so 2 × 600 = 1,200.50 dollars.")
    Fraction(2401, 2)
    """
    found = _NUMBER.findall(text)
    return Fraction(found[-1].replace(",", "")) if found else None


def stated(text: str) -> str:
    r"""The answer that a text states: in <answer> tags, else after the last "Answer:", else its last line.

    >>> stated("Let me see.\n\nAnswer: 42\n"), stated("I think\n42 "), stated("<answer>a b</answer>.")
    ('42', '42', 'a b')
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        return str(tagged[-1]).strip()
    lines = text.strip().rsplit("Answer:", 1)[-1].strip().split("\n")
    return lines[0].strip() if "Answer:" in text else lines[-1].strip()


def _plain(text: str) -> str:
    """A text without differences that are none: case, spaces, a full stop at the end."""
    return " ".join(text.lower().split()).rstrip(".")


def program(row: Row, answer: str) -> str:
    """The program that checks an answer: the code in it, or the task continued by it, and the task's tests."""
    fenced = _FENCED.findall(answer)
    code = fenced[-1] if fenced else answer
    whole = code if f"def {row.entry_point}" in code else row.question + code
    return f"{whole}\n\n{row.tests}\n\ncheck({row.entry_point})\n"


def passes(row: Row, answer: str, seconds: float = SECONDS) -> bool:
    """Whether the code of an answer passes the tests of its task within `seconds`."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-I", "-S", "-c", _LIMITED, repr(dict(_LIMITS)), token]
    with (
        tempfile.TemporaryDirectory(prefix="raq-code-") as folder,
        subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            said, _ = process.communicate(program(row, answer).encode("utf-8", "replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):  # what it has started goes with it
                os.killpg(process.pid, signal.SIGKILL)
    return said.decode(errors="replace") == token


_ENVIRONMENT: Final[Mapping[str, str]] = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
# The limits are set in the new process: between fork and exec, in a process with threads, Python code may hang. Only a
# program whose tests have run to their end says the token; one that ends by itself before does not pass.
_LIMITED: Final = """
import ast, os, resource, sys
for number, limit in ast.literal_eval(sys.argv[1]).items():
    resource.setrlimit(number, (limit, limit))
token, said = sys.argv.pop(), os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
exec(compile(sys.stdin.read(), "answer", "exec"), {"__name__": "answer"})
os.write(said, token.encode())
"""
