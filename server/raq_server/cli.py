"""`raq-server`: serve until told to stop."""

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from raq_solver.errors import InvalidInput

CONFIG_EXIT = 2


def serve(
    address: Annotated[str, typer.Option(help="HOST:PORT to listen on (port 0: any free one), or unix:PATH.")] = (
        "127.0.0.1:8433"
    ),
    workers: Annotated[int, typer.Option(min=1, max=256, help="Solves that run at the same time.")] = 4,
    queue: Annotated[int, typer.Option(min=0, help="Further calls that may wait; more are refused.")] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running calls get when the server stops.")] = 10,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option(help="TLS private key (PEM).")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every call.")] = False,
) -> None:
    """Serve the raq solver over gRPC, with health checks and reflection, until SIGTERM or Ctrl-C.

    Example: raq-server --address 0.0.0.0:8433 --certificate cert.pem --private-key key.pem
    """
    from raq_server.app import ServerConfig, start_server

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    config = ServerConfig(
        address=address,
        workers=workers,
        queue=queue,
        grace_seconds=grace,
        certificate=certificate,
        private_key=private_key,
    )
    try:
        running = start_server(config)
    except InvalidInput as error:
        typer.echo(f"raq-server: {error}", err=True)
        raise typer.Exit(CONFIG_EXIT) from None
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    typer.echo(f"raq-server: serving at {running.address}", err=True)
    stopped.wait()
    running.stop()


def main() -> None:
    """Entry point of `raq-server`."""
    app = typer.Typer(add_completion=True, pretty_exceptions_enable=False)
    app.command()(serve)
    app()
