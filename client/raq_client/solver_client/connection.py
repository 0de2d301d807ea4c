"""The connection to the service, shared by both clients: address, credentials, retries, request ids."""

import ipaddress
import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits

try:
    import grpc

    from raq_proto.channel import MESSAGE_LIMIT_BYTES, channel_options
    from raq_proto.status import REQUEST_ID_KEY
except ModuleNotFoundError:
    what = "asking a server needs more packages: pip install 'raq[remote]', or solve here, without a server"
    raise InvalidInput(Fault("", what)) from None

_LEAST_SECONDS: Final = 0.001
"""Least limit of a request that has one: 0 would be none."""
TRANSPORT_SECONDS: Final = 30.0
"""Time allowed for sending, queueing and answering, in addition to the search itself."""

_SERVICE_CONFIG: Final = {
    # Calls go round the servers of a name (dns:///raq:8433) or list, leaving out those that do not answer.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            # Every method of raq.v1 is idempotent.
            "name": [{"service": "raq.v1.SolverService"}, {"service": "raq.v1.ProfileService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""gRPC's retry policy: 5 attempts, the most it allows, after about 0.1, 0.3, 0.9 and 2 seconds; streams only before
their first answer."""
_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *channel_options(),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # What is kept of a request to be sent again: all of the largest profile that a server takes by default.
    ("grpc.per_rpc_retry_buffer_size", 2 * MESSAGE_LIMIT_BYTES + 2**20),
    # A server that was restarted is found again within seconds; gRPC by itself waits for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A server whose machine is gone is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
"""Channel options of every client."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Connection:
    """The service's address and the client's credentials. Without certificates and `tls` it is not encrypted.

    `address` is a target of gRPC: HOST:PORT, unix:PATH, dns:///NAME:PORT or ipv4:A:PORT,B:PORT.
    """

    address: str
    token: str | None = None
    tls: bool = False
    root_certificates: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None

    @classmethod
    def of(
        cls,
        address: str,
        token: str | None,
        tls: bool,  # noqa: FBT001  # all are given by name at the public edge
        root_certificates: Path | bytes | None,
        certificate: Path | bytes | None,
        private_key: Path | bytes | None,
    ) -> Self:
        """A connection with its files read; `address` may also be HOST:PORT,HOST:PORT of numeric addresses.

        Raises InvalidInput if a file can't be read, half a key pair is given, or a list holds a name or is encrypted.
        """
        roots, chain, key = map(_content, (root_certificates, certificate, private_key))
        if (chain is None) != (key is None):
            raise InvalidInput(Fault("TLS", "needs both a certificate and a private key"))
        encrypted = tls or roots is not None or chain is not None
        if encrypted and "," in address:
            # gRPC compares certificates with the whole list.
            what = "certificates can't be checked for a list of servers; give their common name as dns:///NAME:PORT"
            raise InvalidInput(Fault(address, what))
        return cls(_target(address), token, encrypted, roots, chain, key)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of an encrypted channel; None if it is not encrypted."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate)

    @property
    def options(self) -> tuple[tuple[str, int | str], ...]:
        """The options of the channel."""
        return _OPTIONS

    def metadata(self) -> Metadata:
        """The metadata of a call: a new request id, and the token."""
        authorization = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return ((REQUEST_ID_KEY, uuid.uuid4().hex), *authorization)


def limit_seconds(limits: Limits) -> float:
    """The limit of a request: the seconds that are left, at least a millisecond, for 0 is no limit.

    >>> limit_seconds(Limits()), limit_seconds(Limits(2.0)), limit_seconds(Limits(0.0))
    (0.0, 2.0, 0.001)
    """
    left = None if limits.deadline is None else limits.deadline - time.monotonic()
    bounds = [each for each in (limits.seconds, left) if each is not None]
    return max(_LEAST_SECONDS, min(bounds)) if bounds else 0.0


def deadline_of(limits: Limits) -> float | None:
    """The deadline in seconds for a call with these limits; None for none."""
    seconds = limit_seconds(limits)
    return seconds + TRANSPORT_SECONDS if seconds else None


def _target(address: str) -> str:
    """The target of gRPC for an address: a list of numeric addresses gets the scheme that gRPC has for it."""
    places = address.split(",")
    if len(places) == 1 or places[0].startswith(("ipv4:", "ipv6:")):
        return address
    try:
        versions = {ipaddress.ip_address(place.rpartition(":")[0].strip("[]")).version for place in places}
    except ValueError:
        versions = set()
    if len(versions) != 1:
        what = "a list of servers holds numeric addresses of one kind (10.0.0.1:8433,10.0.0.2:8433); "
        raise InvalidInput(Fault(address, what + "give a name of several servers as dns:///NAME:PORT"))
    return f"ipv{versions.pop()}:{address}"


def _content(source: Path | bytes | None) -> bytes | None:
    if not isinstance(source, Path):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise InvalidInput(Fault(str(source), f"can't be read: {error.strerror}")) from error
