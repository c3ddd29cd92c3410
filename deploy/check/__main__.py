"""`python -m deploy.check`: every check, and aloud what could not be checked. `--write` renews docs/operations.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.check import chart, compose, dockerfile, kubernetes, monitoring, operations, tools

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print("usage: python -m deploy.check [--write]", file=sys.stderr)
        return 2
    if arguments:
        operations.write(ROOT)
    checks: dict[str, Callable[[Path], Iterator[str]]] = {
        "Dockerfile, locks": dockerfile.check,
        "compose": compose.check,
        "Kubernetes, file by file": lambda root: kubernetes.check(root, rendered=False),
        "settings in docs/operations.md": operations.check,
        "alerts, boards, run book": monitoring.check,
        "Kubernetes, rendered by kustomize": lambda root: kubernetes.check(root, rendered=True),
        "Helm chart": chart.check,
    }
    failed = 0
    for name, check in checks.items():
        try:
            problems = list(check(ROOT))
        except tools.Missing as missing:
            print(f"SKIPPED {name}: {missing}")
            continue
        failed += bool(problems)
        print(f"{'FAILED' if problems else 'ok':<8}{name}")
        for problem in problems:
            print(f"        {problem}")
    print("SKIPPED building and running images: this check needs no engine and uses none")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
