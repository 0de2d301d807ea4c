"""Manifests of quantized models, as `run --manifest` writes them, with figures of a test's own."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raq_client.files.manifest import make_manifest, write_manifest
from support.gguf_files import small_model
from support.paths import DATA

IMATRIX = DATA / "wiki-math-4M.gsm8k.imatrix.gguf"
PUBLISHER = ("/home/me", "/opt/x", "../other")
"""Folders that the manifests name."""


def check(kl: float) -> dict[str, Any]:
    """The report of a check with this mean KL divergence, in the parts that cards read, as `plain` writes it."""

    def estimate(value: float) -> dict[str, float | None]:
        return {"value": value, "token_error": value / 100, "window_error": None}

    overall = {
        "windows": 6,
        "tokens": 1536,
        "kl": estimate(kl),
        "kl_quantiles": {"0.5": kl / 2, "0.999": 10 * kl},
        "top1_agreement": estimate(0.9),
        "ratio": estimate(1.01),
    }
    return {"context": 512, "overall": overall, "texts": {"/home/me/texts/held out.txt": {}}}


@dataclass(frozen=True)
class Made:
    """A folder in which models and their manifests are made."""

    folder: Path

    def __call__(self, name: str = "tiny-4.5bpw", *, kl: float | None = 0.0123, **more: Any) -> Path:
        """Write a model and its manifest with further keys; the manifest's path."""
        model = small_model(self.folder / f"{name}.gguf", seed=len(name))
        command = [
            "/opt/x/bin/raq",
            "run",
            f"{self.folder}/f16.gguf",
            f"--output={model}",
            "-t",
            "/home/me/held out.txt",
        ]
        result: dict[str, Any] = {
            "origins": {},
            "plan": {"bytes": 1, "loss": 0.01, "termination": "optimal", "allocation": {"output.weight": "F16"}},
            "file": {"path": str(model)},
        }
        result |= {} if kl is None else {"check": check(kl)}
        path = self.folder / f"{name}.manifest.json"
        write_manifest(make_manifest(command, [IMATRIX], [model], result | more), path)
        return path


def change(manifest: Path, **keys: Any) -> Path:
    """Replace keys of a manifest."""
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | keys))
    return manifest


def digests(*paths: Path) -> dict[str, str]:
    """SHA-256 by path."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
