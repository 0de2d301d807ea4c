"""Bind a server to its address, with TLS where configured; refuse addresses that would be open to strangers."""

import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Final

import grpc

from raq_server.config import ServerConfig
from raq_solver.errors import Fault, InvalidInput

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    # A client that disappears is noticed within 40 s, one that never finishes its TLS handshake within 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_concurrent_streams", 256),
    # The flow-control window of a stream stays small: grown to megabytes, as gRPC has it, what calls send that nobody
    # reads is held for each (24 stalled streams of 55 MB: 1,380 MiB; with 64 KiB, and frames let go: 305). The loss
    # tables of most models fit into it, and so need not wait until it opens again.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
    ("grpc.max_allowed_incoming_connections", 2_000),
    # A few kilobytes that unpack to gigabytes: compressed requests are refused. Answers are not compressed either.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
)
"""Channel options of every server."""


_LARGEST_PORT: Final = 65_535


def bind(server: grpc.aio.Server, config: ServerConfig) -> str:
    """Listen at the configured address; returns it with the port that was chosen.

    Raises InvalidInput if the address can't be bound, if TLS files are missing, or if the server would serve clients
    beyond this machine without authentication and `allow_anonymous` is not set.
    """
    _check_port(config.address)
    _check_socket(config.address)
    credentials = _credentials(config)
    if not (_is_local(config.address) or config.tokens or config.client_ca or config.allow_anonymous):
        what = (
            "can be reached from other machines, and anybody there could use the server; configure tokens or "
            "client_ca, or pass --allow-anonymous"
        )
        raise InvalidInput(Fault(config.address, what))
    try:
        if credentials is None:
            port = server.add_insecure_port(config.address)
        else:
            port = server.add_secure_port(config.address, credentials)
    except RuntimeError as error:
        what = "can't be bound; is the port in use, or the address not of this machine?"
        raise InvalidInput(Fault(config.address, what)) from error
    return config.address if config.address.startswith("unix:") else f"{config.address.rpartition(':')[0]}:{port}"


def _check_port(address: str) -> None:
    """Raise InvalidInput for an address without a port that exists; gRPC would take it modulo 65536."""
    if address.startswith("unix:"):
        return
    _, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port[:6]) <= _LARGEST_PORT):
        raise InvalidInput(Fault(address, f"is not HOST:PORT with a port from 0 to {_LARGEST_PORT}, nor unix:PATH"))


def _check_socket(address: str) -> None:
    """Raise InvalidInput if another server answers at a unix socket: gRPC would take its place, unasked."""
    if not address.startswith("unix:"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address.removeprefix("unix:"))
        except OSError:  # nobody is there; the file of a server that was killed may be
            return
    raise InvalidInput(Fault(address, "can't be bound: another server answers there"))


def _is_local(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    if config.certificate is None or config.private_key is None:
        if config.certificate or config.private_key or config.client_ca:
            raise InvalidInput(Fault("TLS", "needs both a certificate and a private key"))
        return None
    key, chain = _content(config.private_key), _content(config.certificate)
    try:
        # With a password, or OpenSSL would ask at the terminal for that of an encrypted key, which gRPC takes none of.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.certificate, config.private_key, password="")
    except (ssl.SSLError, OSError) as error:
        what = f"{config.certificate} and {config.private_key} are no certificate and its private key: {error}"
        raise InvalidInput(Fault("TLS", what)) from error
    if config.client_ca is None:
        return grpc.ssl_server_credentials([(key, chain)])
    roots = _content(config.client_ca)
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=roots, require_client_auth=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror}")) from error
