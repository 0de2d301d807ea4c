"""The rules of llama.cpp's mixtures, one function per kind of tensor.

None means the base type of the file type. Source: see mixtures.py. The numbers (at least 4 queries per key, eight
experts, the first eighth of the layers) are llama.cpp's, tuned by hand on LLaMA and Falcon.
"""

from dataclasses import dataclass
from enum import Enum, unique
from functools import lru_cache
from typing import Final, NamedTuple

from raq_client.models.file_types import FileType
from raq_client.models.quantizable import EMBEDDINGS
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensor_names import NAMES_KEPT, OUTPUT
from raq_solver.tensors import Tensor


@unique
class Kind(Enum):
    """The kinds of tensors that the rules distinguish."""

    OUTPUT = "output head"
    EMBEDDING = "token embedding"
    VALUE = "attention values, alone or fused with queries and keys"
    KEY = "attention keys"
    QUERY = "attention queries"
    ATTENTION_OUTPUT = "attention output"
    UP = "feed-forward up"
    GATE = "feed-forward gate"
    DOWN = "feed-forward down"
    OTHER = "anything else"


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of a model used by the rules. `queries_per_key` is heads over key-value heads in the first block."""

    architecture: str
    blocks: int
    experts: int
    queries_per_key: int
    value_tensors: int
    tied: bool
    has_importance: bool

    @property
    def is_70b(self) -> bool:
        """Whether the model has the shape of LLaMA-2-70B, whose few value heads get more bits."""
        grouped = self.architecture == "llama" and self.queries_per_key != 1
        eighty = self.blocks == 80 and (grouped or self.architecture in ("qwen2", "deci", "olmo"))
        return eighty or (self.architecture == "jais2" and self.blocks == 68)

    @property
    def grouped(self) -> bool:
        """Whether value tensors are so small (grouped-query attention) that they get more bits."""
        return self.queries_per_key >= 4


class Place(NamedTuple):
    """A tensor in llama.cpp's processing order: its kind, layer, and the number of its kind counted before it."""

    tensor: Tensor
    kind: Kind
    layer: int
    before: int


_SUBSTRINGS: Final = (
    ("attn_qkv.weight", Kind.VALUE),
    ("attn_kv_b.weight", Kind.VALUE),
    ("attn_v.weight", Kind.VALUE),
    ("attn_k.weight", Kind.KEY),
    ("attn_q.weight", Kind.QUERY),
    ("attn_output.weight", Kind.ATTENTION_OUTPUT),
    ("ffn_up", Kind.UP),
    ("ffn_gate", Kind.GATE),
    ("ffn_down", Kind.DOWN),
)
_LOWEST: Final = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_EIGHT_EXPERTS_OUTPUT: Final = frozenset(
    ["Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"]
)


@lru_cache(maxsize=NAMES_KEPT)
def kind_of(name: str) -> Kind:
    """The kind of the tensor of that name.

    >>> kind_of("blk.0.ffn_down_exps.weight").name
    'DOWN'
    """
    if name == OUTPUT:
        return Kind.OUTPUT
    if name in EMBEDDINGS:
        return Kind.EMBEDDING
    return next((kind for part, kind in _SUBSTRINGS if part in name), Kind.OTHER)


def more_bits(number: int, count: int) -> bool:
    """Whether layer `number` of `count` gets more bits: the first and the last eighth, and every third between.

    >>> [number for number in range(16) if more_bits(number, 16)]
    [0, 1, 4, 7, 10, 13, 14, 15]
    """
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2


def mixture_type(facts: Facts, file_type: FileType, place: Place) -> QuantType:
    """The type of one tensor, before substitutes for row lengths that do not fit."""
    name = _type_name(facts, file_type, place)
    return file_type.base if name is None else CATALOGUE[name]


def _type_name(facts: Facts, file_type: FileType, place: Place) -> str | None:
    # The order of these checks is llama.cpp's: the first that applies decides.
    if place.kind is Kind.OUTPUT or (place.kind is Kind.EMBEDDING and facts.tied):
        return _output(facts, file_type, place.tensor)
    if file_type.name == "MXFP4_MOE":
        return "MXFP4" if place.tensor.matrices > 1 else "Q8_0"
    if place.kind is Kind.EMBEDDING:
        return _embedding(file_type.name)
    if file_type.name in _LOWEST:
        return _lowest(facts, file_type.name, place)
    if place.kind is Kind.VALUE:
        return _value(facts, file_type, place)
    return _elsewhere(facts, file_type.name, place)


def _elsewhere(facts: Facts, name: str, place: Place) -> str | None:
    match place.kind:
        case Kind.KEY if facts.experts == 8:  # costs Mixtral 8x7B only about 128 MB
            return "Q8_0"
        case Kind.KEY | Kind.QUERY:
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(name)
        case Kind.DOWN:
            return _down(facts, name, place)
        case Kind.ATTENTION_OUTPUT:
            return _attention_output(facts, name)
        case Kind.GATE | Kind.UP if name == "IQ3_XS":
            return "IQ3_XXS" if facts.blocks // 8 <= place.layer < 7 * facts.blocks // 8 else None
        case _:
            return None


