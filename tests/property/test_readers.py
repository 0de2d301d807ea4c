"""Readers of files from elsewhere, on damaged and hostile bytes: an InvalidInput that names the file, nothing else."""

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest

from raq_client.compensation.gram_file import read_gram
from raq_client.engine.texts import read_texts
from raq_client.evaluation.kl_baseline import HEADER, open_baseline
from raq_client.files.problem_file import read_plain_problem
from raq_client.files.profile_file import load_profile
from raq_client.files.settings import read_settings
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.read_table import read_table
from raq_client.prompts.chats import read_records
from raq_client.recipes.allocation_file import read_allocation
from raq_client.recipes.bases import base_recipe
from raq_client.recipes.build_recipe import read_any_recipe
from raq_client.sensitivity.published import read_published
from raq_solver.errors import InvalidInput
from support.examples import examples
from support.gguf_files import write
from support.paths import DATA

MUTANTS: Final = examples(1_000).max_examples
MANY_MUTANTS: Final = 15_000
HOSTILE: Final = (
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"9" * 5_000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"\xff\xfe",
    b"\0" * 9,
    b'"\\ud800"',
    b"\xe2\x80\xa8",
    b"\r",
    b'"' * 3_000,
    b"," * 40,
    b"x" * 140_000,
    struct.pack("<Q", 2**63),
    struct.pack("<Q", 2**64 - 1),
    struct.pack("<I", 2**31),
    struct.pack("<f", float("nan")),
)
"""What is spliced into files: depths, numbers and lengths that parsers do not expect."""


def small_gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(1)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_tensor("blk.0.attn_q.weight", np.ones((2, 32), np.float16))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, np.float32))
    write(writer)
    return path.read_bytes()


def small_imatrix(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_up.weight"):
        writer.add_tensor(f"{name}.in_sum2", np.ones((1, 32), np.float32))
        writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
    write(writer)
    return path.read_bytes()


def small_dat() -> bytes:
    name = b"blk.0.attn_q.weight"
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, 8) + np.ones(8, "<f4").tobytes()
    return struct.pack("<i", 1) + entry + struct.pack("<ii", 2, 4) + b"text"


def small_profile() -> bytes:
    row = {
        "name": "blk.0.attn_q.weight",
        "shape": [256, 2],
        "source_type": "F16",
        "relative_errors": [0.0, 0.1, None],
        "energy": 3.0,
        "sensitivity": 0.5,
    }
    content = {"format": "raq-profile-1", "quant_types": ["F16", "Q4_K", "Q6_K"], "provenance": {}, "tensors": [row]}
    return json.dumps(content).encode()


def small_npz() -> bytes:
    held = io.BytesIO()
    np.savez_compressed(
        held, tensors=["a", "b"], qtypes=["x", "y"], bytes=[[1, 2], [3, 4]], losses=[[0.5, 0.1], [0.2, np.inf]]
    )
    return held.getvalue()


def small_problem() -> bytes:
    content = {
        "tensors": ["a", "b"],
        "qtypes": ["x", "y"],
        "bytes": [[1, 2], [3, 4]],
        "losses": [[0.5, 0.1], [0.2, None]],
        "weights": [8, 8],
        "capacity_bytes": 6,
        "constraints": [{"kind": "floor", "tensors": ["a"], "bits": "9/2"}, {"kind": "tie", "tensors": ["a", "b"]}],
    }
    return json.dumps(content).encode()


