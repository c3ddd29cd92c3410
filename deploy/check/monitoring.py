"""Alerts and boards: they ask for metrics that there are, by labels that those have, and each alert has its entry in
the run book."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from runwire import metrics

_SUFFIXES: Final = {"histogram": ("_bucket", "_sum", "_count")}
_OTHERS: Final = frozenset({"le", "instance", "job", "pod", "namespace"})
"""Labels that Prometheus adds."""
_METRIC: Final = re.compile(r"\b(runwire_\w+)(?:\{([^}]*)\})?")
_LABEL: Final = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_BY: Final = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


def check(root: Path) -> Iterator[str]:
    """Yields a problem for each thing that is not so."""
    rules = yaml.safe_load((root / "deploy/monitoring/alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    entries = re.findall(r"^## (\S+)$", (root / "docs/runbook.md").read_text(), re.MULTILINE)
    names = [alert["alert"] for alert in alerts]
    for name in sorted(set(names) - set(entries)):
        yield f"runbook.md has no entry for the alert {name}"
    for name in sorted(set(entries) - set(names)):
        yield f"runbook.md has an entry {name}, and there is no such alert"
    for alert in alerts:
        yield from _alert(alert)
    for path in sorted((root / "deploy/monitoring").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield from _expression(f"{path.name}: {panel['title']}", target["expr"])


def _alert(alert: dict[str, Any]) -> Iterator[str]:
    name = alert["alert"]
    if alert.get("annotations", {}).get("runbook") != f"docs/runbook.md#{name.lower()}":
        yield f"{name}: its annotation runbook does not lead to its entry"
    if not alert.get("annotations", {}).get("summary"):
        yield f"{name}: it has no summary"
    if alert.get("labels", {}).get("severity") not in ("critical", "warning"):
        yield f"{name}: its severity is neither critical nor warning"
    yield from _expression(name, alert["expr"])


def _expression(where: str, expression: str) -> Iterator[str]:
    known = {
        f"{each.prometheus_name}{suffix}": each for each in metrics.ALL for suffix in _SUFFIXES.get(each.kind, ("",))
    }
    found = _METRIC.findall(expression)
    if not found:
        yield f"{where}: it asks for no metric of ours"
    labels = set(_OTHERS)
    for name, selector in found:
        if name not in known:
            yield f"{where}: there is no metric {name}"
            continue
        labels |= set(known[name].labels)
        for label in _LABEL.findall(re.sub(r'"[^"]*"', "", selector)):
            if label not in known[name].labels and label not in _OTHERS:
                yield f"{where}: {name} has no label {label}"
    for group in _BY.findall(expression):
        for label in filter(None, map(str.strip, group.split(","))):
            if label not in labels:
                yield f"{where}: nothing that it asks for has a label {label}"
    if expression.count("(") != expression.count(")"):
        yield f"{where}: its parentheses do not match"
