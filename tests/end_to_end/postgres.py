"""A PostgreSQL server for one test, with a password, its data in a temporary folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from command import free_port, wait_until

ADMINISTRATOR = "postgres"

# Runs the server until stdin is closed, by the process that started it or by that process's end;
# then removes its folder. Ctrl-C does not reach it, because it has a session of its own.
GUARD = """
folder=$1 host=$2 port=$3
initdb -D "$folder/data" -U "$4" --pwfile="$folder/password" --auth=scram-sha-256 \
  --encoding=UTF8 --no-locale --no-sync >> "$folder/log" 2>&1 || exit
echo 'host all all samenet scram-sha-256' >> "$folder/data/pg_hba.conf"
postgres -D "$folder/data" -c listen_addresses="$host" -c port="$port" \
  -c unix_socket_directories= -c fsync=off >> "$folder/log" 2>&1 &
server=$!
cat > /dev/null
kill -INT $server
wait $server
rm -rf "$folder"
"""


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs: from PATH, else Debian's newest."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


PROGRAMS = _programs()
HAS_POSTGRES = PROGRAMS is not None and importlib.util.find_spec("psycopg") is not None
NO_POSTGRES = "needs a PostgreSQL server (Debian: postgresql) and the extra `server`"


@dataclass(frozen=True)
class Postgres:
    """A running server, and how to connect to it."""

    host: str
    port: int
    password: str  # of the administrator

    def uri(self, database: str) -> str:
        """Return the URI of a database, with the administrator's name and password."""
        return f"postgresql://{ADMINISTRATOR}:{self.password}@{self.host}:{self.port}/{database}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which psql and pg_dump connect to the server as its administrator."""
        assert PROGRAMS is not None, NO_POSTGRES
        return {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": ADMINISTRATOR,
            "PGPASSWORD": self.password,
        }

    def create(self, database: str) -> str:
        """Create an empty database; return its URI."""
        import psycopg

        with psycopg.connect(self.uri(ADMINISTRATOR), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.uri(database)


@contextlib.contextmanager
def postgres(host: str = "127.0.0.1") -> Iterator[Postgres]:
    """Start a server that listens at ``host``; yield it once it accepts connections.

    All hosts of that address's network may connect with the password.
    """
    assert PROGRAMS is not None, NO_POSTGRES
    server = Postgres(host, free_port(host), secrets.token_hex(12))
    folder = Path(tempfile.mkdtemp(prefix="search-postgres-"))
    (folder / "password").write_text(server.password)
    user = _user()
    for path in (folder, folder / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "sh", str(folder), host, str(server.port), ADMINISTRATOR],
        cwd=folder,
        env={"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        start_new_session=True,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    try:
        wait_until(lambda: _accepts(server, guard, folder / "log"), 60, "PostgreSQL")
        yield server
    finally:
        guard.communicate(timeout=60)  # closes the pipe
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd:
    """Return the user that runs the server: never root, because PostgreSQL refuses it."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    names = [each.pw_name for each in pwd.getpwall()]
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _accepts(server: Postgres, guard: subprocess.Popen[bytes], log: Path) -> bool:
    import psycopg

    assert guard.poll() is None, f"PostgreSQL did not start:\n{log.read_text()}"
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(server.uri(ADMINISTRATOR), connect_timeout=5).close()
        return True
    return False
