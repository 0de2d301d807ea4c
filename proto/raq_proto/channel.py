"""Channel options that both ends share."""

from typing import Final

MESSAGE_LIMIT_BYTES: Final = 64 * 2**20
"""Largest message either end takes by default. gRPC's own limit of 4 MiB refuses a model of 60,000 expert tensors
(9.6 MB)."""


def channel_options(message_limit_bytes: int = MESSAGE_LIMIT_BYTES) -> tuple[tuple[str, int], ...]:
    """Options for servers and channels alike."""
    return (
        ("grpc.max_receive_message_length", message_limit_bytes),
        ("grpc.max_send_message_length", message_limit_bytes),
    )
