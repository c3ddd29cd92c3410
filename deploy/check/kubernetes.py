"""deploy/kubernetes: rendered by kustomize where there is a kubectl, and as plain files where there is none."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

from deploy.check import dockerfile, tools
from deploy.check.services import END_SECONDS, IMAGES, LIVENESS, SERVICES, Service
from runwire.scaler import TARGET

VERSIONS: Final = ("1.30", "1.37")
"""The oldest that has all we use (`preStop: sleep`), and the newest that we have a schema of."""
KUSTOMIZATIONS: Final = ("base", "overlays/split", "migrate", "certificates")
BLOCKED_LOOP_SECONDS: Final = 300
"""For this long a service keeps its leases while a tool blocks its event loop (agent_service/execution/leases.py)."""
_FOREIGN: Final = ("cert-manager.io/", "gateway.networking.k8s.io/", "keda.sh/", "monitoring.coreos.com/")
"""Kinds that Kubernetes itself does not have, and has no schema of."""
_CREDENTIALS: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_SECRET_NAME: Final = re.compile(r"(PASSWORD|SECRET|TOKEN|API_KEY|RUNWIRE_STORE|RUNWIRE_RESULTS)")

Document = dict[str, Any]


def check(root: Path, *, rendered: bool, kustomizations: Sequence[str] = KUSTOMIZATIONS) -> Iterator[str]:
    """Yields what is wrong with each kustomization, `rendered` by kubectl or read file by file, and with the example
    of a Secret."""
    folder = root / "deploy/kubernetes"
    for name in kustomizations:
        try:
            documents = render(folder / name) if rendered else plain(folder / name)
        except (ValueError, yaml.YAMLError, OSError) as error:
            yield f"kubernetes/{name}: {error}"
            continue
        for problem in problems(root, documents):
            yield f"kubernetes/{name}: {problem}"
    for document in yaml.safe_load_all((folder / "secret.example.yaml").read_text()):
        for problem in (*_schema(document), *_example(document)):
            yield f"kubernetes/secret.example.yaml: {problem}"


def render(folder: Path) -> list[Document]:
    """What would be applied. Raises ValueError with what kustomize says, tools.Missing where there is no kubectl."""
    said = subprocess.run(
        [tools.kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    if said.returncode:
        raise ValueError(said.stderr.strip())
    return list(yaml.safe_load_all(said.stdout))


def plain(folder: Path) -> list[Document]:
    """The documents of the folder's own files, and its generated ConfigMaps; no patch is applied, no image renamed."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    documents: list[Document] = []
    for generator in kustomization.get("configMapGenerator", []):
        data = dict(literal.split("=", 1) for literal in generator["literals"])
        documents.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        )
    for resource in kustomization["resources"]:
        if (folder / resource).is_dir():
            documents += plain(folder / resource)
        else:
            documents += list(yaml.safe_load_all((folder / resource).read_text()))
    return documents


def problems(root: Path, documents: list[Document]) -> Iterator[str]:
    """What is wrong with documents that are applied together."""
    images = dockerfile.stages((root / "deploy/Dockerfile").read_text())
    for document in documents:
        about = f"{document['kind']} {document['metadata']['name']}"
        for problem in (*_schema(document), *_kind(document, documents, images)):
            yield f"{about}: {problem}"


def _schema(document: Document) -> Iterator[str]:
    if document["apiVersion"].startswith(_FOREIGN):
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            yield f"Kubernetes {version} refuses {where}: {error.message}"
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            yield error.message


def _kind(document: Document, documents: list[Document], images: dict[str, Any]) -> Iterator[str]:
    kind = document["kind"]
    if kind == "Secret":
        yield "a Secret does not belong into the manifests"
    if kind == "ConfigMap":
        yield from _secrets(document["data"])
    if kind in ("Deployment", "Job", "StatefulSet"):
        yield from _pod(document, documents, images)
    if kind in ("Deployment", "StatefulSet") and any(map(_service_of, _containers(document))):
        yield from _workload(document, documents)
    if kind == "Certificate":
        yield from _certificate(document, documents)
    if kind == "Service":
        yield from _service(document, documents)
    if kind == "PodDisruptionBudget" and not _selected(document["spec"]["selector"]["matchLabels"], documents):
        yield "it selects no Deployment"
    if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        target = document["spec"]["scaleTargetRef"]["name"]
        if not any(one["kind"] == "Deployment" and one["metadata"]["name"] == target for one in documents):
            yield f"there is no Deployment {target} to scale"
    if kind == "ScaledObject":
        yield from _scaled(document, documents)


