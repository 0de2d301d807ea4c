"""A process that answers one question: it imports raq, waits for the arguments of a command, and runs it.

Usage: python -m raq_client.cli.worker, with a JSON list of arguments on standard input.
"""

import json
import sys


def main() -> None:
    """Run the command whose arguments come in; end without a word if none do."""
    import raq_client.cli.root
    import raq_client.cli.solve
    import raq_client.cli.sweep
    import raq_client.reports.frontier  # noqa: F401  # imported now, not when the question comes
    from raq_client.cli import app

    text = sys.stdin.read()
    if text:
        sys.argv = ["raq-client", *json.loads(text), "--events"]
        app.main()


if __name__ == "__main__":
    main()
