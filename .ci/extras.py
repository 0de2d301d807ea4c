"""Print what all extras of the installed raq need, one requirement a line, for `pip install -r`.

Installing raq again with more extras would build its extensions again.
"""

from importlib.metadata import metadata, requires

from packaging.requirements import Requirement


def main() -> None:
    """Print the requirements; those that name raq itself are made of the others."""
    extras = metadata("raq").get_all("Provides-Extra") or []
    for text in requires("raq") or ():
        needed = Requirement(text)
        marker, needed.marker = needed.marker, None
        if marker is None or "extra" not in str(marker) or needed.name == "raq":
            continue
        if any(marker.evaluate({"extra": extra}) for extra in extras):
            print(needed)


if __name__ == "__main__":
    main()
