"""`python deploy/backup.py save FOLDER`, `... restore FOLDER`: both stores of a running Runwire, and back.

RUNWIRE_STORE and RUNWIRE_RESULTS name them, as for the services. `save` may be run at any time beside them. The store
is saved **first**: a message that is acknowledged there has its rows in the results already, so what is saved lacks no
score; a message that was acknowledged in between is received once more after a restore, and its rows are there.

`restore` brings a backup to places where nothing is: SQLite files that do not exist yet, an empty database of
PostgreSQL. Redis takes its file at its start, so there it says what to do. Services are to be started after it.

Needs `redis-cli` for Redis, `pg_dump` and `pg_restore` (of the server's version) for PostgreSQL, nothing for SQLite.
Ends with 0; with 1 and one line where something failed, and then no file has the name of a whole backup; with 2 for a
wrong use. Passwords are given to the tools by their environment, and never shown.
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

STORE, RESULTS = "RUNWIRE_STORE", "RUNWIRE_RESULTS"
PREFIXES = {STORE: "runs", RESULTS: "scores"}


class Failed(Exception):
    """In one line."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("save", "restore"):
        print("usage: backup.py save|restore FOLDER, with RUNWIRE_STORE and RUNWIRE_RESULTS set", file=sys.stderr)
        return 2
    work = save if arguments[0] == "save" else restore
    folder = Path(arguments[1])
    for variable in PREFIXES:  # the store first: see above
        url = os.environ.get(variable, "")
        try:
            if not url:
                raise Failed(f"{variable} is not set")
            print(f"{PREFIXES[variable]}: {work(url, PREFIXES[variable], folder)}", flush=True)
        except (Failed, OSError, sqlite3.Error) as error:
            print(f"{PREFIXES[variable]}: {error}", file=sys.stderr)
            return 1
    return 0


def save(url: str, name: str, folder: Path) -> str:
    """Writes a file of its own; the file has its name once it is whole. Raises Failed."""
    kind = _kind(url)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{name}.{kind}"
    if path.exists():
        raise Failed(f"{path} is there already: a backup is never written over")
    part = path.with_suffix(path.suffix + ".part")
    part.unlink(missing_ok=True)
    {"sqlite": _save_sqlite, "rdb": _save_redis, "pgdump": _save_postgres}[kind](url, part)
    part.rename(path)
    return f"saved to {path}, {path.stat().st_size:,} bytes"


def restore(url: str, name: str, folder: Path) -> str:
    """Brings a file to where nothing is. Raises Failed."""
    kind = _kind(url)
    path = folder / f"{name}.{kind}"
    if not path.exists():
        raise Failed(f"there is no {path}")
    if kind == "sqlite":
        return _restore_sqlite(path, _sqlite_path(url))
    if kind == "pgdump":
        command = ["pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", "--dbname", _conninfo(url)]
        _run([*command, str(path)], PGPASSWORD=_password(url))
        return "restored"
    return f"copy {path} to the empty server's `dir` as its `dbfilename` (dump.rdb), with appendonly off, and start it"


def _kind(url: str) -> str:
    scheme = urlsplit(url).scheme
    for kind, schemes in {
        "sqlite": ["sqlite"],
        "rdb": ["redis", "rediss"],
        "pgdump": ["postgresql", "postgres"],
    }.items():
        if scheme in schemes:
            return kind
    raise Failed(
        f"{scheme or 'this'}: there is no backup of such a store here; save each of its servers by its own tools"
    )


def _sqlite_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path[1:]))  # as SQLAlchemy has it: four slashes for an absolute path


def _save_sqlite(url: str, part: Path) -> None:
    source = _sqlite_path(url)
    if not source.exists():
        raise Failed(f"there is no {source}")
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(part)) as new:
        old.backup(new)  # a snapshot, with what is in the write-ahead log


def _restore_sqlite(path: Path, target: Path) -> str:
    if target.exists():
        raise Failed(f"{target} is there: stop the services, and move it away with its -wal and -shm")
    part = target.with_suffix(target.suffix + ".part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as old, closing(sqlite3.connect(part)) as new:
        old.backup(new)
    part.rename(target)
    return f"restored to {target}"


def _save_redis(url: str, part: Path) -> None:
    at = urlsplit(url)
    command = ["redis-cli", "-h", at.hostname or "127.0.0.1", "-p", str(at.port or 6379)]
    if at.username:
        command += ["--user", unquote(at.username)]
    if at.scheme == "rediss":
        command.append("--tls")
    _run([*command, "--rdb", str(part)], REDISCLI_AUTH=_password(url))
    if not part.exists() or not part.stat().st_size:
        raise Failed("redis-cli wrote nothing")


def _save_postgres(url: str, part: Path) -> None:
    command = ["pg_dump", "--format=custom", "--file", str(part), "--dbname", _conninfo(url)]
    _run(command, PGPASSWORD=_password(url))


def _conninfo(url: str) -> str:
    """The URL without its password, for a command line that others may see."""
    at = urlsplit(url)
    return SplitResult(at.scheme, _without_password(at), at.path, at.query, "").geturl()


def _without_password(at: SplitResult) -> str:
    user, found, host = at.netloc.rpartition("@")
    return f"{user.partition(':')[0]}@{host}" if found else host


def _password(url: str) -> str:
    return unquote(urlsplit(url).password or "")


def _run(command: list[str], **secrets: str) -> None:
    environment = os.environ | {name: value for name, value in secrets.items() if value}
    try:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failed(f"there is no {command[0]} on the PATH") from None
    if said.returncode:
        lines = [line for line in (said.stderr or said.stdout).splitlines() if line.strip()]
        told = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
        raise Failed(f"{command[0]}: {told or f'ended with {said.returncode}'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
