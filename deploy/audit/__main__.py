"""`python -m deploy.audit`: licences and advisories, and aloud what could not be learned. `--write` renews the page."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.audit import advisories, licences

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print("usage: python -m deploy.audit [--write]", file=sys.stderr)
        return 2
    if arguments:
        licences.write(ROOT)
    problems = list(licences.check(ROOT))
    _say("licences", problems)
    failed = bool(problems)
    for audited in advisories.audit(ROOT):
        failed |= bool(audited.problems)
        if audited.problems or not audited.unknown:
            _say(f"advisories of requirements/{audited.lock}.txt", audited.problems)
        if audited.unknown:
            print(f"SKIPPED {len(audited.unknown)} of requirements/{audited.lock}.txt were NOT audited, such as")
            print(f"        {audited.unknown[0]}")
    return 1 if failed else 0


def _say(what: str, problems: list[str] | tuple[str, ...]) -> None:
    print(f"{'FAILED' if problems else 'ok':<8}{what}")
    for problem in problems:
        print(f"        {problem}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
