"""`raq-client imatrix render`: chats as text, by a model's own chat template."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.groups import project_model
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings


def render(
    called: typer.Context,
    chats: Annotated[list[Path], typer.Argument(metavar="CHATS.jsonl...", help="Records of chats, one a line.")],
    *,
    model: options.Model = None,
    output: options.Output,
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="The date that templates write; else today's."
        ),
    ] = None,
    libllama: options.Library = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Render chats as text by a model's own chat template.

    The template is the one in the GGUF file, with the schemas of tools, tool calls and reasoning; the text is that of
    llama-server for the same messages, and ends where an answer is still open. Records hold messages (with tools and
    chat_template_kwargs, if any), conversations, prompt and completion, question and answer, or prompt alone. A begin
    token stands between chats, where the tokenizer adds one to each. docs/importance.md has the forms.

    Examples:

    raq-client imatrix render chats.jsonl --model model-f16.gguf -o chats.txt

    raq-client imatrix collect model-f16.gguf --text chats.txt --parse-special -o chats.imatrix.gguf
    """
    from raq_client.engine.texts import read_text
    from raq_client.files.atomic_file import atomic_file
    from raq_client.prompts.chats import read_records
    from raq_client.prompts.template import local_time, require_template

    settings = read_settings(Path.cwd())
    check_written(called, {"output": output}, force=force, also=settings.files())
    template = require_template(project_model(model, settings), libllama, (lambda: date) if date else local_time)
    read = {str(path): read_records(read_text(path), str(path)) for path in chats}
    data = template.join([template.corpus(records, name) for name, records in read.items()]).encode("utf-8", "replace")
    with atomic_file(output, force=force, needed=len(data)) as file:
        file.write(data)
    count = sum(map(len, read.values()))
    if as_json:
        print_json({"output": str(output), "records": count, "bytes": len(data)})
    else:
        say(f"{output}: {count} records, {len(data):,} bytes; collect it with --parse-special")
