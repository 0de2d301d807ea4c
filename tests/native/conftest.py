"""The machine with emulated CUDA devices."""

from collections.abc import Iterator

import pytest

from support.emulated_cuda import Device, Machine, compiler


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with one device; afterwards nothing may be left queued, in use or kept."""
    if compiler() is None:
        pytest.skip("no C++ compiler to build the CUDA sources for this processor")
    made = Machine()
    made.reset(Device())
    yield made
    made.cuda_release()
    counts = made.counts()
    assert (counts.freed_in_use, counts.queued, counts.allocations, counts.streams) == (0, 0, 0, 0)
