"""gRPC channel options that client and server share."""

from typing import Final

MESSAGE_LIMIT_BYTES: Final = 64 * 2**20
"""Default limit on the size of a message. gRPC's own default of 4 MiB would refuse a model of 60,000 expert tensors
(9.6 MB)."""

CHUNK_BYTES: Final = 2**20
"""Size of the chunks in which a profile travels."""


def channel_options(message_limit_bytes: int = MESSAGE_LIMIT_BYTES) -> tuple[tuple[str, int], ...]:
    """The options, for servers and channels alike."""
    return (
        ("grpc.max_receive_message_length", message_limit_bytes),
        ("grpc.max_send_message_length", message_limit_bytes),
    )
