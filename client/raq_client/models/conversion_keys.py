"""The metadata of a converted model: what llama.cpp's converter writes for the architectures that raq converts.

General keys (name, licence, base model, size label) and special tokens are read by gguf-py, as the converter does.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from raq_client.files.reading import damage_named, parse_json, read_text
from raq_client.hub.names import origin_of, parse_hub_name
from raq_client.models.conversion_weights import delta_heads
from raq_client.models.gguf_header import StoredValue, parse_header
from raq_client.models.safetensors import CONVERTER, SafetensorsFolder, listed_shards, read_config, rope_of
from raq_client.models.vocabulary import read_vocabulary
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensors import Tensor

CAUSAL: Final = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "llama",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "Qwen3MoeForCausalLM": "qwen3moe",
        "Qwen3_5ForCausalLM": "qwen35",
        "Qwen3_5ForConditionalGeneration": "qwen35",
        "Qwen3_5MoeForCausalLM": "qwen35moe",
        "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
        "Gemma3ForCausalLM": "gemma3",
        "Gemma3ForConditionalGeneration": "gemma3",
    }
)
"""The class names of config.json whose weights raq converts, with llama.cpp's architecture."""
FILE_TYPES: Final = MappingProxyType({"F32": 0, "F16": 1, "BF16": 32})
_NEEDED: Final = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "rms_norm_eps")
"""Keys of config.json without which nothing is converted."""
_USUAL_SECTIONS: Final = [11, 11, 10, 0]
"""The sections of Qwen3.5's rotary embedding where config.json names none."""
_NO_BOS_VOCABULARY: Final = 49152
"""The converter's mark of Granite's small models, which SmolLM shares."""
_CODE_VOCABULARY: Final = 32016
"""The converter's mark of Code Llama, which has tokens for filling in."""


def check_before_weights(folder: Path, files: Sequence[str]) -> None:
    """Raise InvalidInput if a folder that still lacks its weights can't be converted, or if `files` lack a shard."""
    config, architecture = read_config(folder)
    _check_config(folder, config, architecture)
    missing = sorted(listed_shards(folder) - set(files))
    raise_faults([Fault(shard, "holds tensors of the index, but is not in the repository") for shard in missing])


def check_convertible(folder: SafetensorsFolder) -> None:
    """Raise InvalidInput, naming llama.cpp's converter, if raq does not convert the weights of this model."""
    _check_config(folder.path, folder.config, folder.architecture)


def _check_config(folder: Path, config: Mapping[str, Any], architecture: str) -> None:
    where = str(folder)
    raise_faults(
        [
            Fault(str(folder / "config.json"), f"{key} is {config.get(key)!r}, not a number above 0")
            for key in _NEEDED
            if not isinstance(config.get(key), int | float) or config[key] <= 0
        ]
    )
    names = config.get("architectures") or [""]
    scaling = rope_of(config).get("rope_type", "default")
    if CAUSAL.get(str(names[0])) != architecture:
        raise InvalidInput(Fault(where, f"is a {names[0] or 'model'} whose weights raq does not convert; {CONVERTER}"))
    quantized = (config.get("quantization_config") or {"quant_method": "fp8"}).get("quant_method") != "fp8"
    if (folder / "modules.json").exists() or quantized:
        raise InvalidInput(Fault(where, f"is quantized, or for embeddings, which raq does not convert; {CONVERTER}"))
    if scaling not in {"default", "linear", "yarn", "llama3"} or config.get("vocab_size") == _CODE_VOCABULARY:
        raise InvalidInput(Fault(where, f"has rotary factors or tokens that raq does not convert; {CONVERTER}"))


def conversion_keys(folder: SafetensorsFolder, tensors: Sequence[Tensor], file_type: int) -> Mapping[str, StoredValue]:
    """The metadata of the model converted to these tensors; `file_type` is llama.cpp's number.

    Raises InvalidInput if the vocabulary can't be converted.
    """
    import gguf
    import numpy as np

    logging.getLogger("gguf").setLevel(logging.ERROR)  # remarks on how it guesses names
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "header.gguf"
        writer = gguf.GGUFWriter(path, folder.architecture)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType.F32  # only shapes count here
            writer.add_tensor_info(tensor.name, tensor.shape[::-1], np.dtype(np.float32), 4 * tensor.weights, kind)
        with damage_named(folder.path, "a model"):
            _general(writer, folder)
            _architecture(writer, folder, file_type)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _tokenizer(writer, folder)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return parse_header(path.read_bytes(), str(folder.path)).metadata


def _general(writer: Any, folder: SafetensorsFolder) -> None:
    import gguf

    total, shared, expert, count = writer.get_total_parameter_count()
    origin = origin_of(folder.path)
    found = gguf.Metadata.load(None, folder.path, None, total)
    if origin is not None:  # the folder's own name is a commit there
        found.name = parse_hub_name(origin).repo
    found.name = found.name or folder.path.resolve().name
    if found.size_label is None and total > 0:
        found.size_label = gguf.size_label(total, shared, expert, count)
    writer.add_type("model")
    found.set_gguf_meta_model(writer)


