"""Where tensors are quantized and measured: on this processor, or on CUDA devices as long as their memory lasts.

Which it was changes no byte and no error sum, so nothing of it enters a profile or a file.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np

import raq_native
from raq_solver.errors import Fault, InvalidInput

OPTION: Final = "--device"
Value = TypeVar("Value")


class Device:
    """`cpu`, `cuda` (all CUDA devices together) or `cuda:N` (one), as `chosen_device` gives it.

    `say` is told once when a device has too little memory and the processor goes on in its place.
    """

    def __init__(self, name: str = "cpu", say: Callable[[str], None] = lambda _text: None) -> None:
        self.name = name
        self._say = say

    def call(self, function: Callable[..., Value], *arguments: object, **options: object) -> Value:
        """What a function of raq_native returns for these arguments here.

        Raises InvalidInput when CUDA fails; ValueError as the function does.
        """
        if self.name != "cpu":
            try:
                return function(*arguments, device=self.name, **options)
            except MemoryError as error:
                self._say(f"{self.name}: too little free memory ({error}); the processor goes on in its place")
                self.release()
                self.name = "cpu"
            except RuntimeError as error:
                raise InvalidInput(Fault(f"{OPTION} {self.name}", f"{error}; {OPTION} cpu does without it")) from error
        return function(*arguments, device="cpu", **options)

    def release(self) -> None:
        """Give back the memory that native code keeps between calls; called when a model is through."""
        if self.name != "cpu":
            raq_native.cuda_release()


CPU: Final = Device()
"""The processor."""


def chosen_device(name: str, say: Callable[[str], None]) -> Device:
    """The device of this name, tried out; `auto` is `cuda` where that works, else `cpu`.

    Raises InvalidInput with the reason why a named device can't be used.
    """
    if name == "cpu" or (name == "auto" and not any(device.usable for device in raq_native.cuda_devices())):
        return CPU
    wanted = "cuda" if name == "auto" else name
    try:
        raq_native.quantize("F32", np.zeros((1, 1), np.float32), device=wanted)
    except MemoryError:
        pass  # said when it matters
    except (ValueError, RuntimeError) as error:
        if name == "auto":
            say(f"{error}; the processor does the work")
            return CPU
        raise InvalidInput(Fault(f"{OPTION} {name}", str(error))) from error
    return Device(wanted, say)
