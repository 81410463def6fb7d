"""Which life of the database this is: a name that changes whenever what was committed may have been taken back.

A restored backup, a promoted standby, a volume set back, another database or an emptied table each come with another start
of the server, another database or another file of the table. It never comes back, so what was remembered beside one life
says nothing in the next. PostgreSQL only: a SQLite file cannot tell that it was exchanged.
"""

from typing import Final

from sqlalchemy import Connection, text

_LIFE: Final = text(
    "SELECT concat_ws('/', (SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode('command'), "
    "pg_relation_filenode('message'), extract(epoch FROM pg_postmaster_start_time()))"
)


def incarnation(conn: Connection) -> str:
    """The database's life: its id, the files of what was accepted, and when its server started."""
    return str(conn.execute(_LIFE).scalar_one())
