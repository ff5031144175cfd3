"""Database servers of our own, and databases for stores on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports


@contextmanager
def running_server(directory: Path) -> Iterator[MariaDB]:
    """Whoever stops it starts it again."""
    server = MariaDB(directory, free_ports(1)[0])
    server.start()
    try:
        yield server
    finally:
        server.kill()


def new_database(server: MariaDB, name: str) -> str:
    """Make an empty database, and an account that may use it. Returns the store URL, with the password `s3cret`."""
    connection = pymysql.connect(unix_socket=str(server.socket), user=server.user)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute("CREATE USER IF NOT EXISTS store@'127.0.0.1' IDENTIFIED BY 's3cret'")
        cursor.execute(f"GRANT ALL ON {name}.* TO store@'127.0.0.1'")
    return f"mysql+pymysql://store:s3cret@127.0.0.1:{server.port}/{name}"
