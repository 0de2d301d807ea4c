"""The weights of a loaded model, read and replaced in place without files or reloading.

The model must be loaded with `load(..., editable=True)`, i.e. copied into memory and not rearranged: mapped files
can't be written, and the rearranged copies that libllama makes for some kernels don't have the layout they declare.
Source: llama.cpp's scheduler passes each operation's weight tensor to `cb_eval`, and `ggml_backend_tensor_set` writes
it in CPU or GPU memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from raq_client.engine.library import Library
from raq_client.engine.observe import Watcher
from raq_client.engine.session import Loaded, Session
from raq_client.engine.tensors import BF16, F16, F32, TensorStruct, clean_name, find_operations

Replacements = (
    Mapping[str, Float32[np.ndarray, "matrices rows length"]]
    | Iterable[tuple[str, Float32[np.ndarray, "matrices rows length"]]]
)
"""New values of some tensors, as a mapping or produced one by one."""
PROBE_TOKENS = 32
"""Length of the dummy input that is run once to see every weight; above 16, batched kernels are used too."""


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """A weight matrix, or a stack of them, in libllama; `shape` is (matrices, rows, row length).

    It has two `addresses` where libllama keeps a copy: an embedding that is also the output head.
    """

    name: str
    shape: tuple[int, int, int]
    type_number: int
    addresses: tuple[int, ...]

    @property
    def writable(self) -> bool:
        """Whether it is stored as plain floats, so that any values can be written."""
        return self.type_number in {F32, F16, BF16}


class Weights(Mapping[str, WeightTensor]):
    """All weight matrices of a loaded model, by name."""

    def __init__(self, library: Library, tensors: Mapping[str, WeightTensor]) -> None:
        self._library, self._tensors = library, dict(tensors)

    def __getitem__(self, name: str) -> WeightTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def stored(self, name: str) -> UInt8[np.ndarray, " size"]:
        """A copy of the bytes of one tensor as libllama stores them."""
        address = self._tensors[name].addresses[0]
        raw = np.empty(self._library.calls.ggml_nbytes(address), np.uint8)
        self._library.calls.ggml_backend_tensor_get(address, raw.ctypes.data, 0, raw.nbytes)
        return raw

    def read(self, name: str) -> Float32[np.ndarray, "matrices rows length"]:
        """The values of one tensor, which must be stored as plain floats."""
        tensor = self._tensors[name]
        return _to_floats(self.stored(name), tensor.type_number).reshape(tensor.shape)

    @contextmanager
    def replaced(self, values: Replacements, original: Callable[[str], np.ndarray] | None = None) -> Iterator[None]:
        """Replace the named tensors by `values`, rounded to their stored type, and restore them after the block.

        The old bytes are restored exactly, also after an error, so that runs do not drift. They are copied first,
        or taken from `original`: with it and with `values` produced one by one, no second model is held in memory.
        """
        before: dict[str, np.ndarray | None] = {}
        try:
            for name, new in values.items() if isinstance(values, Mapping) else values:
                tensor = self._tensors[name]
                assert tensor.writable, f"{name} is stored in blocks"
                assert new.size == np.prod(tensor.shape), f"{name} has another shape"
                before[name] = None if original is not None else self.stored(name)
                self._write(name, _from_floats(new, tensor.type_number))
            yield
        finally:
            for name, old in before.items():
                put_back = original(name) if old is None and original is not None else old
                assert put_back is not None, "either copied or asked for"
                self._write(name, np.ascontiguousarray(put_back))

    def _write(self, name: str, raw: UInt8[np.ndarray, "..."]) -> None:
        size = self._library.calls.ggml_nbytes(self._tensors[name].addresses[0])
        assert raw.nbytes == size, f"{name} holds {size} bytes, not {raw.nbytes}"
        for address in self._tensors[name].addresses:
            self._library.calls.ggml_backend_tensor_set(address, raw.ctypes.data, 0, raw.nbytes)


def _to_floats(raw: UInt8[np.ndarray, " size"], type_number: int) -> Float32[np.ndarray, " weights"]:
    match type_number:
        case 0:
            return raw.view(np.float32)
        case 1:
            return raw.view(np.float16).astype(np.float32)
        case _:
            assert type_number == BF16, "only plain floats can be read"
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _from_floats(values: Float32[np.ndarray, "..."], type_number: int) -> UInt8[np.ndarray, " size"]:
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    match type_number:
        case 0:
            return flat.view(np.uint8)
        case 1:
            return flat.astype(np.float16).view(np.uint8)
        case _:
            assert type_number == BF16, "only plain floats can be written"
            bits = flat.view(np.uint32)
            nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
            return (nearest_even >> 16).astype(np.uint16).view(np.uint8)


def find_weights(model: Loaded, threads: int) -> Weights:
    """Run a few tokens and record every weight matrix that is used.

    Raises InvalidInput if libllama's tensors have a layout that isn't known.
    """
    operations = find_operations(model.library)
    readers = {operations.multiply, operations.multiply_experts, operations.look_up_rows}
    found: dict[str, dict[int, TensorStruct]] = {}

    def note(tensor: TensorStruct) -> bool:
        if tensor.op in readers:
            address = tensor.src[0]
            weight = TensorStruct.from_address(address)
            if weight.view_src:  # a part of a fused tensor
                address = weight.view_src
                weight = TensorStruct.from_address(address)
            name = clean_name(weight.name)
            if name.endswith(".weight"):
                found.setdefault(name, {})[address] = weight
        return False

    watcher = Watcher(note, lambda _: None)
    with closing(Session(model, PROBE_TOKENS, slice(0, PROBE_TOKENS), threads, watcher, most_windows=1)) as session:
        for _ in session.run(np.zeros((1, PROBE_TOKENS), np.int32)):
            pass
    return Weights(model.library, {name: _describe(name, places) for name, places in found.items()})


def _describe(name: str, places: Mapping[int, TensorStruct]) -> WeightTensor:
    first = next(iter(places.values()))
    length, rows, inner, outer = first.ne
    return WeightTensor(name, (inner * outer, rows, length), first.type, tuple(places))
