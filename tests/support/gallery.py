"""The picture of docs/gallery.md and README: drawn from the table on that page by the code that draws model cards.

`python -m support.gallery` from this folder's parent writes it.
"""

import re

from raq_client.publishing.picture import Mark, draw
from support.paths import ROOT

PAGE = ROOT / "docs" / "gallery.md"
PICTURE = ROOT / "docs" / "smollm2-frontier.svg"


def marks() -> list[Mark]:
    """The rows of the page's first table: mixtures, and raq's plans of the same bytes, labelled by their share."""
    row = re.compile(
        r"\| (\w+) \| [\d,]+ \| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) ± ([\d.]+) \| \*\*([\d.]+)\*\* \|"
    )
    found = []
    for name, bits, theirs, their_error, ours, our_error, share in row.findall(PAGE.read_text(encoding="utf-8")):
        found.append(Mark(name, float(bits), float(theirs), float(their_error), is_mixture=True))
        found.append(Mark(f"{share} of it", float(bits), float(ours), float(our_error)))
    return found


if __name__ == "__main__":
    PICTURE.write_text(draw(marks()), encoding="utf-8")
