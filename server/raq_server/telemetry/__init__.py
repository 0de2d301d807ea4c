"""Log, metrics and traces of the server."""
