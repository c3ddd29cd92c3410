"""The profile file: named places, each with the addresses of its services and what they ask for.

current = "staging"

[contexts.staging]
agent-address = "agents.staging.example.com:443"
scorer-address = "scorers.staging.example.com:443"
ca = "~/.config/runwire/staging-ca.pem"
token-file = "~/.config/runwire/staging-token"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runwire.errors import ConfigurationError

TEXTS: Final = ("agent-address", "scorer-address", "server-name", "token", "ca", "cert", "key", "token-file")
FLAGS: Final = ("tls",)


def path() -> Path:
    """Where the profile file is: RUNWIRE_CONFIG, else in the place for such files."""
    if given := os.environ.get("RUNWIRE_CONFIG"):
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "runwire" / "config.toml"


def load(name: str) -> Mapping[str, Any]:
    """What a context says: the current one, if `name` is empty; nothing, where there is none. Raises
    ConfigurationError."""
    file = path()
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {str(file)!r}: {error}") from None
    name = name or _text(content, "current", file)
    if not name:
        return {}
    contexts = content.get("contexts", {})
    found = contexts.get(name) if isinstance(contexts, dict) else None
    if not isinstance(found, dict):
        raise ConfigurationError(f"there is no context {name!r} in {str(file)!r}")
    for key, value in found.items():
        if key not in (*TEXTS, *FLAGS):
            raise ConfigurationError(
                f"{str(file)!r}: a context has no {key!r}; there are {', '.join((*TEXTS, *FLAGS))}"
            )
        if not isinstance(value, bool if key in FLAGS else str):
            raise ConfigurationError(f"{str(file)!r}: {key!r} must be {'true or false' if key in FLAGS else 'a text'}")
    return found


def _text(content: Mapping[str, Any], key: str, file: Path) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise ConfigurationError(f"{str(file)!r}: {key!r} must be a text")
    return value
