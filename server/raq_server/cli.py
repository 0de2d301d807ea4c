"""The command `raq-server`: serve, make tokens, clean the store."""

import ctypes
import gc
import importlib.util
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperOption

from raq_solver.errors import InvalidInput

if TYPE_CHECKING:
    from raq_server.config import ServerConfig

CONFIG_EXIT: Final = 2
_NEEDED: Final = (
    "alembic",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "ortools",
    "prometheus_client",
    "pydantic_settings",
    "scipy",
    "sqlalchemy",
)
"""Modules of the extra `server`."""
_M_ARENA_MAX: Final = -8
_SWITCH_SECONDS: Final = 0.001
"""How long a thread may keep the event loop waiting for the interpreter lock; Python's default is 0.005."""
_LOG_SECONDS: Final = 2.0
"""How long stopping waits for the log to be written."""

_HELP: Final = """Serve the solver of raq over gRPC until SIGTERM or Ctrl-C.

Flags go before RAQ_SERVER_NAME in the environment, these before the file, which may hold all settings.

\b
Example:
  raq-server --address 0.0.0.0:8433 --config server.toml \\
    --certificate cert.pem --private-key key.pem
"""
"""What `--help` says before the options; click keeps the lines of a paragraph that begins with a backspace."""

# Plain texts, not markup: Rich would take a default in brackets for a style, and frames need lines.
APP = typer.Typer(
    pretty_exceptions_enable=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings in TOML.")]
Database = Annotated[str | None, typer.Option(metavar="URL", help="sqlite:///FILE, postgresql://...")]


@APP.callback(invoke_without_command=True, help=_HELP)
def serve(
    context: typer.Context,
    config: ConfigFile = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="HOST:PORT (port 0: any free one) or unix:PATH. [127.0.0.1:8433]"),
    ] = None,
    metrics_address: Annotated[str | None, typer.Option(metavar="ADDR", help="HTTP: /metrics, /live, /ready.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Searches at once. [one per processor]")] = None,
    queue: Annotated[int | None, typer.Option(metavar="N", help="Calls that may wait; more are refused. [64]")] = None,
    grace: Annotated[float | None, typer.Option(metavar="SECONDS", help="For running calls to end. [10]")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS private key (PEM).")] = None,
    client_ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve only clients it signed.")] = None,
    allow_anonymous: Annotated[bool, typer.Option("--allow-anonymous", help="Serve everyone, without tokens.")] = False,
    database: Database = None,
    log_format: Annotated[str | None, typer.Option(metavar="NAME", help="json or text. [json]")] = None,
    log_level: Annotated[str | None, typer.Option(metavar="NAME", help="debug, info, warning or error. [info]")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings as JSON.")] = False,
) -> None:
    """Serve until a signal ends it, or print the settings; `_HELP` is what people read."""
    if context.invoked_subcommand is not None:
        return
    settings = _settings(
        config,
        address=address,
        metrics_address=metrics_address,
        workers=workers,
        queue=queue,
        grace_seconds=grace,
        certificate=certificate,
        private_key=private_key,
        client_ca=client_ca,
        allow_anonymous=allow_anonymous or None,
        database=database,
        log_format=log_format,
        log_level=log_level,
    )
    if print_config:
        from raq_server.config import printed

        typer.echo(printed(settings))
        return
    _serve(settings)


def _one_arena() -> None:
    """Let malloc keep freed memory in one place, from which it returns it, not in one for each thread of gRPC's.

    24 messages of 23 MiB, one after the other: 114 MiB stayed with the process, and 62 so. Without glibc nothing is
    done.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


@APP.command()
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use it.")],
    scope: Annotated[
        str, typer.Option(metavar="NAME", help="read, solve or admin; each includes those before it.")
    ] = "solve",
) -> None:
    """Make a token. Prints it once, with the lines for the settings file, which hold only its hash."""
    _need_extra()
    from pydantic import ValidationError

    from raq_server.config import TokenEntry
    from raq_server.service.tokens import hash_of, new_token

    made = new_token()
    try:
        entry = TokenEntry.model_validate({"name": name, "sha256": hash_of(made), "scope": scope})
    except ValidationError as error:
        _refuse("; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors()))
    typer.echo(f"token, for the client (RAQ_TOKEN); it can't be shown again:\n{made}\n", err=True)
    typer.echo(f'[[tokens]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"\nscope = "{entry.scope.value}"')


@APP.command()
def clean(
    config: ConfigFile = None,
    database: Database = None,
    keep_results_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Remove answers not used for this many days. [30]")
    ] = None,
    keep_profiles_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="The same for profiles. [kept]")
    ] = None,
    store_limit_bytes: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Then remove the least recently used beyond this. [10 GiB]")
    ] = (None),
) -> None:
    """Remove old answers and profiles from the store. Servers may keep running."""
    settings = _settings(
        config,
        database=database,
        keep_results_days=keep_results_days,
        keep_profiles_days=keep_profiles_days,
        store_limit_bytes=store_limit_bytes,
    )
    from raq_server.store.database import engine_of
    from raq_server.store.migrations import migrate
    from raq_server.store.retention import clean as cleaned

    try:
        engine = engine_of(settings.database)
        try:
            migrate(engine)
            done = cleaned(engine, settings.keep_results_days, settings.keep_profiles_days, settings.store_limit_bytes)
        finally:
            engine.dispose()
    except InvalidInput as error:
        _refuse(str(error))
    typer.echo(f"removed {done.answers} answers and {done.profiles} profiles; {done.bytes_left:,} bytes are left")


def main() -> None:
    """Entry point of `raq-server`."""
    command = typer.main.get_command(APP)
    for parameter in command.params:
        # They take several lines, and more of them where the shell isn't known.
        if isinstance(parameter, TyperOption) and parameter.name in {"install_completion", "show_completion"}:
            parameter.hidden = True
    command()


def _settings(file: Path | None, **flags: Any) -> "ServerConfig":
    _need_extra()
    from raq_server.config import load_config

    try:
        return load_config(file, **flags)
    except InvalidInput as error:
        _refuse(str(error))


def _serve(settings: "ServerConfig") -> None:
    from raq_server.app import start_server
    from raq_server.telemetry.log import start_log

    _one_arena()
    sys.setswitchinterval(_SWITCH_SECONDS)
    log = start_log(settings.log_format, settings.log_level)
    stop_signal = _stop_signal()
    try:
        running = start_server(settings)
    except InvalidInput as error:
        _refuse(str(error))
    # Exclude what was imported from garbage collection: going through it stops the event loop for 50 ms.
    gc.collect()
    gc.freeze()
    log.wait(_LOG_SECONDS)
    typer.echo(f"raq-server: serving at {running.address}", err=True)
    stop_signal.recv(1)
    running.stop()
    log.wait(_LOG_SECONDS)


def _stop_signal() -> socket.socket:
    """A socket that becomes readable on SIGTERM or Ctrl-C."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    # Not an Event: a signal just before the main thread begins to wait for it would not wake it.
    signal.set_wakeup_fd(theirs.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ours


def _need_extra() -> None:
    missing = [name for name in _NEEDED if not _has(name)]
    if missing:
        _refuse("the server needs more packages: pip install 'raq[server]'")


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _refuse(text: str) -> NoReturn:
    for line in text.splitlines():
        typer.echo(f"raq-server: {line}", err=True)
    sys.exit(CONFIG_EXIT)
