"""Cards: every figure is that of the manifest, the front matter is YAML, and no folder of the publisher shows."""

import json
from pathlib import Path

import pytest
import yaml

from raq_client.publishing.card import About, base_model_of, card
from raq_client.publishing.picture import marks_of
from raq_client.publishing.release import read_release
from raq_solver.errors import InvalidInput
from support.gguf_files import Reader
from support.releases import PUBLISHER, Made, check

ABOUT = About("org/tiny", repo="me/tiny-GGUF", license="apache-2.0")


def test_the_row_holds_what_was_measured(make: Made) -> None:
    path = make()
    text = card(read_release([path]), ABOUT)
    row = next(line for line in text.splitlines() if line.startswith("| `tiny-4.5bpw.gguf`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    model = path.with_name("tiny-4.5bpw.gguf")
    tensors = Reader(model).tensors
    bits = 8 * sum(int(t.n_bytes) for t in tensors) / sum(int(t.n_elements) for t in tensors)
    assert cells[1:] == [
        f"{model.stat().st_size / 1000:.3g} kB",
        f"{bits:.3f}",
        "0.01230 ± 0.00012",
        "0.1230",
        "90.00 ± 0.90",
        "1.0100 ± 0.0101",
    ]
    assert "held out.txt, 1,536 tokens scored in 6 windows of 512 tokens" in text


def test_the_front_matter_is_what_hubs_read(make: Made) -> None:
    front = yaml.safe_load(card(read_release([make()]), ABOUT).split("---")[1])
    assert front == {
        "base_model": "org/tiny",
        "base_model_relation": "quantized",
        "quantized_by": "me",
        "license": "apache-2.0",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "raq", "llama.cpp", "quantized", "imatrix"],
    }


def test_files_are_listed_smallest_first_with_the_digests_of_their_bytes(make: Made) -> None:
    paths = [make("tiny-b"), make("tiny-a", kl=None)]
    release = read_release(paths)
    assert [quant.name for quant in release.quants] == ["tiny-a", "tiny-b"]
    text = card(release, ABOUT)
    for path in paths:
        (name, digest), *_ = json.loads(path.read_text())["outputs"].items()
        assert f"{digest}  {Path(name).name}" in text
    assert text.count("not measured") == 4


def test_commands_hold_names_alone(make: Made, tmp_path: Path) -> None:
    text = card(read_release([make()]), ABOUT)
    assert "raq-client run f16.gguf --output=tiny-4.5bpw.gguf -t 'held out.txt'" in text
    for part in (str(tmp_path), *PUBLISHER):
        assert part not in text


def test_what_was_not_proven_is_not_said_to_be(make: Made) -> None:
    plan = {"bytes": 1, "termination": "feasible", "allocation": {}}
    assert "proven" in card(read_release([make()]), ABOUT)
    assert "proven" not in card(read_release([make("other", plan=plan)]), ABOUT)


def test_a_mixture_of_llama_cpp_is_shown_beside(make: Made) -> None:
    path = make(against={"mixture": "Q4_K_M", "mixture_bytes": 100, "mixture_kl": 0.5})
    text = card(read_release([path]), ABOUT)
    assert "| llama.cpp's Q4_K_M |  |" in text
    assert "rounded by raq's quantizer with the same importance." in text
    assert "mixtures" not in card(read_release([make("alone")]), ABOUT)


def test_a_mixture_beside_a_run_is_shown_with_all_that_was_measured(make: Made) -> None:
    known = {"mixture_file_bytes": 3_210_000, "mixture_check": check(0.25)["overall"]}
    release = read_release([make(against={"mixture": "Q4_K_M", "mixture_bytes": 100, "mixture_kl": 0.25} | known)])
    row = next(line for line in card(release, ABOUT).splitlines() if line.startswith("| llama.cpp's Q4_K_M"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "3.21 MB"
    assert cells[3:] == ["0.25000 ± 0.00250", "2.5000", "90.00 ± 0.90", "1.0100 ± 0.0101"]
    (mark,) = [mark for mark in marks_of(release) if mark.is_mixture]
    assert (mark.kl, mark.error) == (0.25, 0.0025)


def test_mixtures_of_a_ladder_are_shown_with_all_that_was_measured(make: Made) -> None:
    overall = check(0.25)["overall"]
    one = {"name": "Q5_K_M", "file_bytes": 3_210_000, "bits_per_weight": 5.678, **overall}
    release = read_release([make(mixtures=[one])])
    assert "| llama.cpp's Q5_K_M | 3.21 MB | 5.678 | 0.25000 ± 0.00250 | 2.5000 | 90.00 ± 0.90 | 1.0100 ± 0.0101 |" in (
        card(release, ABOUT)
    )
    (mark,) = [mark for mark in marks_of(release) if mark.is_mixture]
    assert (mark.bits, mark.kl, mark.error) == (5.678, 0.25, 0.0025)


def test_the_base_model_is_that_of_the_download_or_of_the_option(make: Made) -> None:
    known = read_release([make("a", origins={"/cache/x.gguf": f"hf:org/base@{'0' * 40}:x.gguf"})])
    assert base_model_of(known, None) == "org/base"
    assert base_model_of(known, "hf:org/other") == "org/other"
    with pytest.raises(InvalidInput, match="--base-model: is needed: the manifests do not say"):
        base_model_of(read_release([make("b")]), None)
    with pytest.raises(InvalidInput, match="not the name of a repository"):
        About("tiny")


def test_what_describes_no_file_is_refused(make: Made, tmp_path: Path) -> None:
    path = make()
    path.with_name("tiny-4.5bpw.gguf").unlink()
    with pytest.raises(InvalidInput, match="is not there any more"):
        read_release([path])
    (tmp_path / "plan.json").write_text('{"allocation": {}}')
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        read_release([tmp_path / "plan.json"])
    with pytest.raises(InvalidInput, match="describes no quantized file"):
        read_release([make("other", plan=None)])
