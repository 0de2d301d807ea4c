"""`raq-client sensitivity-import`: published sensitivities, added to a profile."""

from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli import options
from raq_client.cli.console import print_json, say
from raq_client.cli.written import check_written
from raq_client.reports.plain import plain


def sensitivity_import(
    called: typer.Context,
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv", help="Table with QTYPE and tensors in its first line, then a row for each type."
        ),
    ],
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="A saved profile of the same model.")],
    output: options.Output,
    by_role: Annotated[
        bool, typer.Option("--by-role", help="Give all tensors of a role their mean, as single values are noisy.")
    ] = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Add published sensitivities to a profile.

    Reads tables of KL divergence per tensor (kld_results.csv) of Thireus' GGUF Tool Suite: thanks to Thireus and its
    contributors, https://github.com/Thireus/GGUF-Tool-Suite; the result carries their credit. Failed values (404) are
    left out, the noise floor is subtracted, and values are shrunk towards the mean of their role and depth.

    Example: raq-client sensitivity-import kld_results.csv model.profile.json -o measured.profile.json
    """
    from raq_client.files.profile_file import load_profile, save_profile
    from raq_client.sensitivity.published import import_sensitivities, read_published
    from raq_solver.loss_models.role_prior import CREDIT

    check_written(called, {"output": output}, force=force)
    found = import_sensitivities(read_published(table), load_profile(profile), by_role=by_role)
    save_profile(found.profile, output, force=force)
    if as_json:
        fields = {"floors": found.floors, "unused_rows": found.unused, "failed_values": found.failed}
        counts = {"tensors_measured": found.matched, "tensors_from_role_and_depth": found.filled}
        print_json({"output": str(output), "credit": CREDIT, **plain(fields), **counts})
        return
    say(f"{output}: sensitivities of {found.matched} tensors, of {found.filled} more from role and depth")
    for name, floor in found.floors.items():
        say(f"row {name}: noise floor {floor:.6f} nats subtracted")
    if found.unused:
        say(f"not used, as the error of these types is not known here or misleads: {', '.join(found.unused)}")
    if found.failed:
        values = "value" if found.failed == 1 else "values"
        say(f"left out: {found.failed} {values} of 404, the mark of a failed measurement")
    say(f"credit: {CREDIT}")
