"""The raq service: solves problems over gRPC."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raq_server.app import RunningServer as RunningServer
    from raq_server.app import start_server as start_server
    from raq_server.config import ServerConfig as ServerConfig

__all__ = ["RunningServer", "ServerConfig", "start_server"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `raq-server` must start, and say what to install, without gRPC."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("raq_server.config" if name == "ServerConfig" else "raq_server.app"), name)