def small_safetensors() -> bytes:
    header = json.dumps(
        {"model.layers.0.self_attn.q_proj.weight": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def in_folder(name: str, **others: bytes) -> Callable[[Path, Path], None]:
    """A reader of a table of a folder that holds the file by this name."""

    def read(path: Path, _: Path) -> None:
        folder = path.with_suffix(".folder")
        folder.mkdir(exist_ok=True)
        for other, content in others.items():
            (folder / other.replace("__", ".")).write_bytes(content)
        (folder / name).write_bytes(path.read_bytes())
        read_table(folder)

    return read


def lines_of_chats(path: Path, _: Path) -> None:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        read_records(file.read(), str(path))


CONFIG: Final = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}'
CHATS: Final = (
    b'{"messages": [{"role": "user", "content": [{"text": "hi"}]}, {"role": "assistant", "content": "yes", '
    b'"reasoning_content": "so", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]}\n'
    b'{"instruction": "a", "input": "b", "output": "c"}\n{"text": "x"}\n'
)
SETTINGS: Final = b'model = "m.gguf"\nbudget = 5.7\ntypes = ["Q4_K"]\n[memory]\nvram = "24GiB"\nparallel = 2\n'
RECIPE: Final = (DATA / "wiki-math-4M.recipe.toml").read_bytes()


@dataclass(frozen=True)
class Reader:
    """A reader, the name of its file, and a file that it reads."""

    name: str
    read: Callable[[Path, Path], Any]
    valid: Callable[[Path], bytes]


READERS: Final = (
    Reader("model.gguf", lambda path, _: open_model(path), small_gguf),
    Reader("imatrix.gguf", lambda path, _: read_importance(path), small_imatrix),
    Reader("imatrix.dat", lambda path, _: read_importance(path), lambda _: small_dat()),
    Reader("statistics.gram", lambda path, _: read_gram(path), small_imatrix),
    Reader("model.profile.json", lambda path, _: load_profile(path), lambda _: small_profile()),
    Reader("problem.npz", lambda path, _: read_plain_problem(path, 6), lambda _: small_npz()),
    Reader("problem.json", lambda path, _: read_plain_problem(path), lambda _: small_problem()),
    Reader("raq.toml", lambda _, folder: read_settings(folder), lambda _: SETTINGS),
    Reader("plan.json", lambda path, _: read_allocation(path, ()), lambda _: b'{"allocation": {"a": "Q4_K"}}'),
    Reader("types.txt", lambda path, _: read_allocation(path, ()), lambda _: b"ffn_down=q6_k\nblk\\.0\\.=q4_k\n"),
    Reader("base.json", lambda path, _: base_recipe(str(path)), lambda _: b'{"allocation": {"a": "Q4_K"}}'),
    Reader("recipe.toml", lambda path, _: read_any_recipe(path), lambda _: RECIPE),
    Reader("text.txt", lambda path, _: read_texts([path]), lambda _: "Grüße\r\n\u2028x".encode()),
    Reader("chats.jsonl", lambda path, _: read_texts([path]), lambda _: CHATS),
    Reader("records.jsonl", lines_of_chats, lambda _: CHATS),
    Reader("shapes.csv", lambda path, _: read_table(path), lambda _: b"name,shape\na,5x2\nb,8\n"),
    Reader("shapes.map", lambda path, _: read_table(path), lambda _: b"f:1:a.weight:shape=(4, 2):dtype=F16:bytes=16\n"),
    Reader("kld.csv", lambda path, _: read_published(path), lambda _: b"QTYPE,a,b\nQ4_K,0.1,0.2\nQ6_K,,0.1\n"),
    Reader("base.kld", lambda path, _: open_baseline(path), lambda _: HEADER.pack(b"_logits_", 8, 4, 2) + bytes(256)),
    Reader("config.json", in_folder("config.json", model__safetensors=small_safetensors()), lambda _: CONFIG),
    Reader("model.safetensors", in_folder("model.safetensors", config__json=CONFIG), lambda _: small_safetensors()),
)


def mutant(valid: bytes, rng: random.Random) -> bytes:
    """The file with one to three changes: bytes turned, dropped, doubled or replaced by something hostile."""
    data = bytearray(valid)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + rng.randint(1, 40)]
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case 4:
                data[at : at + rng.choice((0, 1, 4, 8))] = rng.choice(HOSTILE)
            case _:
                data[at : at + 1] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def survive(reader: Reader, folder: Path, count: int, seed: int) -> None:
    valid = reader.valid(folder / "valid")
    path = folder / reader.name
    rng = random.Random(f"{seed} {reader.name}")
    refused = 0
    for number in range(count):
        path.write_bytes(mutant(valid, rng))
        try:
            reader.read(path, folder)
        except InvalidInput as error:
            refused += all(fault.what for fault in error.faults)
        except Exception as error:
            raise AssertionError(f"mutant {number} of {reader.name}, seed {seed}: {error!r:.300}") from error
    assert refused, "some mutant is damaged"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_refused_in_one_way(reader: Reader, tmp_path: Path) -> None:
    survive(reader, tmp_path, MUTANTS, 0)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many_damaged_files_are_refused_in_one_way(reader: Reader, tmp_path: Path) -> None:
    survive(reader, tmp_path, MANY_MUTANTS, random.SystemRandom().randrange(10**9))
