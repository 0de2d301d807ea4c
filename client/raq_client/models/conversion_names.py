"""Which stored tensors of a safetensors folder each tensor of its GGUF file is made of, and by what name.

The rules are those of llama.cpp's converter: names are translated by gguf-py, towers of vision and audio are left out,
blocks that predict further tokens are numbered after the others, experts are stacked, a stack that joins gates and ups
is halved. Tensors come in the converter's order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from raq_client.models.stored_tensors import Stored
from raq_solver.errors import Fault

_DROPPED: Final = re.compile(
    r"rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$|[._]activation_scale$"
    r"|visual\.|vision[._]|audio[._]|projector\.|patch_embed|image_newline"
)
"""Stored tensors that no text model has."""
_EXPERT: Final = re.compile(r"\.experts\.(\d+)\.")
_EXPERT_ORDER: Final = ("down_proj", "gate_proj", "up_proj")
"""The order in which the converter writes the stacks of a block."""
_FURTHER_BLOCK: Final = re.compile(r"mtp\.layers\.(\d+)\.")
_FURTHER: Final = {
    "mtp.fc": "nextn.eh_proj",
    "mtp.pre_fc_norm_embedding": "nextn.enorm",
    "mtp.pre_fc_norm_hidden": "nextn.hnorm",
    "mtp.norm": "nextn.shared_head_norm",
}
"""The parts that predict further tokens, by llama.cpp's names within the first further block."""
_GATES_AND_UPS: Final = ".experts.gate_up_proj"
_SCALES: Final = "_scale_inv"


@dataclass(frozen=True, slots=True)
class Converted:
    """A tensor of a GGUF file. `shape` has the row length last; `parts` are one stored tensor or all experts in order.

    `half` is 0 for the gates and 1 for the ups in a stored stack that joins them, else None.
    """

    shape: tuple[int, ...]
    parts: tuple[Stored, ...]
    half: int | None = None


def converted_tensors(
    stored: Mapping[str, Stored], config: Mapping[str, Any], architecture: str
) -> tuple[Mapping[str, Converted], list[Fault]]:
    """The tensors of the conversion by llama.cpp's names, in its order, with a fault for each that is unknown."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(known for known, name in MODEL_ARCH_NAMES.items() if name == architecture)
    blocks = int(config.get("num_hidden_layers") or 0)
    named, faults = _with_scales({_plain_name(name, blocks): each for name, each in stored.items() if _is_text(name)})
    translate = get_tensor_name_map(number, blocks + further_blocks(stored)).get_name
    found: dict[str, Converted] = {}
    stacks, stack_faults = _stacks(named)
    for name, each in named.items():
        if _EXPERT.search(name):
            made = stacks.get(name, {})
        elif name.removesuffix(".weight").endswith(_GATES_AND_UPS):
            made = _halves(name, each)
        else:
            made = {name: Converted(_squeezed(name, each.shape), (each,))}
        for one, tensor in made.items():
            known = one if one.startswith("blk.") else translate(_gguf_like(one), try_suffixes=(".weight", ".bias"))
            if known is None:
                faults.append(Fault(one, f"a name that llama.cpp's {architecture} models do not have"))
            elif 0 in (tensor.shape or (0,)):
                faults.append(Fault(one, f"its shape {list(each.shape)} is not one of such a tensor"))
            else:
                found[known] = tensor
    return found, faults + stack_faults


def further_blocks(names: Mapping[str, object]) -> int:
    """The number of blocks that predict further tokens (MTP)."""
    return max((int(number) + 1 for name in names for number in _FURTHER_BLOCK.findall(name)), default=0)


def _is_text(name: str) -> bool:
    return _DROPPED.search(name) is None


def _plain_name(name: str, blocks: int) -> str:
    """The name as gguf-py knows it: without the language model's prefix, further blocks numbered after the others."""
    name = name.replace("language_model.", "")
    name = name.replace("model.mtp.", "mtp.") if name.startswith("model.mtp.") else name
    stem, _, suffix = name.rpartition(".")
    if stem in _FURTHER:
        return f"blk.{blocks}.{_FURTHER[stem]}.{suffix}"
    return _FURTHER_BLOCK.sub(lambda found: f"model.layers.{blocks + int(found[1])}.", name)


def _gguf_like(name: str) -> str:
    """The name with the endings that gguf-py's table expects."""
    if name.endswith(".dt_bias"):
        return name.removesuffix(".dt_bias") + ".dt_proj.bias"
    return f"{name}.weight" if name.endswith(".experts.down_proj") else name


def _squeezed(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Short convolutions without the dimension of length 1."""
    return tuple(length for length in shape if length != 1) if "conv1d" in name else shape


def _with_scales(named: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[Fault]]:
    """The tensors, those in FP8 with the scales of their blocks, which are no tensors of their own."""
    found = {}
    faults = []
    for name, each in named.items():
        if name.endswith(_SCALES):
            if name.removesuffix(_SCALES) not in named:
                faults.append(Fault(name, "scales of a tensor that is not there"))
            continue
        scales = named.get(name + _SCALES)
        if each.is_fp8 and scales is None:
            faults.append(Fault(name, "is stored in FP8 without its scales"))
        found[name] = replace(each, scales=scales)
    return found, faults


def _stacks(named: Mapping[str, Stored]) -> tuple[dict[str, dict[str, Converted]], list[Fault]]:
    """The stacks of experts of each block, under the stored name that completes them, where the converter writes."""
    groups: dict[str, dict[str, dict[int, Stored]]] = {}
    last: dict[str, str] = {}
    for name, each in named.items():
        found = _EXPERT.search(name)
        if found is not None:
            block, rest = name[: found.start()], name[found.end() :]
            groups.setdefault(block, {}).setdefault(rest, {})[int(found[1])] = each
            last[block] = name
    stacks: dict[str, dict[str, Converted]] = {}
    faults = []
    for block, roles in groups.items():
        made = {}
        for rest in sorted(roles, key=_order):
            experts = roles[rest]
            if sorted(experts) != list(range(len(experts))) or len({each.shape for each in experts.values()}) > 1:
                faults.append(Fault(f"{block}.experts.*.{rest}", "experts are missing, or differ in shape"))
            parts = tuple(experts[number] for number in sorted(experts))
            made[f"{block}.experts.{rest}"] = Converted((len(parts), *parts[0].shape), parts)
        stacks[last[block]] = made
    if len({len(experts) for roles in groups.values() for experts in roles.values()}) > 1:
        faults.append(Fault(next(iter(groups)), "blocks differ in their number of experts: some are missing"))
    return stacks, faults


def _order(rest: str) -> int:
    role = rest.removesuffix(".weight")
    return _EXPERT_ORDER.index(role) if role in _EXPERT_ORDER else len(_EXPERT_ORDER)


def _halves(name: str, each: Stored) -> dict[str, Converted]:
    """The gates and the ups of a stack that joins them row by row."""
    base = name.removesuffix(".weight").removesuffix("gate_up_proj")
    experts, rows, length = each.shape if len(each.shape) == 3 else (0, 0, 0)
    shape = (experts, rows // 2 if rows % 2 == 0 else 0, length)
    return {
        f"{base}{role}.weight": Converted(shape, (each,), half) for half, role in enumerate(("gate_proj", "up_proj"))
    }
