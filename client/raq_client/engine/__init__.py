"""The evaluation engine: loads models in libllama and runs them. No other package calls libllama."""

from raq_client.engine.library import ENVIRONMENT_VARIABLE, find_library
from raq_client.engine.model import DEFAULT_CONTEXT, SMALLEST_CONTEXT, Engine, load, scored_positions
from raq_client.engine.observe import Product
from raq_client.engine.session import NotFiniteError
from raq_client.engine.weights import Weights, WeightTensor

__all__ = [
    "DEFAULT_CONTEXT",
    "ENVIRONMENT_VARIABLE",
    "SMALLEST_CONTEXT",
    "Engine",
    "NotFiniteError",
    "Product",
    "WeightTensor",
    "Weights",
    "find_library",
    "load",
    "scored_positions",
]