def _architecture(writer: Any, folder: SafetensorsFolder, file_type: int) -> None:
    """The keys of the architecture, in the converter's order."""
    config, architecture = folder.config, folder.architecture
    setters = {
        "max_position_embeddings": writer.add_context_length,
        "hidden_size": writer.add_embedding_length,
        "intermediate_size": writer.add_feed_forward_length,
        "num_attention_heads": writer.add_head_count,
        "num_key_value_heads": writer.add_head_count_kv,
    }
    writer.add_block_count(folder.blocks)
    _write_known(setters, config)
    _rope(writer, rope_of(config), sliding_theta(config) if architecture == "gemma3" else None)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    experts = {
        "num_local_experts" if config.get("num_experts") is None else "num_experts": writer.add_expert_count,
        "num_experts_per_tok": writer.add_expert_used_count,
    }
    _write_known(experts, config)
    _write_known({"head_dim": writer.add_key_length}, config)
    _write_known({"head_dim": writer.add_value_length}, config)
    writer.add_file_type(file_type)
    if architecture == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_length(config))
    elif architecture == "gemma3":
        _gemma(writer, config)
    elif architecture != "qwen2":
        further = {
            "moe_intermediate_size": writer.add_expert_feed_forward_length,
            "shared_expert_intermediate_size": writer.add_expert_shared_feed_forward_length,
        }
        _write_known(further, config)
    if architecture in {"qwen35", "qwen35moe"}:
        _delta_net(writer, folder)


def head_length(config: Mapping[str, Any]) -> int:
    """The length of an attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def sliding_theta(config: Mapping[str, Any]) -> float | None:
    """The base of rotary frequencies in Gemma's layers with a sliding window."""
    written = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    found = written.get("rope_theta", config.get("rope_local_base_freq"))
    return None if found is None else float(found)


def _write_known(setters: Mapping[str, Callable[[Any], None]], config: Mapping[str, Any]) -> None:
    for key, write in setters.items():
        if config.get(key) is not None:
            write(config[key])


def _gemma(writer: Any, config: Mapping[str, Any]) -> None:
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config.get("sliding_window_pattern") != 1:
        writer.add_sliding_window(config["sliding_window"])


def _delta_net(writer: Any, folder: SafetensorsFolder) -> None:
    """The keys of a hybrid of attention and gated delta nets."""
    config = folder.config
    keys, values, key_length, value_length = delta_heads(config)
    if folder.further_blocks:
        writer.add_nextn_predict_layers(folder.further_blocks)
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(key_length)
    writer.add_ssm_group_count(keys)
    writer.add_ssm_time_step_rank(values)
    writer.add_ssm_inner_size(value_length * values)
    interval = config.get("full_attention_interval", 4)
    blocks = config["num_hidden_layers"]
    kinds = config.get("layer_types") or [
        "full_attention" if number % interval == 0 else "linear_attention" for number in range(1, blocks + 1)
    ]
    if len(kinds) != blocks:
        raise InvalidInput(Fault("config.json", f"layer_types lists {len(kinds)} layers of {blocks}"))
    recurrent = [kind == "linear_attention" for kind in kinds] + [False] * folder.further_blocks
    writer.add_array(f"{folder.architecture}.attention.recurrent_layers", recurrent)
    writer.add_full_attention_interval(interval)
    rope = rope_of(config)
    writer.add_rope_dimension_count(int(head_length(config) * rope.get("partial_rotary_factor", 0.25)))
    if "mrope_section" not in rope:
        writer.add_rope_dimension_sections(_USUAL_SECTIONS)


def _rope(writer: Any, rope: Mapping[str, Any], sliding: float | None) -> None:
    import gguf

    factor = rope.get("factor")
    if rope["rope_type"] in {"linear", "yarn"} and factor is not None:
        kind = gguf.RopeScalingType.LINEAR if rope["rope_type"] == "linear" else gguf.RopeScalingType.YARN
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(factor)
    if rope["rope_type"] == "yarn" and factor is not None:
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        further = {
            writer.add_rope_scaling_yarn_ext_factor: rope.get("extrapolation_factor"),
            writer.add_rope_scaling_yarn_attn_factor: rope.get("attention_factor", rope.get("attn_factor")),
            writer.add_rope_scaling_yarn_beta_fast: rope.get("beta_fast"),
            writer.add_rope_scaling_yarn_beta_slow: rope.get("beta_slow"),
        }
        for write, value in further.items():
            if value is not None:
                write(value)
    if "mrope_section" in rope:
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0, 0, 0, 0][:4])
    if rope.get("rope_theta") is not None:
        writer.add_rope_freq_base(rope["rope_theta"])
    if sliding is not None:
        writer.add_rope_freq_base_swa(sliding)


def _tokenizer(writer: Any, folder: SafetensorsFolder) -> None:
    import gguf

    config = folder.config
    found = read_vocabulary(folder.path, config.get("vocab_size"))
    llama = folder.architecture == "llama"
    settings = folder.path / "tokenizer_config.json"
    if llama and settings.is_file():
        space = parse_json(read_text(settings), settings).get("add_prefix_space")
        if space is not None:
            writer.add_add_space_prefix(space)
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    if found.scores is not None:
        writer.add_token_scores(found.scores)
    writer.add_token_types(found.types)
    count = None if found.scores is None else len(found.tokens)
    gguf.SpecialVocab(folder.path, load_merges=found.scores is None, n_vocab=count).add_to_gguf(writer, quiet=True)
    if folder.architecture == "gemma3":
        writer.add_add_space_prefix(False)  # noqa: FBT003  # gguf-py's argument
    if llama and config.get("vocab_size") == _NO_BOS_VOCABULARY:
        writer.add_add_bos_token(False)  # noqa: FBT003  # gguf-py's argument
