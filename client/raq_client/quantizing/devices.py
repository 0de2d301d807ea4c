"""The device on which tensors are quantized and measured: the CPU, or CUDA devices while their memory suffices.

The device changes no byte and no error sum, so it is not recorded in profiles or files.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final, TypeVar

import numpy as np

import raq_native
from raq_solver.errors import Fault, InvalidInput

OPTION: Final = "--device"
Value = TypeVar("Value")
_changing: Final = Lock()  # tensors are rounded on several threads


class Device:
    """`cpu`, `cuda` (all CUDA devices together) or `cuda:N` (one), made by `chosen_device`.

    `say` is called with a message when a device has too little memory and the CPU takes over.
    """

    def __init__(self, name: str = "cpu", say: Callable[[str], None] = lambda _text: None) -> None:
        self.name = name
        self._say = say

    def call(self, function: Callable[..., Value], *arguments: object, **options: object) -> Value:
        """Call a function of raq_native on this device and return its result.

        Raises InvalidInput if CUDA fails, and ValueError as the function does.
        """
        name = self.name
        if name != "cpu":
            try:
                return function(*arguments, device=name, **options)
            except MemoryError as error:
                self._continue_on_cpu(error)
            except RuntimeError as error:
                raise InvalidInput(Fault(f"{OPTION} {name}", f"{error}; {OPTION} cpu does without it")) from error
        return function(*arguments, device="cpu", **options)

    def _continue_on_cpu(self, error: MemoryError) -> None:
        with _changing:
            if self.name != "cpu":
                self._say(f"{self.name}: too little free memory ({error}); continuing on the CPU")
                self.release()
                self.name = "cpu"

    def release(self) -> None:
        """Free the memory that native code keeps between calls; called when a model is finished."""
        if self.name != "cpu":
            raq_native.cuda_release()


CPU: Final = Device()
"""The CPU device."""


def chosen_device(name: str, say: Callable[[str], None]) -> Device:
    """The device of this name, after a trial run; `auto` means `cuda` if that works, else `cpu`.

    Raises InvalidInput with the reason if a named device can't be used.
    """
    if name == "cpu" or (name == "auto" and not any(device.usable for device in raq_native.cuda_devices())):
        return CPU
    wanted = "cuda" if name == "auto" else name
    try:
        raq_native.quantize("F32", np.zeros((1, 1), np.float32), device=wanted)
    except MemoryError:
        pass  # reported by `call`, if memory is still too little then
    except (ValueError, RuntimeError) as error:
        if name == "auto":
            say(f"{error}; using the CPU")
            return CPU
        raise InvalidInput(Fault(f"{OPTION} {name}", str(error))) from error
    return Device(wanted, say)
