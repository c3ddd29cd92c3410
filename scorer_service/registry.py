"""The scorers of a process: the prebuilt ones and those of the modules that it was told to load."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from runwire.errors import ConfigurationError
from runwire.redaction import redact
from scorer_service.scoring import Scorer


class Registry:
    """Scorers by id and version."""

    def __init__(self, scorers: Iterable[Scorer]) -> None:
        self._scorers: dict[str, dict[str, Scorer]] = {}
        for scorer in scorers:
            versions = self._scorers.setdefault(scorer.id, {})
            if versions.get(scorer.version, scorer) is not scorer:
                raise ConfigurationError(f"there are two scorers {scorer.id!r} with the version {scorer.version!r}")
            versions[scorer.version] = scorer
        self._newest = {scorer_id: versions[newest_of(versions)] for scorer_id, versions in self._scorers.items()}

    @property
    def ids(self) -> list[str]:
        """In order."""
        return sorted(self._scorers)

    @property
    def versions(self) -> dict[str, list[str]]:
        """Every version that is here, by scorer."""
        return {scorer_id: sorted(versions) for scorer_id, versions in sorted(self._scorers.items())}

    def __iter__(self) -> Iterator[Scorer]:
        """The newest version of each, in order of the id."""
        return (self.newest(scorer_id) for scorer_id in self.ids)

    def __contains__(self, scorer_id: str) -> bool:
        return scorer_id in self._scorers

    def newest(self, scorer_id: str) -> Scorer:
        """The version with the highest numbers: 10 is newer than 9, and 1.2 than 1.1. Raises KeyError."""
        return self._newest[scorer_id]

    def find(self, scorer_id: str, version: str = "") -> Scorer | None:
        """The scorer, by default the newest; None if it is not here."""
        if scorer_id not in self._scorers:
            return None
        return self._scorers[scorer_id].get(version) if version else self.newest(scorer_id)

    def problem(self, scorer_id: str, version: str = "") -> str:
        """Why `find` finds nothing, in words; empty if it finds something."""
        if scorer_id not in self._scorers:
            return f"there is no scorer {scorer_id!r} here"
        versions = self._scorers[scorer_id]
        if version and version not in versions:
            return f"scorer {scorer_id!r} has no version {version!r}; it has {', '.join(sorted(versions))}"
        return ""


def newest_of(versions: Iterable[str]) -> str:
    """The version with the highest numbers: 10 is newer than 9, and 1.2 than 1.1."""
    return max(versions, key=_version_key)


def _version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    parts: list[str] = re.findall(r"\d+|[^\d.]+", version)
    return tuple((1, int(part)) if part.isdecimal() else (0, part) for part in parts)


def load(modules: Sequence[str]) -> Registry:
    """The prebuilt scorers and those of `modules`, each `package.module` or `package.module:attribute`.

    A scorer of a module replaces a prebuilt one of the same id. Raises ConfigurationError for a module that cannot be
    imported or has none.
    """
    return with_prebuilt([scorer for name in modules for scorer in scorers_of(name)])


def with_prebuilt(own: Sequence[Scorer]) -> Registry:
    """These scorers and the prebuilt ones, each of which one of the same id replaces."""
    replaced = {scorer.id for scorer in own}
    return Registry([*(scorer for scorer in _prebuilt() if scorer.id not in replaced), *own])


def scorers_of(name: str) -> list[Scorer]:
    """The scorers of a module, or of the list that one of its attributes is."""
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the working directory, as `python -m` finds them
    try:
        module = importlib.import_module(module_name)
    except ConfigurationError as error:
        raise ConfigurationError(f"the scorers of {module_name!r} cannot be used: {error}") from None
    except Exception as error:
        raise ConfigurationError(
            redact(f"the scorers module {module_name!r} cannot be imported: {type(error).__name__}: {error}")
        ) from error
    if attribute:
        listed = getattr(module, attribute, None)
        found = [listed] if isinstance(listed, Scorer) else listed
        if not isinstance(found, (list, tuple)) or not found or not all(isinstance(each, Scorer) for each in found):
            raise ConfigurationError(f"{name!r} is no scorer, nor a list of scorers")
        return list(found)
    everything = [value for value in vars(module).values() if isinstance(value, Scorer)]
    if not everything:
        raise ConfigurationError(
            f"the module {module_name!r} has no scorers: make one with @scorer(id=..., version=...)"
        )
    return everything


def _prebuilt() -> list[Scorer]:
    from scorer_service.scorers import checks, code, judges

    found = [value for module in (code, checks, judges) for value in vars(module).values() if isinstance(value, Scorer)]
    for scorer in found:
        scorer.is_code = not scorer.judge
    return found


def prebuilt(scorer_id: str) -> Scorer:
    """A prebuilt scorer. Raises ConfigurationError."""
    registry = Registry(_prebuilt())
    scorer = registry.find(scorer_id)
    if scorer is None:
        raise ConfigurationError(f"there is no prebuilt scorer {scorer_id!r}; there are {', '.join(registry.ids)}")
    return scorer
