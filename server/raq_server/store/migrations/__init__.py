"""The history of the store's tables, applied when a server starts. Alembic's layout without a configuration file."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from raq_solver.errors import Fault, InvalidInput

NEWEST: Final = "0003"
"""The newest version of the tables."""
_LOCK: Final = 0x7261715F  # "raq_": one server migrates, the others wait


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest version; several servers may do so at the same time.

    Raises InvalidInput if the database does not answer or can't be written.
    """
    try:
        if not _is_newest(engine):
            _upgrade(engine)
    except sa.exc.DBAPIError as error:
        raise InvalidInput(Fault("database", f"can't be used: {error.orig}")) from error


def _is_newest(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return False
        return bool(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == NEWEST)


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