def _pod(document: Document, documents: list[Document], images: dict[str, Any]) -> Iterator[str]:
    pod = document["spec"]["template"]["spec"]
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "it may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "it gets a token of the cluster, which it does not need"
    if pod.get("enableServiceLinks") is not False:
        yield "it gets variables of Services, which look like settings"
    for container in _containers(document):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("readOnlyRootFilesystem") is not True:
            yield "it may gain privileges or write to its root file system"
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield "it keeps capabilities"
        resources = container.get("resources", {})
        if "memory" not in resources.get("limits", {}) or not {"cpu", "memory"} <= resources.get("requests", {}).keys():
            yield "no requests, or no limit of memory"
        if "command" in container:
            continue  # it has the image, and runs something else
        service = _service_of(container)
        if service is None or service.name not in images:
            yield f"no target of the Dockerfile makes the image {container['image']}"
            continue
        yield from service.environment_problems(_environment(container, documents))
        yield from _secrets({one["name"]: one.get("value") for one in container.get("env", [])})


def _containers(document: Document) -> list[Document]:
    return list(document["spec"]["template"]["spec"]["containers"])


def _workload(document: Document, documents: list[Document]) -> Iterator[str]:
    spec = document["spec"]
    labels = spec["template"]["metadata"]["labels"]
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        yield "its selector does not match its own pods"
    if document["kind"] == "Deployment":
        if not any(
            one["kind"] == "PodDisruptionBudget" and one["spec"]["selector"]["matchLabels"].items() <= labels.items()
            for one in documents
        ):
            yield "no PodDisruptionBudget"
        if spec["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
            yield "an old pod would go before a new one answers"
    for container in _containers(document):
        service = _service_of(container)
        if service is not None:
            environment = _environment(container, documents)
            yield from _port(container, service, environment)
            yield from _probes(container, service, environment)
            yield from _grace(spec["template"]["spec"], container, service, environment)
            if service.health:
                folders = _secret_folders(spec["template"]["spec"], container)
                yield from service.protection_problems(environment, *folders)


def _secret_folders(pod: Document, container: Document) -> Iterator[str]:
    """Where Secrets are mounted as whole folders, so that what is renewed is seen."""
    secrets = {volume["name"] for volume in pod.get("volumes", []) if "secret" in volume}
    for mount in container.get("volumeMounts", []):
        if mount["name"] in secrets and mount.get("readOnly") and "subPath" not in mount:
            yield mount["mountPath"]


def _certificate(document: Document, documents: list[Document]) -> Iterator[str]:
    issuer = document["spec"]["issuerRef"]
    if issuer["kind"] == "ClusterIssuer":
        return  # of the cluster, not of ours
    if not any(one["kind"] == issuer["kind"] and one["metadata"]["name"] == issuer["name"] for one in documents):
        yield f"there is no {issuer['kind']} {issuer['name']}"


def _port(container: Document, service: Service, environment: dict[str, str | None]) -> Iterator[str]:
    listen = environment.get(service.listen) or ""
    if listen != f"0.0.0.0:{service.port}":
        yield f"{service.listen} is {listen!r}, not 0.0.0.0:{service.port}"
    ports = [port["containerPort"] for port in container.get("ports", [])]
    if ports[:1] != [service.port]:
        yield f"its port is not the service's, {service.port}"
    metrics = (environment.get("RUNWIRE_METRICS") or "").rpartition(":")[2]
    if ports[1:] != ([int(metrics)] if metrics else []):
        yield f"beside its port it has {ports[1:]}, and metrics at {metrics or 'none'}"


def _probes(container: Document, service: Service, environment: dict[str, str | None]) -> Iterator[str]:
    if not service.health:
        yield from _web_probes(container)
        return
    health = None if environment.get("RUNWIRE_ROLE") == "work" else service.health
    for name, asked in (("startupProbe", LIVENESS), ("readinessProbe", health), ("livenessProbe", LIVENESS)):
        # Kubernetes' own gRPC probes speak no TLS.
        command = container.get(name, {}).get("exec", {}).get("command", [])
        if command[:3] != ["python", "/opt/healthcheck.py", service.listen]:
            yield f"no {name} by the image's health check"
        elif (command[3:] or [None]) != [asked]:
            yield f"the {name} asks for {' '.join(command[3:])!r}, not for {asked!r}"
    liveness = container.get("livenessProbe", {})
    patience = liveness.get("periodSeconds", 10) * liveness.get("failureThreshold", 3)
    if patience < BLOCKED_LOOP_SECONDS:
        yield f"a loop blocked for {patience} s would be killed, although its leases are kept {BLOCKED_LOOP_SECONDS} s"


def _web_probes(container: Document) -> Iterator[str]:
    for name, asked in (("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        probe = container.get(name, {}).get("httpGet", {})
        if (probe.get("path"), probe.get("port")) != (asked, "http"):
            yield f"the {name} asks for {probe.get('path')!r} at {probe.get('port')!r}, not for {asked!r} at 'http'"


def _scaled(document: Document, documents: list[Document]) -> Iterator[str]:
    """What KEDA asks: a service of ours, with entries that its scaler knows (runwire/scaler.py)."""
    for trigger in document["spec"]["triggers"]:
        asked, _, port = trigger["metadata"]["scalerAddress"].partition(":")
        found = [
            one
            for one in documents
            if one["kind"] == "Service"
            and one["metadata"]["name"] == asked.partition(".")[0]
            and any(str(offered["port"]) == port for offered in one["spec"]["ports"])
        ]
        if not found:
            yield f"it asks {asked}:{port}, and no Service is there"
        known = {"scalerAddress", "enableTLS", TARGET, "agents" if port == str(SERVICES["agent"].port) else "scorers"}
        if strange := sorted(trigger["metadata"].keys() - known):
            yield f"the scaler knows nothing of {', '.join(strange)}"


def _grace(pod: Document, container: Document, service: Service, environment: dict[str, str | None]) -> Iterator[str]:
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if not pause:
        yield "no preStop sleep: SIGTERM would close the port while clients still find it"
    needed = pause + service.grace_seconds(environment) + END_SECONDS
    given = pod.get("terminationGracePeriodSeconds", 30)
    if given < needed:
        yield f"terminationGracePeriodSeconds is {given}, and it needs {needed:g} s to end in order"


def _service(document: Document, documents: list[Document]) -> Iterator[str]:
    spec = document["spec"]
    if spec.get("clusterIP") != "None" and any(port["appProtocol"] == "grpc" for port in spec["ports"]):
        yield "it is not headless: a client would stay with one pod"
    pods = _selected(spec["selector"], documents)
    if not pods:
        yield "it selects no pods"
    offered = {
        (port["name"], port["containerPort"])
        for pod in pods
        for container in pod["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for port in spec["ports"]:
        headless = spec.get("clusterIP") == "None"  # then nothing maps one port to another
        if pods and not any(
            name == port["targetPort"] and (number == port["port"] or not headless) for name, number in offered
        ):
            yield f"its port {port['port']} ({port['targetPort']}) is none of its pods'"


def _selected(labels: dict[str, str], documents: list[Document]) -> list[Document]:
    return [
        one
        for one in documents
        if one["kind"] in ("Deployment", "StatefulSet")
        and labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]


def _service_of(container: Document) -> Service | None:
    """Which service a container runs; none where the image has to run something else."""
    if "command" in container:
        return None
    name = re.split("[:@]", container["image"].rpartition("/")[2])[0]
    return IMAGES.get(name.removeprefix("runwire-"))


def _environment(container: Document, documents: list[Document]) -> dict[str, str | None]:
    """The variables of a container; None: their value comes from a Secret."""
    found: dict[str, str | None] = {}
    maps = {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}
    for source in container.get("envFrom", []):
        found |= maps.get(source.get("configMapRef", {}).get("name"), {})
    for variable in container.get("env", []):
        found[variable["name"]] = variable.get("value")
    return found


def _secrets(variables: dict[str, str | None]) -> Iterator[str]:
    for name, value in variables.items():
        is_path = (value or "").startswith(("/access/", "sqlite:///"))
        if value is not None and not is_path and (_CREDENTIALS.search(value) or _SECRET_NAME.search(name)):
            yield f"{name} stands in clear, and not in a Secret"


def _example(document: Document) -> Iterator[str]:
    """An example must not be taken for real: what should be secret is one word in capitals."""
    for name, value in document["stringData"].items():
        secret = re.search(r"://[^:/]*:([^@]+)@", value)
        if (secret[1] if secret else value) not in ("PASSWORD", "KEY", "TOKENS"):
            yield f"{name} looks like a real secret"
