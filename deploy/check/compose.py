"""deploy/compose.yaml, as docker compose reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deploy.check import dockerfile
from deploy.check.services import END_SECONDS, SERVICES, Service

REQUIRED: Final = {"RUNWIRE_REDIS_PASSWORD": "redis4check", "RUNWIRE_POSTGRES_PASSWORD": "postgres4check"}
"""What the operator must give, and what is given here."""
_NEEDS: Final = {
    "agent": {"access": "service_completed_successfully", "redis": "service_healthy"},
    "scorer": {
        "access": "service_completed_successfully",
        "redis": "service_healthy",
        "migrate": "service_completed_successfully",
    },
    "migrate": {"postgres": "service_healthy"},
}
_ACCESS: Final = "/access"
"""Where certificates and tokens are, for those who make and those who read them."""
_REDIS_LINES: Final = (
    "appendonly yes",
    "maxmemory-policy noeviction",
    f"requirepass {REQUIRED['RUNWIRE_REDIS_PASSWORD']}",
)
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def config(root: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What docker compose makes of the file where only `given` is set of our variables."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RUNWIRE_", "COMPOSE_"))}
    command = [str(Path(sys.executable).parent / "docker-compose"), "-f", "deploy/compose.yaml", "config"]
    return subprocess.run(
        [*command, "--format", "json"],
        cwd=root,
        env=others | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def redis_configuration(root: Path) -> str:
    """The file that Redis is started with, with a password of ours."""
    return str(json.loads(config(root, REQUIRED).stdout)["configs"]["redis"]["content"])


def access_script(root: Path) -> str:
    """What makes certificates and tokens, for `sh -euc`."""
    [script] = json.loads(config(root, REQUIRED).stdout)["services"]["access"]["command"]
    return str(script).replace("$$", "$")


def check(root: Path) -> Iterator[str]:
    """Yields what is wrong with the file."""
    for problem in _check(root):
        yield f"compose.yaml: {problem}"


def _check(root: Path) -> Iterator[str]:
    said = config(root, REQUIRED)
    if said.returncode:
        yield said.stderr.strip()
        return
    yield from _required(root)
    whole = json.loads(said.stdout)
    services: dict[str, Any] = whole["services"]
    if missing := {"access", "redis", "postgres", *_NEEDS} - services.keys():
        yield f"there is no {', '.join(sorted(missing))}"
        return
    yield from _redis(whole)
    targets = dockerfile.stages((root / "deploy/Dockerfile").read_text())
    for name in _NEEDS:
        service = SERVICES["scorer" if name == "migrate" else name]
        for problem in _service(name, services[name], service, targets):
            yield f"{name}: {problem}"
    yield from _mounted("access", services["access"], read_only=False)
    for name in ("redis", "postgres"):
        if "test" not in services[name].get("healthcheck", {}):
            yield f"{name} has no healthcheck, and others wait for it to be healthy"
        if not any(volume["type"] == "volume" for volume in services[name].get("volumes", [])):
            yield f"{name} keeps its data in no volume"
        if services[name].get("ports"):
            yield f"{name} is published beyond the network of the services"
    if services["agent"].get("deploy", {}).get("replicas") != 2:
        yield "agent: not two replicas"


def _required(root: Path) -> Iterator[str]:
    """Without a password it does not start, and says which is missing."""
    for name in REQUIRED:
        said = config(root, {other: value for other, value in REQUIRED.items() if other != name})
        if said.returncode == 0:
            yield f"{name} has a default: everybody would have the same password"
        elif f"required variable {name} is missing" not in said.stderr:
            yield f"without {name} the message does not name it"


def _redis(whole: dict[str, Any]) -> Iterator[str]:
    lines = whole.get("configs", {}).get("redis", {}).get("content", "").splitlines()
    for line in _REDIS_LINES:
        if line not in lines:
            yield f"redis: its configuration lacks `{line}`"


def _service(name: str, given: dict[str, Any], service: Service, targets: dict[str, Any]) -> Iterator[str]:
    environment = given.get("environment", {})
    yield from service.environment_problems(environment)
    if given.get("build", {}).get("target") not in targets:
        yield f"the Dockerfile has no target {given.get('build', {}).get('target')!r}"
    conditions = {other: how["condition"] for other, how in given.get("depends_on", {}).items()}
    if conditions != _NEEDS[name]:
        yield f"it waits for {conditions}, not for {_NEEDS[name]}"
    if not given.get("read_only") or given.get("cap_drop") != ["ALL"]:
        yield "its file system can be written to, or it has capabilities"
    if given.get("user"):
        yield f"it runs as {given['user']}, not as the user of the image"
    for variable in ("RUNWIRE_STORE", "RUNWIRE_RESULTS"):
        for password in re.findall(r"://[^:/@]*:([^@]+)@", environment.get(variable, "")):
            if password not in REQUIRED.values():
                yield f"{variable} has a password in clear"
    if name == "migrate":
        return
    if given.get("healthcheck", {}).get("disable"):
        yield "its healthcheck is disabled"
    yield from service.protection_problems(environment, _ACCESS)
    yield from _mounted(name, given, read_only=True)
    if [port["target"] for port in given.get("ports", [])] != [service.port]:
        yield f"it does not publish the service's port {service.port}"
    if any(port.get("host_ip") != "127.0.0.1" for port in given.get("ports", [])):
        yield "it is published beyond this machine without being asked to"
    needed = service.grace_seconds(environment) + END_SECONDS
    if _seconds(given.get("stop_grace_period", "10s")) < needed:
        yield f"stop_grace_period is {given.get('stop_grace_period', '10s')}, and it needs {needed:g} s to end in order"


def _mounted(name: str, given: dict[str, Any], *, read_only: bool) -> Iterator[str]:
    mounts = [each for each in given.get("volumes", []) if each["target"] == _ACCESS and each["type"] == "volume"]
    if [each.get("read_only", False) for each in mounts] != [read_only]:
        yield f"{name} does not have {_ACCESS} for {'reading' if read_only else 'writing'}"


def _seconds(duration: str) -> float:
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))
