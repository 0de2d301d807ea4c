"""The raq client: models in, plans and quantized models out. Import the modules you need; this name alone is light."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from raq_client.solver_client.remote import Client
    from raq_client.solver_client.remote_async import AsyncClient

__all__ = ["connect", "connect_async"]


def connect(
    address: str,
    *,
    token: str | None = None,
    tls: bool = False,
    root_certificates: "Path | bytes | None" = None,
    certificate: "Path | bytes | None" = None,
    private_key: "Path | bytes | None" = None,
) -> "Client":
    """A client of the service at `address` (HOST:PORT or unix:PATH); a context manager.

    `tls` trusts the authorities that gRPC knows, `root_certificates` (PEM) only those; `certificate` and
    `private_key` are shown to servers that ask for them. Nothing is sent before the first call.
    Raises InvalidInput when a file can't be read.
    """
    from raq_client.solver_client.connection import Connection
    from raq_client.solver_client.remote import Client

    return Client(Connection.of(address, token, tls, root_certificates, certificate, private_key))


def connect_async(
    address: str,
    *,
    token: str | None = None,
    tls: bool = False,
    root_certificates: "Path | bytes | None" = None,
    certificate: "Path | bytes | None" = None,
    private_key: "Path | bytes | None" = None,
) -> "AsyncClient":
    """The same as `connect` for asyncio; call it where an event loop runs."""
    from raq_client.solver_client.connection import Connection
    from raq_client.solver_client.remote_async import AsyncClient

    return AsyncClient(Connection.of(address, token, tls, root_certificates, certificate, private_key))
