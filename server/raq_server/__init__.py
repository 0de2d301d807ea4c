"""The raq service: solves problems over gRPC."""

from raq_server.app import RunningServer as RunningServer
from raq_server.app import ServerConfig as ServerConfig
from raq_server.app import start_server as start_server

__all__ = ["RunningServer", "ServerConfig", "start_server"]
