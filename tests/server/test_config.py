"""Flags before environment before file before defaults; what the command prints and refuses."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from raq_server.config import ServerConfig, load_config
from raq_server.service.tokens import hash_of
from raq_server.store.database import engine_of
from raq_server.telemetry.http import serve_metrics
from raq_solver.errors import InvalidInput
from support.commands import server


def test_flags_then_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "raq-server.toml"
    file.write_text(
        'workers = 3\nqueue = 5\naddress = "127.0.0.1:1"\n'
        f'[[tokens]]\nname = "ci"\nsha256 = "{hash_of("x")}"\nscope = "read"\n'
    )
    monkeypatch.setenv("RAQ_SERVER_QUEUE", "7")
    monkeypatch.setenv("RAQ_SERVER_ADDRESS", "127.0.0.1:2")
    config = load_config(file, address="127.0.0.1:3", workers=None)
    assert (config.workers, config.queue, config.address) == (3, 7, "127.0.0.1:3")
    assert [entry.name for entry in config.tokens] == ["ci"]
    assert config.grace_seconds == ServerConfig().grace_seconds


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "raq-server.toml"
    file.write_text('workers = 0\ncolour = "red"\nprivate_key = "nowhere.pem"\n')
    with pytest.raises(InvalidInput) as caught:
        load_config(file)
    text = str(caught.value)
    for part in ("workers", "colour", "nowhere.pem can't be read"):
        assert part in text
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("content", ["a = = b", None])
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "raq-server.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInput, match=r"raq-server\.toml"):
        load_config(file)


def test_printing_the_configuration_hides_the_password() -> None:
    done = server("--print-config", "--database", "postgresql://raq:secret@host/raq", "--workers", "2")
    assert done.code == 0
    assert "secret" not in done.out
    printed = done.json
    assert printed["workers"] == 2
    assert set(printed) == set(ServerConfig.model_fields)


@pytest.mark.parametrize("words", [(), ("token",), ("clean",)])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_on_a_screen_and_in_its_width(
    width: int, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = server(*words, "--help").out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= width


def test_help_says_the_defaults_and_how_to_copy_the_example() -> None:
    shown = server("-h").out
    assert "-completion" not in shown  # how many lines they take depends on the shell
    defaults = {name: field.default for name, field in ServerConfig.model_fields.items()}
    for name in ("queue", "log_format", "log_level"):
        assert f"[{defaults[name]}]" in shown
    assert "server.toml \\\n      --certificate" in shown


def test_mistakes_on_the_command_line_are_sentences() -> None:
    done = server("--workers", "0")
    assert done.code == 2
    assert done.err.startswith("raq-server: workers: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--database", "nonsense"), "database: is not a URL such as sqlite:///FILE"),
        (("--database", "nonsense", "--print-config"), "database: is not a URL such as sqlite:///FILE"),
        (("--certificate", "nowhere.pem"), "certificate: nowhere.pem can't be read"),
        (("--grace", "inf"), "grace_seconds: "),
        (("clean", "--keep-results-days", "inf"), "keep_results_days: "),
        (("clean", "--keep-profiles-days", "1e300"), "keep_profiles_days: "),
    ],
)
def test_settings_that_can_not_be_used_are_named(words: tuple[str, ...], said: str) -> None:
    done = server(*words)
    assert done.code == 2
    assert done.err.startswith(f"raq-server: {said}")


@pytest.mark.parametrize("address", ["9100", ":9100", "127.0.0.1", "127.0.0.1:http"])
def test_metrics_are_served_where_it_was_asked_for_only(address: str) -> None:
    """Without a host the page would be on every network."""
    with pytest.raises(InvalidInput, match=r"is not HOST:PORT; write 127\.0\.0\.1:9100"):
        serve_metrics(address, CollectorRegistry(), lambda: True)


def test_a_token_is_printed_once_with_its_hash(tmp_path: Path) -> None:
    done = server("token", "ci", "--scope", "admin")
    made = done.err.strip().splitlines()[-1]
    file = tmp_path / "raq-server.toml"
    file.write_text(done.out)
    (entry,) = load_config(file).tokens
    assert entry.sha256 == hash_of(made)
    assert entry.scope == "admin"
    assert server("token", "ci", "--scope", "everything").code == 2


def test_cleaning_an_empty_store(tmp_path: Path) -> None:
    done = server("clean", "--database", f"sqlite:///{tmp_path}/store.sqlite")
    assert done.code == 0, done.err
    assert done.out == "removed 0 answers and 0 profiles; 0 bytes are left\n"


def test_cleaning_closes_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = list[object](), list[object]()  # the objects: a number of one that is gone may be used again

    def watched(url: str) -> sa.Engine:
        engine = engine_of(url)
        sa.event.listen(engine, "connect", lambda connection, _record: opened.append(connection))
        sa.event.listen(engine, "close", lambda connection, _record: closed.append(connection))
        sa.event.listen(engine, "close_detached", closed.append)
        return engine

    monkeypatch.setattr("raq_server.store.database.engine_of", watched)
    assert server("clean", "--database", f"sqlite:///{tmp_path}/store.sqlite").code == 0
    assert opened
    assert sorted(map(id, opened)) == sorted(map(id, closed))


def test_a_server_without_its_packages_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raq_server.cli._has", lambda name: name != "alembic")
    result = server("token", "me")
    assert result.code == 2
    assert result.err.splitlines() == ["raq-server: the server needs more packages: pip install 'raq[server]'"]
