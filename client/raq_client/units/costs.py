"""What a run of the model costs: expected times by which units are put in order. They change no result.

Those of rounding tensors are in `quantizing.effort`.
"""

from typing import Final

_OPERATION: Final = 1e-4
"""Microseconds of one core to multiply a weight with a token: 20 billion operations a second."""


def running_cost(weights: int, tokens: int) -> float:
    """Microseconds of one core to run a model of this number of weights on this number of tokens.

    >>> running_cost(1000, 10)
    1.0
    """
    return _OPERATION * weights * tokens
