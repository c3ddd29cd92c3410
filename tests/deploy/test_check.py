"""What deploys Runwire passes its checks, and each check notices when it should."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.check.services import SERVICES
from runwire.connect import open_store
from tests.deploy.conftest import break_file
from tests.servers import RedisServer, redis_servers, start_redis

# Its tools are of the group dev; `make test-lowest` runs without them.
pytest.importorskip("kubernetes_validate")
from deploy.check import compose, dockerfile, kubernetes, operations

ROOT = Path(__file__).parents[2]

Check = Callable[[Path], Iterator[str]]


def manifests(root: Path) -> Iterator[str]:
    return kubernetes.check(root, rendered=False)


def rendered_manifests(root: Path) -> Iterator[str]:
    return kubernetes.check(root, rendered=True)


needs_kubectl = pytest.mark.usefixtures("kubectl")


@pytest.mark.parametrize("check", [dockerfile.check, compose.check, manifests, operations.check])
def test_the_files_of_the_project_pass(check: Check) -> None:
    """Nothing is wrong with what is committed."""
    assert list(check(ROOT)) == []


@needs_kubectl
def test_the_rendered_manifests_pass() -> None:
    """Nothing is wrong with what `kubectl apply --kustomize` would send, overlays and patches included."""
    assert list(rendered_manifests(ROOT)) == []


DOCKERFILE = "deploy/Dockerfile"


@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        (DOCKERFILE, "USER 10001:10001", "USER runwire", "runs as 'runwire'"),
        (DOCKERFILE, "USER 10001:10001", "USER 0", "runs as '0'"),
        (DOCKERFILE, "STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
        (DOCKERFILE, 'healthcheck.py", "RUNWIRE_AGENT_LISTEN"', 'healthcheck.py"', "no HEALTHCHECK"),
        (DOCKERFILE, "EXPOSE 50051", "EXPOSE 50050", "EXPOSE is 50050"),
        (DOCKERFILE, "LISTEN=0.0.0.0:50051", "LISTEN=127.0.0.1:50051", "nothing outside of the container"),
        (DOCKERFILE, "RUNWIRE_RESULTS=", "RUNWIRE_RESULT=", "RUNWIRE_RESULT is no setting"),
        (DOCKERFILE, "    HOME=/tmp", "    HOME=/tmp OPENAI_API_KEY=sk-1", "would stay in the image"),
        (DOCKERFILE, "FROM python:${PYTHON} AS runtime", "FROM python AS runtime", "names no release"),
        (
            DOCKERFILE,
            "COPY pyproject.toml README.md ARCHITECTURE.md LICENSE ./",
            "COPY pyproject.toml NOTICE ./",
            "does not exist",
        ),
        (DOCKERFILE, "WORKDIR /app", "RUN cd /app", "hadolint"),
        (DOCKERFILE, "--require-hashes --only-binary :all: -r requirements/scorer", "-r requirements/scorer", "hashes"),
        (".dockerignore", "!agent_service/\n", "", "keeps it out"),
        ("pyproject.toml", "otel = [", "telemetry = [", "no extra otel"),
        ("pyproject.toml", "asyncpg>=0.30", "asyncpg>=99", "run make lock"),
        (
            "Makefile",
            "--extra agent --extra redis --extra otel",
            "--extra agent",
            "requirements/agent.txt of agent, otel, redis",
        ),
        ("requirements/agent.txt", "annotated-types==", "sqlalchemy==2.0.0\nannotated-types==", "which only the extra"),
    ],
)
def test_a_broken_image_is_noticed(project: Path, name: str, old: str, new: str, problem: str) -> None:
    """Each promise about the images is looked at: broken, it is a problem."""
    break_file(project, name, old, new)
    assert any(problem in found for found in dockerfile.check(project))


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("${RUNWIRE_POSTGRES_PASSWORD:?", "${RUNWIRE_POSTGRES_PASSWORD:-", "has a default"),
        ("appendonly yes", "appendonly no", "lacks `appendonly yes`"),
        ("policy noeviction", "policy allkeys-lru", "lacks `maxmemory-policy noeviction`"),
        ("RUNWIRE_SCORERS:", "RUNWIRE_SCORER:", "RUNWIRE_SCORER is no setting"),
        ("_GRACE_SECONDS: 20", "_GRACE_SECONDS: long", "refuses shutdown_grace_seconds"),
        ("_GRACE_SECONDS: 20", "_GRACE_SECONDS: 40", "stop_grace_period is 45s"),
        ("redis://:${RUNWIRE_REDIS_PASSWORD}@", "redis://:hunter2@", "a password in clear"),
        ("condition: service_completed_successfully", "condition: service_started", "it waits for"),
        ("target: agent", "target: agents", "no target 'agents'"),
        ("read_only: true", "read_only: false", "can be written to"),
        (":-127.0.0.1:50052}:50052", ":-50052}:50052", "beyond this machine"),
        (":-127.0.0.1:50052}:50052", ":-127.0.0.1:50052}:50051", "does not publish"),
        ("healthcheck:\n      # By TCP", "x-check:\n      # By TCP", "has no healthcheck"),
        ("postgres:/var/lib/postgresql/data", "/tmp/pg:/var/lib/postgresql/data", "in no volume"),
        ("RUNWIRE_TLS_KEY_FILE: /access", "RUNWIRE_TLS_KEY_FILE: /keys", "nothing is mounted there"),
        ("RUNWIRE_TOKENS: /access/tokens", 'RUNWIRE_INSECURE: "true"', "could do everything"),
        ("access:/access:ro", "access:/access", "for reading"),
        ("access: {condition: service_completed_successfully}", "access: {condition: service_started}", "it waits for"),
        ("RUNWIRE_AGENT_REPLICAS:-2", "RUNWIRE_AGENT_REPLICAS:-1", "not two replicas"),
        ("services:", "service:", "service"),
    ],
)
def test_a_broken_compose_file_is_noticed(project: Path, old: str, new: str, problem: str) -> None:
    """Each promise about compose.yaml is looked at: broken, it is a problem."""
    break_file(project, "deploy/compose.yaml", old, new)
    assert any(problem in found for found in compose.check(project))


AGENT = "base/agent.yaml"
SCORER = "base/scorer.yaml"


@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        (AGENT, "replicas: 2", "replicas: two", "refuses spec.replicas"),
        (AGENT, "minReadySeconds", "minimumReadySeconds", "Additional properties"),
        (AGENT, "runAsNonRoot: true", "runAsNonRoot: false", "run as root"),
        (AGENT, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "write to its root"),
        (AGENT, "drop: [ALL]", "drop: [NET_RAW]", "keeps capabilities"),
        (AGENT, "RuntimeDefault", "Unconfined", "no seccomp"),
        (AGENT, "enableServiceLinks: false", "enableServiceLinks: true", "variables of Services"),
        (AGENT, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "a token"),
        (AGENT, "limits: {memory: 1Gi}", "limits: {cpu: 1}", "no limit of memory"),
        (AGENT, "image: runwire-agent", "image: runwire-agents", "no target of the Dockerfile"),
        (AGENT, "containerPort: 50051", "containerPort: 50050", "its port is not the service's"),
        (AGENT, "v1.AgentService", "v1.Agents", "the readinessProbe asks for"),
        (AGENT, "exec: {command: [python, /opt", "grpc: {port: 50051} #", "no livenessProbe by the image's"),
        (AGENT, "RUNWIRE_AGENT_LISTEN, runwire.liveness", "RUNWIRE_LISTEN", "no startupProbe by the image's"),
        (AGENT, "failureThreshold: 10", "failureThreshold: 3", "leases are kept"),
        (AGENT, "LISTEN, runwire.liveness", "LISTEN, runwire.agent.v1.AgentService", "the livenessProbe asks for"),
        (AGENT, "PeriodSeconds: 45", "PeriodSeconds: 30", "it needs 40 s"),
        (AGENT, "sleep: {seconds: 5}", "exec: {command: [true]}", "no preStop sleep"),
        (AGENT, "maxUnavailable: 0", "maxUnavailable: 1", "would go before"),
        (AGENT, "clusterIP: None", "clusterIP: 10.0.0.1", "not headless"),
        (AGENT, "port: 50051, targetPort: grpc", "port: 50051, targetPort: http", "none of its pods'"),
        (AGENT, "kind: PodDisruptionBudget", "kind: PodDisruption", "Couldn't find schema"),
        (AGENT, "selector: {app.kubernetes.io/name: runwire-agent}", "selector: {a: b}", "selects no pods"),
        (AGENT, "valueFrom: {secretKeyRef: {name: runwire, key: RUNWIRE_STORE}}", "value: redis://r", "in clear"),
        (
            AGENT,
            "mountPath: /access/tls,",
            "mountPath: /access,",
            "'/access/tls/tls.crt', and nothing",
        ),
        (AGENT, "secret: {secretName: runwire-tokens,", "emptyDir: {medium: Memory} # ", "RUNWIRE_TOKENS is"),
        (SCORER, "mountPath: /access/tokens,", "mountPath: /access/tokens, subPath: tokens,", "RUNWIRE_TOKENS is"),
        ("base/kustomization.yaml", "RUNWIRE_RUN_TOKEN_KEYS=", "RUNWIRE_INSECURE=true #", "RUNWIRE_INSECURE is set"),
        ("base/kustomization.yaml", "RUNWIRE_TOKENS=", "RUNWIRE_CERTIFICATE_RULES=", "RUNWIRE_TOKENS is None"),
        ("certificates/certificates.yaml", "{name: runwire,", "{name: internal,", "there is no Issuer internal"),
        (SCORER, "- name: RUNWIRE_RESULTS", "- name: RUNWIRE_DATABASE", "RUNWIRE_DATABASE is no setting"),
        ("base/kustomization.yaml", "GRACE_SECONDS=20", "GRACE_SECONDS=60", "it needs 80 s"),
        ("base/kustomization.yaml", "LISTEN=0.0.0.0:50051", "LISTEN=127.0.0.1:50051", "not 0.0.0.0:50051"),
        ("base/kustomization.yaml", "RUNWIRE_AGENTS=", "RUNWIRE_STORE=redis://:pw@host/0 #", "in clear"),
        ("base/kustomization.yaml", "RUNWIRE_AGENTS=", "RUNWIRE_AGENT=", "RUNWIRE_AGENT is no setting"),
        ("overlays/split/agent-serve-scaler.yaml", "name: runwire-agent}\n  min", "name: x}\n  min", "no Deployment x"),
        ("overlays/split/agent-work.yaml", "value: work", "value: worker", "refuses role"),
        ("overlays/split/agent-work.yaml", "_LISTEN]", "_LISTEN, a]", "asks for 'a'"),
        ("migrate/job.yaml", "backoffLimit: 5", "backoffLimit: many", "refuses"),
        ("secret.example.yaml", "OPENAI_API_KEY: KEY", "OPENAI_API_KEY: sk-live", "looks like a real secret"),
        ("secret.example.yaml", "runwire:PASSWORD@redis", "runwire:hunter2@redis", "looks like a real secret"),
    ],
)
def test_a_broken_manifest_is_noticed(project: Path, name: str, old: str, new: str, problem: str) -> None:
    """Each promise about the manifests is looked at: broken, it is a problem."""
    break_file(project, f"deploy/kubernetes/{name}", old, new)
    only = [folder for folder in kubernetes.KUSTOMIZATIONS if name.startswith(folder)]
    assert any(problem in found for found in kubernetes.check(project, rendered=False, kustomizations=only))


@needs_kubectl
@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("value: serve", "value: server", "refuses role"),
        ("name: runwire-agent", "name: runwire-agents", "no matches for Id"),
        ("RUNWIRE_ROLE", "RUNWIRE_ROLES", "RUNWIRE_ROLES is no setting"),
    ],
)
def test_a_broken_patch_is_noticed(project: Path, old: str, new: str, problem: str) -> None:
    """What only shows once an overlay is rendered is noticed there."""
    break_file(project, "deploy/kubernetes/overlays/split/agent-serve.yaml", old, new)
    found_problems = kubernetes.check(project, rendered=True, kustomizations=["overlays/split"])
    assert any(problem in found for found in found_problems)


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("`RUNWIRE_LEASE_SECONDS` | `15`", "`RUNWIRE_LEASE_SECONDS` | `16`", "is stale"),
        ("<!-- settings: scorer -->", "", "no table of settings of the scorer"),
    ],
)
def test_a_stale_table_of_settings_is_noticed(project: Path, old: str, new: str, problem: str) -> None:
    """The page cannot be of another release than the code, and can be renewed."""
    break_file(project, "docs/operations.md", old, new)
    assert any(problem in found for found in operations.check(project))
    if old.startswith("`"):
        operations.write(project)
        assert list(operations.check(project)) == []


def test_every_setting_is_explained() -> None:
    """No setting stands in the table without a meaning."""
    for service in SERVICES.values():
        bare = [line for line in service.table().splitlines() if line.endswith("|  |") or "|  (" in line]
        assert bare == []


@pytest.fixture
def composed_redis() -> Iterator[RedisServer]:
    """A real server, with the configuration that compose.yaml gives it, in a directory of its own."""
    lines = compose.redis_configuration(ROOT).splitlines()
    words = [word for line in lines if line and line[0] != "#" for word in _as_arguments(line)]
    server = start_redis(redis_servers()[0], *words)
    yield server
    server.close()


def _as_arguments(line: str) -> list[str]:
    name, value = line.split(maxsplit=1)
    return [] if name == "dir" else [f"--{name}", value]


async def test_the_store_is_content_with_the_redis_of_compose(composed_redis: RedisServer) -> None:
    """A store that refuses every risk accepts the configuration that compose gives to Redis, and its password."""
    password = compose.REQUIRED["RUNWIRE_REDIS_PASSWORD"]
    async with open_store(f"redis://:{password}@127.0.0.1:{composed_redis.port}/0?strict=true") as store:
        await store.ping()
