"""Attestations: true statements only, in the published form, and equal wherever a build is repeated."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]

from raq_client.building.attestation import attest, read_statement, rebuilt, verify_attestation, write_statement
from raq_client.building.build import HowToBuild
from raq_client.building.manifest import build_manifest
from raq_client.building.workshop import Workshop
from raq_client.files.manifest import file_digest, write_manifest
from raq_client.solver_client.local import LocalSolver
from raq_solver.errors import InvalidInput
from support.builds import built, project, read
from support.commands import client


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The manifest of a build."""
    found = built(read(project(tmp_path / "project")), tmp_path / "store")
    path = found.resolved.recipe.output.manifest_path
    write_manifest(build_manifest(found, ["raq-client"], None), path)
    return path


def _how(folder: Path) -> HowToBuild:
    return HowToBuild(Workshop(folder, cached=False), threads=1, reuse=False)


def _attested(manifest: Path) -> dict[str, Any]:
    found, content = attest(manifest, _how(manifest.parent / "s"), LocalSolver())
    assert found.equal, found
    return content


def test_a_statement_has_the_published_form(manifest: Path) -> None:
    """Read by in-toto's own library, which refuses unknown fields and wrong values."""
    content = _attested(manifest)
    parsed = ParseDict(content, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    provenance = ParseDict(content["predicate"], provenance_pb2.Provenance())
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    inputs = {one.name: one.digest["sha256"] for one in provenance.build_definition.resolved_dependencies}
    assert inputs == {name: file_digest(manifest.parent / name) for name in ("small.gguf", "imatrix.gguf")}
    (subject,) = parsed.subject
    assert (subject.name, subject.digest["sha256"]) == ("small.out.gguf", file_digest(manifest.parent / subject.name))
    (own,) = provenance.run_details.byproducts
    assert own.digest["sha256"] == file_digest(manifest)


def test_the_same_build_elsewhere_gives_the_same_statement(manifest: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else" / "where"
    shutil.copytree(manifest.parent, elsewhere)
    assert _attested(elsewhere / manifest.name) == _attested(manifest)


def test_a_statement_holds_for_its_file_only(manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_statement(_attested(manifest), path, force=False)
    stated, folder = read_statement(path), manifest.parent
    assert all(one.equal for one in verify_attestation(stated, folder))
    assert all(one.equal for one in rebuilt(stated, manifest, _how(tmp_path / "s"), LocalSolver()))
    with pytest.raises(InvalidInput, match="is not there"):
        verify_attestation(stated, tmp_path)
    (folder / "small.out.gguf").write_bytes(b"\0" + (folder / "small.out.gguf").read_bytes()[1:])
    assert not all(one.equal for one in verify_attestation(stated, folder))
    other = built(read(folder, "other", budget="4.5"), tmp_path / "store")
    theirs = other.resolved.recipe.output.manifest_path
    write_manifest(build_manifest(other, ["raq-client"], None), theirs)
    differs = [one.what for one in rebuilt(stated, theirs, _how(tmp_path / "s"), LocalSolver()) if not one.equal]
    assert differs == ["small.out.gguf: manifest"]


def test_nothing_untrue_is_stated(manifest: Path) -> None:
    """From the command line: exit code 6 and no statement where a byte differs, then a statement that verifies."""
    model, target = manifest.parent / "small.out.gguf", manifest.parent / "small.out.gguf.intoto.json"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = client("recipe", "attest", manifest)
    assert (refused.code, target.exists()) == (6, False)
    assert "could not be repeated" in refused.err
    model.write_bytes(whole)
    assert client("recipe", "attest", manifest, "--threads", 1).code == 0
    assert client("recipe", "attest", manifest).code == 2, "it is there already"
    verified = client("recipe", "verify-attestation", target, "--rebuild", manifest, "--json")
    assert (verified.code, verified.json["equal"]) == (0, True)
    model.write_bytes(whole + b"\0")
    assert client("recipe", "verify-attestation", target).code == 6
    target.write_text(json.dumps({**json.loads(target.read_text()), "predicateType": "other"}))
    wrong = client("recipe", "verify-attestation", target)
    assert (wrong.code, "predicateType" in wrong.err) == (2, True)
