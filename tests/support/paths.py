"""Where things lie: the checkout, the data of the tests, and larger data that only slow tests and benchmarks read."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SHARED = Path(os.environ.get("RAQ_SHARED_DATA", ROOT.parent / "shared" / "data"))
