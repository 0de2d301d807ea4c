"""The gRPC services: what surrounds a call, and what answers it from memory, store or a search."""
