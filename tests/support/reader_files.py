"""The files that a reader of the documents has: a small model and everything that the shown commands name."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from support.builds import small_importance
from support.chat_models import CHATML, SPECIAL
from support.commands import client
from support.engine_models import rewrite
from support.outputs import write_like
from support.paths import DATA
from support.shown import PAGES

VOCABULARY, BLOCKS, WIDTH = 1024, 2, 256
LENGTHS = {"mixed.txt": 10_000, "calibration.txt": 5_000}
TEXTS = ("held-out.txt", "prose.txt", "code.txt", "mixed.txt", "calibration.txt", "corpus.txt")


def gguf_reader_files(folder: Path) -> Path:
    """A model of a million weights as F16 and Q4_0, importance, Gram statistics, texts, a profile and a plan of it."""
    model = _small_model(folder / "model-f16.gguf")
    (folder / "MODEL.gguf").hardlink_to(model)
    _texts(folder)
    _work("imatrix", "collect", model, "-t", folder / "held-out.txt", "-o", folder / "imatrix.gguf",
          "--gram", folder / "m.gram", "--context", 64, "--windows", 8, "--fisher", 8)  # fmt: skip
    for name in ("reasoning", "general", "code", "other"):
        _copy(folder / "imatrix.gguf", folder / f"{name}.gguf")
    for number, name in enumerate(("reasoning", "prose", "code"), start=1):
        write_like(folder / "m.gram", folder / f"{name}.gram", number)
    _copy(folder / "imatrix.gguf", folder / "m.imatrix.gguf")
    (recipe,) = re.findall(r'```toml\n(format = .*?name = "coder-5bpw".*?)```', PAGES["docs/recipes.md"], re.DOTALL)
    (folder / "coder.toml").write_text(recipe, encoding="utf-8")
    _work("profile", model, "-i", folder / "imatrix.gguf", "-o", folder / "model.profile.json")
    quantized = _quantized(model, folder / "A.gguf")
    for name in ("B", "downloaded-Q4_K_M", "model-q4", "model-Q4_K_M"):
        _copy(quantized, folder / f"{name}.gguf")
    plan = client("solve", "-p", folder / "model.profile.json", "--budget", "5.7", "--json")
    (folder / "plan.json").write_text(plan.out, encoding="utf-8")
    importance, run = folder / "imatrix.gguf", folder / "model-5bpw.gguf"
    _work("run", model, "--budget", "5.0", "-i", importance, "-o", run, "--manifest", run.with_suffix(".manifest.json"))
    _table(folder / "table.npz")
    return folder


def _work(*words: object) -> None:
    done = client(*words)
    assert done.code == 0, done.err


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _small_model(target: Path) -> Path:
    """The committed model cut down: fewer tokens, blocks and columns of feed-forward; with a template of chats."""
    fields = gguf.GGUFReader(DATA / "wiki-math-4M-f16.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()[:VOCABULARY]
    kinds = fields["tokenizer.ggml.token_type"].contents()[:VOCABULARY]
    tokens[-len(SPECIAL) :] = SPECIAL
    kinds[-len(SPECIAL) :] = [int(gguf.TokenType.CONTROL)] * len(SPECIAL)
    known = set(tokens)
    merges = [
        pair for pair in fields["tokenizer.ggml.merges"].contents() if {*pair.split(), pair.replace(" ", "")} <= known
    ]
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "llama.vocab_size": VOCABULARY,
        "llama.block_count": BLOCKS,
        "llama.feed_forward_length": WIDTH,
        "tokenizer.chat_template": CHATML,
    }

    def change(name: str, data: np.ndarray) -> Mapping[str, np.ndarray]:
        if name.startswith("blk.") and int(name.split(".")[1]) >= BLOCKS:
            return {}
        if "ffn_down" in name:
            return {name: data[:, :WIDTH]}
        rows = VOCABULARY if name in {"output.weight", "token_embd.weight"} else WIDTH
        return {name: data[:rows]}  # 256 is also the number of rows of the other matrices, and the length of norms

    return rewrite(target, change, metadata)


def _texts(folder: Path) -> None:
    evaluation = (DATA / "gsm8k.evaluation.txt").read_text(encoding="utf-8")
    for number, name in enumerate(TEXTS):
        (folder / name).write_text(evaluation[number * 2_600 :][: LENGTHS.get(name, 2_600)], encoding="utf-8")
    rows = [{"text": evaluation[begin : begin + 500]} for begin in range(0, 5_000, 500)]
    for name in ("reasoning.jsonl", "traces.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    (folder / "chats.jsonl").write_text(f"{json.dumps({'messages': chat})}\n" * 60, encoding="utf-8")


def _table(path: Path) -> None:
    random = np.random.default_rng(3)
    sizes, losses = np.cumsum(random.integers(10, 90, (30, 4)), axis=1), random.random((30, 4))
    names, types = np.array([f"t{i}" for i in range(30)]), np.array(["a", "b", "c", "d"])
    np.savez(path, tensors=names, qtypes=types, bytes=sizes, losses=np.sort(losses)[:, ::-1])


def safetensors_reader_files(folder: Path) -> Path:
    """A model of random weights as safetensors, the same as F16 and Q8_0, made-up importance and a profile of it."""
    source = _safetensors(folder / "Qwen3-0.6B")
    model = folder / "MODEL.gguf"
    _work("convert", source, model, "--to", "bf16")
    small_importance(model, folder / "imatrix.gguf")
    _work("profile", model, "-i", folder / "imatrix.gguf", "-o", folder / "model.profile.json")
    _ollama(folder / "ollama", _quantized(model, folder / "model-Q4_K_M.gguf"))
    return folder


def _quantized(model: Path, target: Path) -> Path:
    """Every matrix of the model as Q4_K, with the importance beside it."""
    allocation = target.with_suffix(".txt")
    allocation.write_text("default=Q4_K\n", encoding="utf-8")
    _work("quantize", model, "-a", allocation, "-i", target.with_name("imatrix.gguf"), "-o", target)
    return target


def _safetensors(folder: Path) -> Path:
    """Qwen3 with rows of 256 weights, which every quant type fits, and the tokenizer of the committed one."""
    committed = DATA / "conversion" / "qwen3"
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        _copy(committed / name, folder / name)
    config = json.loads((committed / "config.json").read_text(encoding="utf-8"))
    width, head, heads, groups, vocabulary = 256, 64, 4, 2, config["vocab_size"]
    changed = {
        "hidden_size": width,
        "intermediate_size": width,
        "head_dim": head,
        "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default"},
    }
    (folder / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")
    shapes = dict.fromkeys(("model.embed_tokens", "lm_head"), (vocabulary, width)) | {"model.norm": (width,)}
    for block in range(config["num_hidden_layers"]):
        of_block = {
            "self_attn.q_proj": (heads * head, width),
            **{f"self_attn.{name}_proj": (groups * head, width) for name in "kv"},
            "self_attn.o_proj": (width, heads * head),
            **{f"self_attn.{name}_norm": (head,) for name in "qk"},
            **{f"mlp.{name}_proj": (width, width) for name in ("gate", "up", "down")},
            **{f"{name}_layernorm": (width,) for name in ("input", "post_attention")},
        }
        shapes |= {f"model.layers.{block}.{name}": shape for name, shape in of_block.items()}
    _write_safetensors(folder / "model.safetensors", shapes)
    return folder


def _write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Random F16 tensors; the format is a JSON header after its length, then the data."""
    random = np.random.default_rng(0)
    header, data = {}, b""
    for name, shape in shapes.items():
        begin = len(data)
        data += random.normal(scale=0.05, size=shape).astype(np.float16).tobytes()
        header[f"{name}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _ollama(folder: Path, model: Path) -> None:
    """What `ollama pull qwen3:8b` would have left, with this model."""
    digest = f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest}]
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "qwen3" / "8b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), encoding="utf-8")
    (folder / "blobs").mkdir()
    _copy(model, folder / "blobs" / digest.replace(":", "-"))
