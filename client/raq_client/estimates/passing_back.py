"""How long passes forward and back take: one window through one block of each kind, and through the output head."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from autograd import make_vjp
from jaxtyping import Float32, Int32

from raq_client.curvature.network import Network, unwatched
from raq_client.curvature.passes import Collection, Together, head_gradients, stream_bytes, windows_at_once
from raq_client.curvature.shapes import shape_of
from raq_client.estimates.pace import Clock, Pace
from raq_client.models.model_file import ModelFile
from raq_solver.tensor_names import block_of


@dataclass(frozen=True, slots=True)
class PassesBack:
    """The pace of passes over windows, and the bytes of the residual streams that are kept meanwhile."""

    pace: Pace
    streams: int


def passing_back(
    model: ModelFile,
    windows: Int32[np.ndarray, "windows context"],
    collections: Sequence[Collection],
    *,
    clock: Clock = time.perf_counter,
) -> PassesBack:
    """The time of passing these windows forward and back for `collections`, whose sums grow by what is tried.

    Raises InvalidInput if the architecture is not supported.
    """
    count, context = windows.shape
    network, sums = Network(model, shape_of(model), context), Together(collections)
    sums.begin(0)
    stream = network.embed(windows[0])
    kinds = _kinds(model, network.shape.blocks)
    tried = np.array([[alike * each for each in _tried(network, block, stream, sums, clock)] for block, alike in kinds])
    reading, forward, back = tried.sum(axis=0).tolist()
    # An embedding that is the head too would be sure of the very tokens that it holds, and arithmetic with the tiny
    # probabilities of all others is slow: not so for what is drawn.
    drawn = np.random.default_rng(0).standard_normal(stream.shape, np.float32)
    head_gradients(network, [drawn], sums, 0)  # memory is untouched at first
    began = clock()
    head_gradients(network, [drawn], sums, 0)
    head = clock() - began
    at_once = windows_at_once(network.shape, context)
    # One window more passes forward for the comparison with libllama. Of those that pass together blocks are read once,
    # each way.
    before = reading + forward + 2 * reading * -(-count // at_once)
    pace = Pace(before, forward + back + head, count)
    return PassesBack(pace, min(count, at_once) * stream_bytes(network.shape, context))


def _kinds(model: ModelFile, blocks: int) -> Iterator[tuple[int, int]]:
    """A block of each kind, and how many blocks are of this kind: with tensors of the same roles, shapes and types."""
    tensors: dict[int, list[tuple[str, tuple[int, ...], str]]] = {block: [] for block in range(blocks)}
    for tensor in model.tensors:
        block = block_of(tensor.name)
        if block in tensors:
            tensors[block].append((tensor.name.split(".", 2)[2], tensor.shape, tensor.source_type.name))
    kinds: dict[frozenset[tuple[str, tuple[int, ...], str]], list[int]] = {}
    for block, found in tensors.items():
        kinds.setdefault(frozenset(found), []).append(block)
    for alike in kinds.values():
        yield alike[len(alike) // 2], len(alike)


def _tried(
    network: Network, block: int, stream: Float32[np.ndarray, "tokens width"], sums: Together, clock: Clock
) -> tuple[float, float, float]:
    """Seconds of reading a block, of a window's way forward, and of its way back, which begins with another forward."""
    gradient = np.random.default_rng(0).standard_normal(stream.shape, np.float32)

    def once() -> tuple[float, float]:
        began = clock()
        network.block(stream, weights, unwatched)
        passed = clock()
        back, _ = make_vjp(lambda x: network.block(x, weights, sums.watch_of))(stream)
        back(gradient)
        return passed - began, clock() - passed

    began = clock()
    weights = network.block_weights(block)
    reading = clock() - began
    once()  # memory is untouched at first
    return reading, *once()
