"""How many examples a property is tried on: fewer in a contributor's run, all in CI's, many where one is doubted.

`pytest --hypothesis-profile=ci` is what .ci/run takes, `thorough` some seventeen times as many.
"""

import math
from typing import Final

from hypothesis import settings

USUAL: Final = 60
"""Examples of a property in CI where nothing else is said."""


def examples(count: int) -> settings:
    """Settings for `count` examples in CI, and for as much fewer or more as the profile has it.

    >>> with_profile = examples(USUAL).max_examples
    >>> with_profile == settings.default.max_examples
    True
    """
    return settings(max_examples=math.ceil(count * settings.default.max_examples / USUAL))
