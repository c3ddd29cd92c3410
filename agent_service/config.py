"""The settings of the agent service: one frozen object, read once, from arguments and from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from runwire import settings
from runwire.identity.settings import AccessSettings
from runwire.settings import Names
from runwire.turns import weights_of

DEFAULT_FOLDER: Final = Path(".runwire")
DEFAULT_STORE: Final = f"sqlite:///{DEFAULT_FOLDER}/runs.db"
Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86400)]


def _are_weights(pairs: Names) -> Names:
    weights_of(pairs)
    return pairs


class Settings(AccessSettings):
    """Each setting is an environment variable too: `lease_seconds` is RUNWIRE_LEASE_SECONDS."""

    model_config = SettingsConfigDict(env_prefix="RUNWIRE_", frozen=True, extra="ignore", populate_by_name=True)

    listen: str = Field("127.0.0.1:50051", validation_alias=AliasChoices("listen", "RUNWIRE_AGENT_LISTEN"))
    """HOST:PORT; port 0 picks a free one."""
    store: str = DEFAULT_STORE
    """Where runs, logs and messages are kept; see runwire.connect."""
    agents: Names = ("agent_service.demo",)
    """Modules (`package.module`, or `package.module:attribute`) whose agents are served; comma-separated."""
    role: Literal["all", "serve", "work"] = "all"
    """`serve`: answers calls only. `work`: executes runs only (and answers health checks)."""
    model: str = ""
    """Model of the demonstration agent, as pydantic-ai names it; empty: a local one without a network."""

    processes: int = Field(1, ge=1, le=64)
    """Processes that serve and execute, all on the one port; what is said here of a process holds for each of them.
    Not for a store that only one process can open (memory://)."""
    concurrency: int = Field(100, ge=1, le=10_000)
    """Most runs at once in this process."""
    tenant_weights: Annotated[Names, AfterValidator(_are_weights)] = ()
    """Tenants whose queued runs are to have more than one turn at a time, such as `shop=3,lab=2`: workers take runs of
    all tenants in turn."""
    tenant_queued_runs: int = Field(100_000, ge=0, le=10_000_000)
    """How many runs of a tenant may wait for a worker, over all replicas; 0: any number. Counted once a second, so
    that it may be a few more; not counted without authentication."""
    lease_seconds: Seconds = 15.0
    """After this long without a sign of life a worker's runs are given to others."""
    max_losses: int = Field(5, ge=1, le=1000)
    """A run fails with `worker_lost` once so many workers in a row died of it while it was executed alone."""
    suspect_processes: int = Field(2, ge=0, le=16)
    """Most processes of its own that a worker starts to execute, one by one, runs whose workers died. 0: they are
    executed in the worker itself when nothing else is."""
    cancel_grace_seconds: Seconds = 5.0
    """Time a cancelled agent has to end by itself."""
    shutdown_grace_seconds: Seconds = 20.0
    """Time that runs have to finish after SIGTERM, before they are handed back."""
    retention_seconds: Seconds = 86_400.0
    """How long the log of a finished run is kept."""
    fork_retention_seconds: float = Field(86_400.0, ge=0, le=10 * 365 * 86400)
    """How long after its end a run can be forked, at most as long as its log is kept: so long its journal is kept too.
    0: the journal goes with the end, and the turns of a conversation once its agent does not remember them."""
    tombstone_seconds: Seconds = 30 * 86_400.0
    """How long after that it is still known that there was such a run."""
    max_sample_bytes: int = Field(512 * 1024, ge=1024, le=16 * 1024 * 1024)
    """A larger sample is sent to scorers by reference to the run."""

    max_streams: int = Field(20_000, ge=1)
    """Most WatchRun streams at once in this process."""
    stream_buffer_bytes: int = Field(256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Most bytes that this process keeps for its streams: half for tails and pages read ahead, half for frames that
    clients have not taken. Beyond it frames get smaller, and what was kept is read again."""
    claimed_bytes: int = Field(256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Once the runs that this process executes had so many bytes when they were claimed (input, journal), it claims no
    more until one of them ends or is suspended."""
    recollection_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """Most bytes of conversations that this process keeps in memory from turn to turn. What is not there is read."""
    stream_max_age_seconds: Seconds = 3_600.0
    """A stream is ended with STREAM_MAX_AGE after that; clients resume."""
    write_timeout_seconds: Seconds = 60.0
    """A client that does not read for this long is cut off with SLOW_CONSUMER."""
    check_seconds: Seconds = 3.0
    """How often live streams are compared with the log."""
    max_calls: int = Field(16, ge=1, le=10_000)
    """Most unary calls that are worked on at once; others wait, in turn between connections, and beyond 10,000 (5,000
    of a connection) they get TOO_MANY_REQUESTS. One that waits for the store does not count."""
    call_buffer_bytes: int = Field(256 * 1024 * 1024, ge=64 * 1024 * 1024)
    """Most bytes that this process keeps for unary calls: half for requests, half for answers that clients have not
    taken; a connection has at most a quarter of each. What does not fit waits."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics: str = ""
    """HOST:PORT at which metrics are shown in Prometheus' text; empty: nowhere."""
    metrics_export: Literal["", "otlp"] = ""
    """`otlp`: send metrics by OTLP; the usual OTEL_EXPORTER_OTLP_* variables say where to and by which protocol."""
    trace_export: Literal["", "otlp"] = ""
    """`otlp`: send spans of runs by OTLP, to where OTEL_EXPORTER_OTLP_* say."""
    trace_content: bool = False
    """Whether spans hold what was said: inputs, outputs, arguments and results of tools."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`text` is for people; `auto` is that on a terminal, and JSON elsewhere."""


def load(**given: Any) -> Settings:
    """Settings from what was given, else from the environment, else as above. Raises ConfigurationError, one line for
    all that is wrong."""
    return settings.load(Settings, given)
