"""The history of the store's tables, applied when a server starts. Alembic's layout without a configuration file."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from raq_solver.errors import Fault, InvalidInput

_LOCK: Final = 0x7261715F  # "raq_": one server migrates, the others wait


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest version; several servers may do so at the same time.

    Raises InvalidInput if the database does not answer or can't be written.
    """
    try:
        _upgrade(engine)
    except sa.exc.DBAPIError as error:
        raise InvalidInput(Fault("database", f"can't be used: {error.orig}")) from error


def _upgrade(engine: sa.Engine) -> None:
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
