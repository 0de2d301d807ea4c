"""The history of the store's tables, applied when a server starts. Alembic's layout without a configuration file."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from raq_solver.errors import Fault, InvalidInput

NEWEST: Final = "0003"
"""The newest version of the tables; versions compare as text."""
_LOCK: Final = 0x7261715F  # "raq_": one server migrates, the others wait


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest version; several servers may do so at the same time.

    Raises InvalidInput if the database does not answer, can't be written, or was migrated by a newer server.
    """
    try:
        found = _version(engine)
        if found < NEWEST:
            _upgrade(engine)
    except sa.exc.DBAPIError as error:
        raise InvalidInput(Fault("database", f"can't be used: {error.orig}")) from error
    if found > NEWEST:
        what = f"has tables of version {found}, made by a newer raq-server; this one knows them up to {NEWEST}"
        raise InvalidInput(Fault("database", what))


def _version(engine: sa.Engine) -> str:
    """The version of the tables; empty where there are none."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) or "")


def _upgrade(engine: sa.Engine) -> None:
    # Imports for 0.3 s, which a server whose tables are up to date does without.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # The driver begins transactions only before changes of data; here one is needed for changes of tables.
            connection.connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        connection.detach()  # its isolation level was changed for the migration
