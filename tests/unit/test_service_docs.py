"""What the pages on the service say is so: settings, methods, examples."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from raq_client.profile_file import save_profile
from raq_proto.convert import profile_from_proto
from raq_proto.v1 import profile_service_pb2, solver_service_pb2
from raq_server.config import ENVIRONMENT_PREFIX, ServerConfig, load_config
from services import profile

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
DEPLOYMENT = ROOT / "docs" / "deployment"


def settings_table() -> str:
    """All settings, as the page shows them; run this file to write them there."""
    shown = {
        "workers": "one a processor",
        "database": "SQLite in the user's data folder",
        "tokens": "none",
    }
    lines = ["", "| setting | default | |", "|---|---|---|"]
    for name, field in ServerConfig.model_fields.items():
        default = shown.get(name, "none" if field.default is None else str(field.default))
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join([*lines, "", ""])


def with_settings(page: str) -> str:
    return re.sub(r"(?s)(<!-- settings -->\n).*(<!-- end of settings -->)", rf"\g<1>{settings_table()}\g<2>", page)


def example(mark: str) -> str:
    return re.search(rf"(?s)<!-- {mark} -->\n```\w+\n(.*?)```", PAGE)[1]  # type: ignore[index]


def test_all_settings_stand_in_the_page() -> None:
    assert with_settings(PAGE) == PAGE, "run python tests/unit/test_service_docs.py"


def test_all_methods_stand_in_the_page() -> None:
    for service in solver_service_pb2.DESCRIPTOR.services_by_name.values():
        assert all(f"| `{method.name}` |" in PAGE for method in service.methods)
    for method in profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"].methods:
        assert f"`{method.name}`" in PAGE


def test_the_json_of_the_grpcurl_examples_is_of_the_schema() -> None:
    put, solve = re.findall(r"(?s)-d '(\{.*?\})' 127", PAGE)
    sent = json_format.Parse(put, profile_service_pb2.PutRequest())
    profile_from_proto(sent.profile)
    asked = json_format.Parse(solve, solver_service_pb2.SolveRequest())
    assert asked.problem.profile.digest == "…"
    assert asked.problem.budget.bits_per_weight.numerator == 57


def test_the_python_example_runs(
    server_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_profile(profile(), tmp_path / "model.profile.json")
    monkeypatch.chdir(tmp_path)
    code = example("python").replace("127.0.0.1:8433", server_address)
    exec(compile(code, "docs/service.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OPTIMAL ")
    assert len(lines) == 6


def test_the_example_in_another_language_runs(server_address: str, tmp_path: Path) -> None:
    modules = os.environ.get("RAQ_NODE_MODULES")
    if shutil.which("node") is None or not modules:
        pytest.skip("set RAQ_NODE_MODULES to a node_modules with @grpc/grpc-js and @grpc/proto-loader to run it")
    (tmp_path / "example.js").write_text(example("node"))
    environment = {**os.environ, "RAQ_SERVER": server_address, "NODE_PATH": modules}
    command = ["node", str(tmp_path / "example.js")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60)
    said = "TERMINATION_OPTIMAL attn_q=Q8_0 ffn_up=Q4_K"
    assert done.stdout.strip() == said, done.stderr
    assert said in PAGE


def test_deployments_set_only_settings_that_exist(tmp_path: Path) -> None:
    files = [path for path in DEPLOYMENT.iterdir() if path.is_file()]
    names = {name for path in files for name in re.findall(rf"\b{ENVIRONMENT_PREFIX}([A-Z_]+)", path.read_text())}
    assert names
    assert {name.lower() for name in names} <= set(ServerConfig.model_fields)
    for name in ("server.pem", "server.key"):
        (tmp_path / name).touch()
    text = (DEPLOYMENT / "server.toml").read_text().replace("/etc/raq", str(tmp_path))
    (tmp_path / "server.toml").write_text(text)
    assert load_config(tmp_path / "server.toml").tokens[0].name == "ci"


if __name__ == "__main__":
    (ROOT / "docs" / "service.md").write_text(with_settings(PAGE), encoding="utf-8")
    sys.exit(0)
