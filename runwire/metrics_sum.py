"""One page of metrics for several processes.

Counters and histograms are added up; what a process that is gone had counted stays in the sum, so that no sum ever goes
back. Gauges of a process (streams, running runs, memory) are added up too; what each of them sees of the one store, or
knows alike, is shown once, as the highest.
"""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, Self

from runwire import metrics
from runwire.telemetry import check_installed, serve_page

if TYPE_CHECKING:
    from prometheus_client import Metric

_SECONDS: Final = 2.0
"""A process that takes longer to answer is left out of the gauges, and counted as it last was."""
_ALIKE: Final = frozenset({"process_start_time_seconds", "process_max_fds", "process_virtual_memory_max_bytes"})
_CUMULATIVE: Final = ("counter", "histogram", "summary")

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Of a sample: its name and labels."""

logger = logging.getLogger("runwire.telemetry")


class SummedPage:
    """Shown at `listen` (HOST:PORT) while it is entered. Raises ConfigurationError."""

    def __init__(self, listen: str) -> None:
        check_installed()
        self._listen = listen
        self._lock = threading.Lock()
        self._pages: dict[int, str] = {}
        self._last: dict[int, dict[Key, float]] = {}
        """What each process had counted when it was last asked."""
        self._carried: dict[Key, float] = {}
        """What processes that are gone had counted."""
        self._families: dict[str, tuple[str, str]] = {}
        """Kind and documentation, by name."""
        self._owners: dict[Key, str] = {}
        """The family of each counted sample."""

    def __enter__(self) -> Self:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        self.address, self._close = serve_page(self._listen, registry)
        logger.info("metrics of all processes at http://%s/metrics", self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def shown(self, number: int, page: str) -> None:
        """A process shows its metrics at `page` (HOST:PORT)."""
        with self._lock:
            self._pages[number] = page

    def gone(self, number: int) -> None:
        """It shows them no more."""
        with self._lock:
            self._pages.pop(number, None)
            for key, value in self._last.pop(number, {}).items():
                self._carried[key] = self._carried.get(key, 0.0) + value

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would collect when the page is made."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Asks every process, at once. Called by threads of the page."""
        with self._lock:
            pages = dict(self._pages)
        with ThreadPoolExecutor(max(1, len(pages))) as pool:
            texts = dict(zip(pages, pool.map(_read, pages.values()), strict=True))
        with self._lock:
            gauges = self._take(texts, pages)
            totals = dict(self._carried)
            for counted in self._last.values():
                for key, value in counted.items():
                    totals[key] = totals.get(key, 0.0) + value
        yield from self._made(gauges, totals)

    def _take(self, texts: dict[int, str], pages: dict[int, str]) -> dict[Key, float]:
        """Keeps what was counted; the gauges, put together."""
        gauges: dict[Key, float] = {}
        for number, text in texts.items():
            if not text or self._pages.get(number) != pages[number]:
                continue  # it did not answer, or is another one by now
            counted: dict[Key, float] = {}
            for family in _parsed(text):
                self._families.setdefault(family.name, (family.type, family.documentation))
                for sample in family.samples:
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    self._owners[key] = family.name
                    if family.type in _CUMULATIVE:
                        counted[key] = sample.value
                    elif family.name in _ALIKE or family.name in _shared():
                        gauges[key] = max(gauges.get(key, sample.value), sample.value)
                    else:
                        gauges[key] = gauges.get(key, 0.0) + sample.value
            self._last[number] = counted
        return gauges

    def _made(self, gauges: dict[Key, float], totals: dict[Key, float]) -> Iterator[Metric]:
        from prometheus_client import Metric

        made: dict[str, Metric] = {}
        for key, value in (*totals.items(), *gauges.items()):
            name = self._owners[key]
            if name not in made:
                kind, text = self._families[name]
                made[name] = Metric(name, text, kind)
            made[name].add_sample(key[0], dict(key[1]), value)
        yield from made.values()


def _shared() -> frozenset[str]:
    return frozenset(each.prometheus_name for each in metrics.ALL if isinstance(each, metrics.Gauge) and each.shared)


def _parsed(text: str) -> Iterable[Any]:
    from prometheus_client.parser import text_string_to_metric_families

    families: Iterable[Any] = text_string_to_metric_families(text)
    return families


def _read(page: str) -> str:
    """Empty where it does not answer."""
    # HTTPException: it died within its answer.
    with (
        suppress(OSError, ValueError, HTTPException),
        urllib.request.urlopen(f"http://{page}/metrics", timeout=_SECONDS) as answer,
    ):
        return str(answer.read().decode())
    return ""
