"""The Helm chart: every shape of it passes the checks of the manifests, and each promise is looked at."""

from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import ROOT, break_file

pytest.importorskip("kubernetes_validate")
from deploy.check import chart

pytestmark = pytest.mark.usefixtures("helm")
SHAPE = f"{chart.CHART}/ci/"


def rendered(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in chart.render(ROOT, arguments)}


def shape(name: str) -> tuple[str, str]:
    return "--values", str(ROOT / SHAPE / f"{name}.yaml")


def test_every_shape_passes() -> None:
    """Nothing is wrong with the chart as it is, nor with one node on SQLite, everything on, and as little as may be."""
    assert list(chart.check(ROOT)) == []


@pytest.mark.deploy  # half a minute: `make deploy-check` runs it
@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        (
            "templates/_pod.tpl",
            "healthcheck.py, {{ $listen }}, runwire.liveness",
            "healthcheck.py, PORT",
            "no startupProbe",
        ),
        ("templates/_pod.tpl", "path: /readyz", "path: /ready", "asks for '/ready'"),
        ("templates/_pod.tpl", "add .graceSeconds 25", "add .graceSeconds 5", "to end in order"),
        ("templates/_pod.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "its root file system"),
        ("templates/_pod.tpl", "containerPort: {{ include", "containerPort: 1{{ include", "and metrics at 9464"),
        ("templates/_pod.tpl", "/access/tls/tls.crt", "/tls/tls.crt", "nothing is mounted there"),
        ("templates/_pod.tpl", '"RUNWIRE_ROLE" "work"', '"RUNWIRE_ROLE" "worker"', "refuses role"),
        ("templates/autoscaling.yaml", "target: {{", "query: {{", "the scaler knows nothing of query"),
        (
            "templates/autoscaling.yaml",
            "scalerAddress: {{ $name }}-",
            "scalerAddress: {{ $name }}-x",
            "no Service is there",
        ),
        ("templates/migrate.yaml", "backoffLimit: 5", "backoffLimit: many", "refuses"),
        ("values.yaml", "  settings:\n    RUNWIRE_AGENTS", "  settings:\n    RUNWIRE_AGENT", "is no setting"),
        ("values.yaml", "repository: runwire-agent,", "repository: runwire-agents,", "no target of the Dockerfile"),
        ("values.yaml", "mode: external", "mode: extern", "value must be one of"),
        ("ci/production.yaml", "registry:", "registrar:", "additional properties"),
        ("Chart.yaml", "appVersion: 0", "appVersion: 9", "the release is"),
    ],
)
def test_a_broken_chart_is_noticed(project: Path, name: str, old: str, new: str, problem: str) -> None:
    """Each promise about the chart is looked at: broken, it is a problem."""
    break_file(project, f"{chart.CHART}/{name}", old, new)
    assert any(problem in found for found in chart.check(project, shapes=["production"]))


@pytest.mark.parametrize(
    "given, problem",
    [
        (["access.tls.enabled=false"], "set access.insecure"),
        (["access.tokens.enabled=false"], "set access.insecure"),
        (["access.insecure=true"], "take it away"),
        (["stores.mode=sqlite", "scorer.enabled=false"], "both services in one pod"),
        (["stores.mode=sqlite", "scorer.autoscaling.mode=keda"], "cannot be scaled by KEDA"),
        (["agent.split=false", "worker.autoscaling.mode=keda"], "agent.split has to be true"),
        (["routes.ingress.host=runs.example.com"], "gateway.enabled has to be true"),
        (["scorer.autoscaling.minReplicas=0"], "minimum"),
        (["agent.replicas=two"], "replicas"),
    ],
)
def test_what_cannot_be_is_refused(given: list[str], problem: str) -> None:
    """Values that contradict each other, or that the schema has not, end with a sentence."""
    with pytest.raises(ValueError, match=problem):
        rendered(*(part for one in given for part in ("--set", one)))


def test_what_is_insecure_has_no_certificates() -> None:
    """Without TLS and tokens, which has to be said, nothing of them is mounted or named."""
    given = rendered("--set", "access.insecure=true,access.tls.enabled=false,access.tokens.enabled=false")
    [pod] = [one["spec"]["template"]["spec"] for key, one in given.items() if key == ("Deployment", "runwire-agent")]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    assert given["ConfigMap", "runwire-agent"]["data"]["RUNWIRE_INSECURE"] == "true"


def test_a_changed_setting_rolls_the_pods() -> None:
    """The pods' template differs if and only if a setting of theirs does."""

    def template(*arguments: str) -> Any:
        return rendered(*arguments)["Deployment", "runwire-scorer"]["spec"]["template"]

    assert template() == template()
    assert template() != template("--set", "scorer.settings.RUNWIRE_SCORER_CONCURRENCY=7")


def test_workers_have_the_settings_of_agents() -> None:
    """What is said to the agents holds for those that execute them, but for what is said to these."""
    given = rendered("--set", "agent.settings.RUNWIRE_LEASE_SECONDS=20,worker.settings.RUNWIRE_CONCURRENCY=5")
    data = given["ConfigMap", "runwire-worker"]["data"]
    assert (data["RUNWIRE_LEASE_SECONDS"], data["RUNWIRE_CONCURRENCY"], data["RUNWIRE_ROLE"]) == ("20", "5", "work")
    assert "RUNWIRE_CONCURRENCY" not in given["ConfigMap", "runwire-agent"]["data"]


def test_nobody_else_is_let_in() -> None:
    """Every pod of the release has a policy, and with none named only the release itself reaches the services."""
    given = rendered("--set", "gateway.enabled=true")
    deployments = {name for kind, name in given if kind == "Deployment"}
    policies = {name: one["spec"] for (kind, name), one in given.items() if kind == "NetworkPolicy"}
    assert set(policies) == deployments
    assert policies["runwire-worker"]["ingress"] == policies["runwire-gateway"]["ingress"] == []
    [rule] = policies["runwire-agent"]["ingress"]
    assert [set(peer) for peer in rule["from"]] == [{"podSelector"}]


def test_alerts_and_boards_are_those_of_the_project() -> None:
    """The chart has no copy of the alerts and boards that `make deploy-check` compares with the code."""
    given = rendered(*shape("production"))
    [group] = given["PrometheusRule", "runwire"]["spec"]["groups"]
    assert {"RunwireNobodyCanDoRuns", "RunwireRunsFail"} <= {rule["alert"] for rule in group["rules"]}
    assert all(rule["annotations"]["runbook_url"].startswith("https://example.com/runbook#") for rule in group["rules"])
    board = given["ConfigMap", "runwire-board-runs"]["data"]["runwire-runs.json"]
    assert board.strip() == (ROOT / "deploy/monitoring/runs.json").read_text().strip()


def test_names_of_parts_are_short_enough() -> None:
    """A long release's name is cut so that names with their endings remain names."""
    long = chart.helm("template", "r" * 53, str(ROOT / chart.CHART), *shape("production"))
    assert long.returncode == 0, long.stderr
    names = [line.split(": ")[1] for line in long.stdout.splitlines() if line.startswith("  name: ")]
    assert names
    assert max(map(len, names)) <= 63
