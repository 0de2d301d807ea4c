"""Messages of the raq service, and the code that converts them to and from domain objects."""