def _output(facts: Facts, file_type: FileType, tensor: Tensor) -> str | None:
    if file_type.name == "MXFP4_MOE" or facts.architecture == "falcon" or not file_type.base.fits(tensor.row_length):
        return "Q8_0"
    if file_type.name in (*_LOWEST, "IQ3_XXS"):
        return "Q5_K"
    return None if file_type.base.name == "Q8_0" else "Q6_K"


def _embedding(name: str) -> str | None:
    if name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"):
        return "Q2_K"
    if name in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "IQ3_S"
    return "Q4_K" if name in ("TQ1_0", "TQ2_0", "Q2_0") else None


def _lowest(facts: Facts, name: str, place: Place) -> str | None:
    upper = name in ("IQ2_S", "IQ2_M")
    match place.kind:
        case Kind.VALUE:
            return "Q4_K" if facts.grouped or facts.experts >= 4 else "IQ3_S" if upper else "Q2_K"
        case Kind.KEY:
            return "Q4_K" if facts.experts == 8 else None
        case Kind.DOWN:
            # llama.cpp uses the count here, although elsewhere it takes the layer from the names of experts.
            return None if place.before >= facts.blocks // 8 else "IQ3_S" if upper else "Q2_K"
        case Kind.ATTENTION_OUTPUT:
            if facts.experts == 8:
                return "Q5_K"
            return "IQ2_XXS" if name in ("IQ1_S", "IQ1_M") else "IQ3_S" if upper else None
        case _:
            return None


def _value(facts: Facts, file_type: FileType, place: Place) -> str | None:
    name = _plain_value(facts, file_type.name, place)
    # 8 query heads share one value head in a 70B model, so its value tensors are cheap to store with more bits.
    if facts.is_70b and (name or file_type.base.name) in ("Q3_K", "Q4_K"):
        name = "Q5_K"
    return "Q8_0" if facts.experts == 8 else name


def _plain_value(facts: Facts, name: str, place: Place) -> str | None:
    favoured = "Q6_K" if more_bits(place.before, facts.value_tensors) else None
    by_file_type = {
        "Q2_K": "Q4_K" if facts.grouped else "Q3_K",
        "Q2_K_S": "Q4_K" if facts.grouped else None,
        "IQ3_XXS": "Q4_K" if facts.grouped else "IQ3_XXS" if facts.has_importance else "IQ3_S",
        "IQ3_XS": "Q4_K" if facts.grouped else None,
        "IQ3_S": "Q4_K" if facts.grouped else None,
        "IQ3_M": "Q4_K",
        "Q3_K_M": "Q5_K" if place.before < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if facts.grouped else None,
        "IQ4_XS": "Q5_K" if facts.grouped else None,
        "Q4_K_S": "Q5_K" if place.before < 4 else None,
        "Q4_K_M": favoured,
        "Q5_K_M": favoured,
    }
    return by_file_type.get(name)


def _down(facts: Facts, name: str, place: Place) -> str | None:
    if facts.architecture == "falcon" and name in ("Q3_K_M", "Q3_K_L", "Q4_K_M", "Q4_K_S"):
        return _falcon_down(facts, name, place)
    eighth = place.layer < facts.blocks // 8
    favoured = more_bits(place.layer, facts.blocks)
    guessing = not facts.has_importance
    by_file_type = {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if eighth else None,
        "IQ3_XXS": ("Q4_K" if eighth else "Q3_K") if guessing else None,
        "IQ3_M": "Q4_K" if eighth or (facts.experts == 8 and favoured) else None,
        "Q3_K_M": "Q5_K" if place.layer < facts.blocks // 16 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if eighth and guessing else None,
        "IQ4_XS": "Q5_K" if eighth and guessing else None,
        # The first of these tensors can break even with importance. Files without importance stay as they always were.
        "Q4_0": "Q4_1" if eighth and facts.has_importance else None,
        "Q5_0": "Q5_1" if eighth and facts.has_importance else None,
        "Q4_K_S": "Q5_K" if eighth else None,
        "Q4_K_M": "Q6_K" if favoured else None,
        "Q5_K_M": "Q6_K" if favoured else None,
    }
    return by_file_type.get(name)


def _falcon_down(facts: Facts, name: str, place: Place) -> str | None:
    sixteenth = place.layer < facts.blocks // 16
    favoured = more_bits(place.layer, facts.blocks)
    by_file_type = {
        "Q3_K_M": "Q5_K" if sixteenth else "Q4_K" if favoured else None,
        "Q3_K_L": "Q4_K",
        "Q4_K_M": "Q6_K" if sixteenth else "Q5_K" if favoured else None,
    }
    return by_file_type.get(name)


def _attention_output(facts: Facts, name: str) -> str | None:
    if facts.architecture == "falcon":
        return "Q4_K" if name == "Q3_K_L" else None
    if facts.experts == 8:
        return "Q5_K" if name in _EIGHT_EXPERTS_OUTPUT else None
    return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(name)
