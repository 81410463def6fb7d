"""Alembic's entry: runs the migrations on the connection that `app.store.migrate` hands over.

From the command line (`alembic -x url=sqlite:///var/dev.db revision --autogenerate -m "..."`) there is no such
connection; the URL given with `-x` is opened then.
"""

from alembic import context
from sqlalchemy import Connection

from app.errors import ConfigError
from app.store.database import run_in_thread
from app.store.migrate import COMPARE_OPTIONS
from app.store.tables import metadata


def run(conn: Connection) -> None:
    """Run the migrations inside the transaction that `conn` is in."""
    context.configure(connection=conn, target_metadata=metadata, **COMPARE_OPTIONS, render_as_batch=conn.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise ConfigError("say which database: alembic -x url=sqlite:///var/dev.db ...")
    run_in_thread(url, run)
