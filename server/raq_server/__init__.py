"""The raq service: solves problems over gRPC."""

from raq_server.app import RunningServer as RunningServer
from raq_server.app import start_server as start_server
from raq_server.config import ServerConfig as ServerConfig

__all__ = ["RunningServer", "ServerConfig", "start_server"]
