"""Names of files as text: a system allows bytes in them that no text has."""


def readable(name: str) -> str:
    """The name with a question mark for each byte that is no character, so that it can be kept in files and shown."""
    return name.encode("utf-8", "replace").decode()
