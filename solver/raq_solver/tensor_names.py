"""GGUF tensor names and their parts. Other modules do not parse names themselves.

A name is `blk.N.ROLE.weight` inside block N, `ROLE.weight` outside of all blocks (gguf-py/gguf/constants.py of
llama.cpp).

>>> block_of("blk.7.ffn_down.weight"), role_of("blk.7.ffn_down.weight")
(7, 'ffn_down')
>>> block_of("output.weight"), role_of("output.weight")
(-1, 'output')
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

TOKEN_EMBEDDING: Final = "token_embd.weight"  # noqa: S105  # no password
OUTPUT: Final = "output.weight"
"""The output head, where it has weights of its own."""
NAMES_KEPT: Final = 1 << 16
"""Names whose parts are remembered: those of a model are asked for again with each of its mixtures."""
_BLOCK: Final = re.compile(r"blk\.(\d+)\.")


@lru_cache(maxsize=NAMES_KEPT)
def block_of(name: str) -> int:
    """The number of the block a tensor belongs to, -1 outside of all blocks."""
    found = _BLOCK.match(name)
    return int(found[1]) if found else -1


def role_of(name: str) -> str:
    """The role of a tensor in any block: its name without the block, `.weight` and `.bias`."""
    return local_name(name).removesuffix(".weight").removesuffix(".bias")


def local_name(name: str) -> str:
    """The name without its block.

    >>> local_name("blk.7.ffn_down.weight")
    'ffn_down.weight'
    """
    return _BLOCK.sub("", name)


def in_block(block: int, name: str) -> str:
    """The name of the same tensor in another block.

    >>> in_block(3, "blk.7.ffn_down.weight"), in_block(3, "attn_q.weight")
    ('blk.3.ffn_down.weight', 'blk.3.attn_q.weight')
    """
    return f"blk.{block}.{local_name(name)}"


def is_expert(name: str) -> bool:
    """Whether a tensor holds the matrices of routed experts, one after the other.

    >>> is_expert("blk.0.ffn_up_exps.weight"), is_expert("blk.0.ffn_up_shexp.weight")
    (True, False)
    """
    return "_exps." in name


def is_tied(names: Collection[str]) -> bool:
    """Whether the token embedding serves as the output head too, in a model of these tensors."""
    return OUTPUT not in names
