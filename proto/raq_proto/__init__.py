"""Messages of the raq service, and the one place that converts them to and from the domain."""
