"""The connection to the service, shared by both clients: address, credentials, retries, request ids."""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from raq_proto.channel import MESSAGE_LIMIT_BYTES, channel_options
from raq_proto.status import REQUEST_ID_KEY
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits

TRANSPORT_SECONDS: Final = 30.0
"""Time allowed for sending, queueing and answering, in addition to the search itself."""

_SERVICE_CONFIG: Final = {
    # A name with several servers (dns:///raq:8433) is balanced over all of them.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            # Every method of raq.v1 is idempotent.
            "name": [{"service": "raq.v1.SolverService"}, {"service": "raq.v1.ProfileService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""gRPC's retry policy: 4 attempts, waits of about 0.1, 0.3 and 0.9 seconds; streams only before their first answer."""

CHUNK_BYTES: Final = 2**20
"""Size of the chunks in which a profile is sent."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Connection:
    """The service's address and the client's credentials. Without certificates and `tls` it is not encrypted."""

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
        """A connection with its files read. Raises InvalidInput if one can't be read, or half a key pair is given."""
        roots, chain, key = map(_content, (root_certificates, certificate, private_key))
        if (chain is None) != (key is None):
            raise InvalidInput(Fault("TLS", "needs both a certificate and a private key"))
        return cls(address, token, tls or roots is not None or chain is not None, roots, chain, key)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """The credentials of an encrypted channel; None if it is not encrypted."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate)

    @property
    def options(self) -> tuple[tuple[str, int | str], ...]:
        """The options of the channel."""
        return (
            *channel_options(),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            ("grpc.per_rpc_retry_buffer_size", MESSAGE_LIMIT_BYTES),
        )

    def metadata(self) -> Metadata:
        """The metadata of a call: a new request id, and the token."""
        authorization = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return ((REQUEST_ID_KEY, uuid.uuid4().hex), *authorization)


def deadline_of(limits: Limits) -> float | None:
    """The deadline in seconds for a call with these limits; None for none."""
    return None if limits.seconds is None else limits.seconds + TRANSPORT_SECONDS


def _content(source: Path | bytes | None) -> bytes | None:
    if not isinstance(source, Path):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise InvalidInput(Fault(str(source), f"can't be read: {error.strerror}")) from error
