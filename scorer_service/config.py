"""Every setting of the scorer service, read once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from runwire import settings
from runwire.identity.settings import AccessSettings
from runwire.settings import Names

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(AccessSettings):
    """Each comes from the command line, else from the environment variable RUNWIRE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="RUNWIRE_", frozen=True, extra="ignore", populate_by_name=True)

    store: str = "sqlite:///.runwire/runs.db"
    """Where the agent service's requests come from."""
    results: str = "sqlite:///.runwire/scores.db"
    """Where scorer runs are kept."""
    listen: str = Field("127.0.0.1:50052", validation_alias=AliasChoices("listen", "RUNWIRE_SCORER_LISTEN"))
    """HOST:PORT; port 0 picks a free one."""
    scorers: Names = ()
    """Modules with scorers of one's own."""
    scorer_role: Literal["all", "dispatch"] = "all"
    """`dispatch`: only push scorer runs to the executors of `scorer_push_targets`."""
    scorer_push_targets: str = ""
    """File of JSON lines: the executors that scorer runs are pushed to. See docs/external-scorers.md."""
    scorer_migrate: bool = False
    """Migrate a PostgreSQL database at start. (A SQLite file is always migrated.)"""

    scorer_concurrency: int = Field(default=256, ge=1, le=10_000)
    """Most scorer runs at once in this process."""
    scorer_processes: int = Field(default=2, ge=1, le=256)
    """Most processes for scorers with process=True."""
    scorer_timeout_seconds: Seconds = 120.0
    """Of one attempt."""
    scorer_retries: int = Field(default=4, ge=0, le=100)
    """How often an attempt that raised is repeated."""
    scorer_retry_first_seconds: NotNegative = 15.0
    """The longest pause before the first repetition; it doubles with each, and the pause is random up to it."""
    scorer_retry_max_seconds: NotNegative = 7200.0
    """Where that doubling ends."""
    scorer_wait_seconds: NotNegative = 86_400.0
    """How long a rate limit, or a provider that does not answer, is waited for, from the first time on; then the scorer
    run is FAILED. Waiting is no attempt."""
    scorer_lease_seconds: Seconds = 30.0
    """How long a worker may be silent until its work is given to another."""
    scorer_max_losses: int = Field(default=3, ge=1, le=100)
    """How many workers, or processes of scorers, may die on one scorer run until it is FAILED, worker_lost. The last of
    them has nothing else to do."""
    scorer_orphan_seconds: Seconds = 3600.0
    """How long a scorer run waits for a process that has its scorer in its version, after the last one said so."""
    scorer_grace_seconds: NotNegative = 10.0
    """How long work may continue after SIGTERM."""
    scorer_max_sample_bytes: int = Field(default=1024 * 1024, ge=1024)
    """Largest sample of RequestScorerRun."""
    scorer_max_fetched_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest sample that is scored, whether it came whole with its message, or by reference and is fetched from the
    agent service's store; larger ones are FAILED, sample_too_large."""

    scorer_memory_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    """Most memory for the samples that are being scored in this process; what does not fit waits."""
    scorer_keep_content: bool = False
    """Keep the prompts and raw answers of judges with their attempts. They may hold what users wrote."""

    judge_model: str = ""
    """pydantic-ai model string of the judges, such as openai:gpt-4o-mini."""
    judge_temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    """Unset: 0 for models that are known to take one, none for the others."""
    judge_timeout_seconds: Seconds = 60.0
    """Of one request to the judge model."""
    judge_rate: NotNegative = 0.0
    """Most attempts of judges a second, of all replicas together; 0: no limit but what the provider's answers say."""
    judge_burst: int = Field(default=10, ge=1)
    """How many of them may come at once."""

    scorer_retention_seconds: NotNegative = 30 * 86400.0
    """How long scorer runs are kept after their end; 0: for ever."""
    scorer_failed_retention_seconds: NotNegative = 90 * 86400.0
    """The same for those that are FAILED."""
    scorer_sample_retention_seconds: NotNegative = 30 * 86400.0
    """How long samples are kept after the end of the last scorer run of theirs; 0: as long as these."""

    scorer_export: Literal["", "otel"] = ""
    """`otel`: export results by OTLP; the usual OTEL_EXPORTER_OTLP_* variables say where to."""
    scorer_export_backlog: int = Field(default=100_000, ge=1)
    """Most results that wait for export; further ones are not exported."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics: str = ""
    """HOST:PORT at which metrics are shown in Prometheus' text; empty: nowhere."""
    metrics_export: Literal["", "otlp"] = ""
    """`otlp`: send metrics by OTLP; the usual OTEL_EXPORTER_OTLP_* variables say where to and by which protocol."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`text` is for people; `auto` is that on a terminal, and JSON elsewhere."""


def load(**given: Any) -> Settings:
    """The settings; `given` wins over the environment. Raises ConfigurationError, one line for all that is wrong."""
    return settings.load(Settings, given)
