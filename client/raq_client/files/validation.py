"""Convert pydantic's errors to faults of a file."""

from typing import Any

from pydantic import ValidationError

from raq_solver.errors import Fault


def faults_of(error: ValidationError, where: str, what: str) -> list[Fault]:
    """One fault for each error of pydantic in a file that should be `what`; missing keys first."""
    complaints = sorted(error.errors(), key=lambda each: each["type"] != "missing")
    return [
        Fault(f"{where}: {_location(each)}".rstrip(": "), f"not {what}: {each['msg'].removeprefix('Value error, ')}")
        for each in complaints
    ]


def _location(each: Any) -> str:
    return ".".join(str(part) for part in each["loc"])
