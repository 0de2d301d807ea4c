"""raq for Python: open a model, plan its quant types under a budget, write the file, check it.

```python
import raq

model = raq.open("model-f16.gguf", imatrix="imatrix.gguf")
plan = model.plan(budget="5.0", pin={"output.weight": "Q6_K"})
plan.quantize("model-5bpw.gguf")
print(raq.check("model-5bpw.gguf", model, texts=["held-out.txt"]).kl)
```

Long work takes `progress`, a callback that gets `Step`s (stage, done, total); an exception raised in it ends the work,
and nothing is left half-written. Mistakes raise `InvalidInput` with one sentence for each.
"""

from importlib.metadata import version as _version

from raq.check import Check, check
from raq.frontier import Frontier
from raq.model import Model, load_profile
from raq.model import open_model as open  # noqa: A004  # as in httpx, io and PIL: raq.open
from raq.plan import Infeasible, Plan
from raq_client import connect
from raq_client.progress import Step
from raq_solver.errors import InvalidInput, RaqError

__version__ = _version("raq")
__all__ = [
    "Check",
    "Frontier",
    "Infeasible",
    "InvalidInput",
    "Model",
    "Plan",
    "RaqError",
    "Step",
    "__version__",
    "check",
    "connect",
    "load_profile",
    "open",
]
