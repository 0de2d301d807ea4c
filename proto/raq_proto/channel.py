"""Channel options that both ends share."""

from typing import Final

MESSAGE_LIMIT_BYTES: Final = 256 * 2**20
"""Largest message either end takes. gRPC's own limit of 4 MiB refuses a model of 60,000 expert tensors (9.6 MB)."""

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)
"""Options for servers and channels alike."""
