"""The libraries of the general path: a plain install has neither, because nothing else needs them."""

from importlib.util import find_spec
from typing import Final

from raq_solver.errors import Fault, InvalidInput

_NEEDED: Final = {"ortools": "OR-Tools", "scipy": "SciPy"}


def check_libraries() -> None:
    """Raise InvalidInput if a library is missing that side rows and worst cases need."""
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        what = f"limits on several tensors together, and worst cases over domains, need {' and '.join(missing)}"
        raise InvalidInput(Fault("", f"{what}: pip install 'raq[solver]'"))
