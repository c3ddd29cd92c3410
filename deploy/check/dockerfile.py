"""deploy/Dockerfile, .dockerignore and the locks that the images install."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.check.services import IMAGES, Service

_SECRET = re.compile(r"(PASSWORD|SECRET|TOKEN|API_KEY)", re.IGNORECASE)


@dataclass
class Stage:
    """A stage: what it stands on, and its own instructions."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, Stage] = {}
    last: Stage | None = None
    for line in filter(None, (line.strip() for line in lines.replace("\\\n", " ").splitlines())):
        word, _, rest = line.partition(" ")
        if word.upper() == "FROM":
            parts = rest.split()
            last = Stage(parts[2] if len(parts) == 3 else str(len(found)), parts[0])
            found[last.name] = last
        elif last is not None:
            last.instructions.append((word.upper(), rest.strip()))
    return found


def image(all_stages: dict[str, Stage], target: str) -> list[tuple[str, str]]:
    """All instructions that make the image of `target`, those of its base stages first."""
    stage = all_stages[target]
    below = image(all_stages, stage.base) if stage.base in all_stages else []
    return below + stage.instructions


def environment(instructions: list[tuple[str, str]]) -> dict[str, str]:
    pairs = [pair for word, rest in instructions if word == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def check(root: Path) -> Iterator[str]:
    """All about the images that can be told without building them."""
    yield from _hadolint(root)
    all_stages = stages((root / "deploy/Dockerfile").read_text())
    for problem in (*_bases(all_stages), *_copies(root, all_stages)):
        yield f"Dockerfile: {problem}"
    for service in IMAGES.values():
        if service.name not in all_stages:
            yield f"Dockerfile: there is no target {service.name}"
            continue
        for problem in _image(service, image(all_stages, service.name)):
            yield f"Dockerfile, {service.name}: {problem}"
        for problem in (*_installs(service, all_stages), *_lock(root, service)):
            yield f"image {service.name}: {problem}"


def _hadolint(root: Path) -> Iterator[str]:
    command = [str(Path(sys.executable).parent / "hadolint"), "--no-color", "deploy/Dockerfile"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    if said.returncode:
        yield from (f"hadolint: {line}" for line in (said.stdout + said.stderr).splitlines() if line.strip())


def _bases(all_stages: dict[str, Stage]) -> Iterator[str]:
    for stage in all_stages.values():
        tag = stage.base.partition(":")[2]
        if stage.base not in all_stages and (not tag or tag == "latest"):
            yield f"stage {stage.name} stands on {stage.base}, which names no release"


def _copies(root: Path, all_stages: dict[str, Stage]) -> Iterator[str]:
    """Whatever is copied is there, and .dockerignore lets it through."""
    kept = [line[1:].rstrip("/") for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in all_stages.values():
        for word, rest in stage.instructions:
            words = rest.split()
            if word != "COPY" or any(part.startswith("--from=") for part in words):
                continue
            for source in words[:-1]:
                name = source.rstrip("/")
                if not (root / name).exists():
                    yield f"{source} is copied and does not exist"
                if not any(name == path or name.startswith(f"{path}/") for path in kept):
                    yield f"{source} is copied and .dockerignore keeps it out"


def _image(service: Service, instructions: list[tuple[str, str]]) -> Iterator[str]:
    last = dict(instructions)
    variables = environment(instructions)
    user = last.get("USER", "").partition(":")[0]
    if not user.isdecimal() or int(user) == 0:
        yield f"it runs as {user or 'root'!r}, not as a number other than 0"
    if last.get("STOPSIGNAL") != "SIGTERM":
        yield "STOPSIGNAL is not SIGTERM"
    if f'"{service.listen}"' not in last.get("HEALTHCHECK", ""):
        yield f"no HEALTHCHECK asks at {service.listen}"
    if f'"{service.module}"' not in last.get("ENTRYPOINT", ""):
        yield f"ENTRYPOINT does not start {service.module}"
    if last.get("EXPOSE") != str(service.port):
        yield f"EXPOSE is {last.get('EXPOSE')}, and the service's port is {service.port}"
    if variables.get(service.listen) != f"0.0.0.0:{service.port}":
        yield f"{service.listen} is {variables.get(service.listen)!r}: nothing outside of the container would reach it"
    if variables.get("PYTHONUNBUFFERED") != "1":
        yield "PYTHONUNBUFFERED is not 1: logs would come late"
    yield from service.environment_problems(variables)
    for word, rest in instructions:
        if word in ("ENV", "ARG") and (found := _SECRET.search(rest)):
            yield f"{word} has a {found[0]}: it would stay in the image"


def _installs(service: Service, all_stages: dict[str, Stage]) -> Iterator[str]:
    """The environment comes from the service's own lock, with hashes, and is complete."""
    runs = " ".join(rest for word, rest in image(all_stages, f"install-{service.name}") if word == "RUN")
    for needed in (f"-r requirements/{service.name}.txt", "--require-hashes", "pip check"):
        if needed not in runs:
            yield f"its installation lacks `{needed}`"


def _lock(root: Path, service: Service) -> Iterator[str]:
    """The lock has what the service's extras ask for, in versions that they allow, and nothing of other extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    if unknown := service.extras - extras.keys():
        yield f"pyproject.toml has no extra {', '.join(sorted(unknown))}"
        return
    line = re.search(rf"^\t.*-o requirements/{service.name}\.txt$", (root / "Makefile").read_text(), re.MULTILINE)
    if line is None or set(re.findall(r"--extra (\S+)", line[0])) != service.extras:
        yield f"`make lock` does not make requirements/{service.name}.txt of {', '.join(sorted(service.extras))}"
    text = (root / f"requirements/{service.name}.txt").read_text()
    locked = _locked(text)
    wanted = [*project["dependencies"], *(one for extra in service.extras for one in extras[extra])]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield f"requirements/{service.name}.txt has {version or 'nothing'} for {requirement}: run make lock"
    mine = {canonicalize_name(Requirement(one).name) for one in wanted}
    others = {name for name in extras if name not in service.extras and name != "all"}
    for extra in sorted(others):
        foreign = {canonicalize_name(Requirement(one).name) for one in extras[extra]} - mine
        if surplus := sorted(name for name in foreign & locked.keys() if _is_asked_for(name, text)):
            yield f"requirements/{service.name}.txt has {', '.join(surplus)}, which only the extra {extra} needs"


def _is_asked_for(name: str, lock: str) -> bool:
    """Whether the project itself asks for a package, and not only another one that it needs."""
    entry = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    why = "".join(re.findall(r"^ +#.*$", entry[0], re.MULTILINE)) if entry else ""
    return not why or "runwire" in why


def _locked(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}
