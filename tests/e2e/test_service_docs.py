"""What the pages on the service say is so: settings, methods, examples."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from raq_client.files.profile_file import save_profile
from raq_proto.v1 import profile_service_pb2, solver_service_pb2
from raq_server.cli import APP
from raq_server.config import ENVIRONMENT_PREFIX, Scope, ServerConfig, TokenEntry, load_config
from raq_server.service.tokens import hash_of
from support.paths import ROOT
from support.services import Certificates, profile, serving

PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
DEPLOYMENT = ROOT / "docs" / "deployment"


def settings_table() -> str:
    """All settings, as the page shows them; run this file to write them there."""
    shown = {
        "workers": "one per processor",
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
    assert with_settings(PAGE) == PAGE, "run PYTHONPATH=tests python tests/e2e/test_service_docs.py"


def test_all_methods_stand_in_the_page() -> None:
    for service in solver_service_pb2.DESCRIPTOR.services_by_name.values():
        assert all(f"| `{method.name}` |" in PAGE for method in service.methods)
    for method in profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"].methods:
        assert f"`{method.name}`" in PAGE


class Reflecting:
    """Does what grpcurl does: asks the server for its schema, and sends and prints JSON. It has no generated code."""

    def __init__(self, channel: grpc.Channel, token: str | None = None) -> None:
        self._channel = channel
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = descriptor_pool.DescriptorPool(self._database)

    def services(self) -> set[str]:
        return set(self._database.get_services())

    def __call__(self, name: str, text: str = "{}") -> Any:
        service, _, called = name.partition("/")
        method = self._pool.FindServiceByName(service).FindMethodByName(called)
        asked = json_format.Parse(
            text, message_factory.GetMessageClass(method.input_type)(), descriptor_pool=self._pool
        )
        answers = message_factory.GetMessageClass(method.output_type)
        call = self._channel.stream_stream(f"/{name}", response_deserializer=answers.FromString)
        (answer,) = call(iter([asked.SerializeToString()]), metadata=self._metadata, timeout=30)
        return json_format.MessageToDict(answer, descriptor_pool=self._pool)


def grpcurl_lines() -> list[str]:
    (block,) = re.findall(r"(?s)## From grpcurl.*?```sh\n(.*?)```", PAGE)
    return re.findall(r"(?s)grpcurl (.*?)(?=\ngrpcurl|\n$)", block)


def test_the_grpcurl_examples_are_answered(server_address: str, certificates: Certificates) -> None:
    listed, health, put, solve, guarded = grpcurl_lines()
    with grpc.insecure_channel(server_address) as channel:
        ask = Reflecting(channel)
        assert listed.split()[1:] == ["127.0.0.1:8433", "list"]
        assert ask.services() >= {"raq.v1.SolverService", "raq.v1.ProfileService", "grpc.health.v1.Health"}
        assert ask(health.split()[-1]) == {"status": "SERVING"}
        stored = ask(put.split()[-1], re.search(r"(?s)-d '(.*)'", put)[1])["info"]  # type: ignore[index]
        assert stored["tensors"] == "1"
        question = re.search(r"(?s)-d '(.*)'", solve)[1]  # type: ignore[index]
        found = ask(solve.split()[-1], question.replace("…", stored["digest"]))["outcome"]
        assert found["termination"] == "TERMINATION_OPTIMAL"
        assert found["ledger"]["entries"][0]["quantType"] == "Q4_K"
    entry = TokenEntry(name="ci", sha256=hash_of("secret"), scope=Scope.READ)
    files = {"certificate": certificates.server, "private_key": certificates.server_key}
    known = grpc.ssl_channel_credentials(certificates.authority.read_bytes())
    with serving(tokens=[entry], **files) as running, grpc.secure_channel(running.address, known) as channel:
        assert '-H "authorization: Bearer $RAQ_TOKEN"' in guarded
        assert Reflecting(channel, "secret")(guarded.split()[-1]) == {}
        with pytest.raises(grpc.RpcError, match="token is missing"):
            Reflecting(channel)(guarded.split()[-1])


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


def commands_of_deployments() -> list[tuple[str, list[str]]]:
    """The arguments that each file gives to raq-server."""
    found = []
    for path in DEPLOYMENT.iterdir():
        text = path.read_text()
        listed = re.findall(r"(?m)^\s+(?:args|command): (\[.*\])$", text)
        spoken = re.findall(r"(?m)^ExecStart=/opt/raq/bin/raq-server(.*)$", text)
        found += [(path.name, given) for given in (*map(json.loads, listed), *map(str.split, spoken))]
    return found


def test_deployments_call_the_server_as_it_can_be_called() -> None:
    command = typer.main.get_command(APP)
    called = commands_of_deployments()
    assert {name for name, _ in called} == {
        "compose.yaml", "kubernetes.yaml", "raq-server.service", "raq-clean.service",
    }  # fmt: skip
    for name, given in called:
        below = command.commands.get(given[0])  # type: ignore[attr-defined]
        if below is None:
            command.make_context(name, given)
        else:
            below.make_context(name, given[1:])


def test_deployments_probe_what_is_served() -> None:
    text = (DEPLOYMENT / "kubernetes.yaml").read_text()
    ports = dict(re.findall(r"\{name: (\w+), containerPort: (\d+)\}", text))
    image = (DEPLOYMENT / "Containerfile").read_text()
    assert f"0.0.0.0:{ports['grpc']}" in image
    assert f"METRICS_ADDRESS=0.0.0.0:{ports['metrics']}" in image
    probed = set(re.findall(r"httpGet: \{path: (\S+), port: (\w+)\}", text))
    assert probed == {("/ready", "metrics"), ("/live", "metrics")}
    assert set(re.findall(r"runAsUser: (\d+)", text)) == set(re.findall(r"(?m)^USER (\d+)$", image))
    for extra in re.findall(r"\.\[([\w,]+)\]", image):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(extra.split(",")) <= set(project["optional-dependencies"])


if __name__ == "__main__":
    (ROOT / "docs" / "service.md").write_text(with_settings(PAGE), encoding="utf-8")
    sys.exit(0)
